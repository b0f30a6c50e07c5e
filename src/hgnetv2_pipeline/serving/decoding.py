"""Pictures of requests decoded in threads, a bounded number at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.serving.limits import Limits, Overloaded

if TYPE_CHECKING:
    import numpy as np

    from hgnetv2_pipeline.data.preprocess import Preprocess


class Decoders:
    """Threads that turn the bytes of pictures into the input of a network, few at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._busy = limits, 0
        self._pool = ThreadPoolExecutor(min(available_cpus(), 4), thread_name_prefix="decode")

    def require_room(self) -> None:
        """Raise Overloaded where as many images are being decoded as may be."""
        if self._busy >= self._limits.decoding:
            raise Overloaded(f"{self._busy} images are being decoded")

    async def decode(self, preprocess: Preprocess, files: list[bytes]) -> list[np.ndarray | str]:
        """float32 [3, H, W] of each file, or the reason why there is none."""
        self.require_room()
        preprocess = replace(preprocess, max_pixels=min(preprocess.max_pixels, self._limits.pixels))
        self._busy += len(files)
        try:
            loop = asyncio.get_running_loop()
            made = [loop.run_in_executor(self._pool, _load, preprocess, file) for file in files]
            return await asyncio.gather(*made)
        finally:
            self._busy -= len(files)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _load(preprocess: Preprocess, content: bytes) -> np.ndarray | str:
    try:
        return preprocess(content)
    except DataError as error:
        return " ".join(str(error).split())
