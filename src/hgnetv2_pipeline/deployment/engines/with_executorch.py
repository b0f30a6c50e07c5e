"""ExecuTorch on the CPU: ``.pte`` programs for phones, run here by the same XNNPACK kernels."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from weakref import WeakSet

import numpy as np
import torch

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    Wish,
    check_classes,
)
from hgnetv2_pipeline.deployment.engines.device_file import open_device_file
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.processor import cpu_name

_METHOD = "forward"
_open: WeakSet[ExecuTorchEngine] = WeakSet()


class ExecuTorchEngine(Engine):
    """A program for one batch size, fp32 or int8.

    ``threads`` sets ExecuTorch's for the process, which has one pool for all programs: while
    another is open, other counts are refused (EngineUnavailable).
    """

    name = "executorch"

    def __init__(
        self, path: Path, card: ModelCard, *, threads: int = 0, named: bool = False
    ) -> None:
        from executorch.runtime import Runtime

        threads = _set_threads(threads)
        with foreign_file(path, WeightsError, "is no program that ExecuTorch runs"):
            self._program = Runtime.get().load_program(path.read_bytes())
            self._method = self._program.load_method(_METHOD)
            if self._method is None:
                raise ValueError(f"it has no method {_METHOD}")
            about = self._method.metadata
            shape = about.input_tensor_meta(0).sizes()
            outputs = about.output_tensor_meta(0).sizes()
        self.batch = shape[0]
        if tuple(shape[1:]) != (3, *card.preprocess.size) or len(outputs) != 2:
            raise WeightsError(
                f"{path} takes {list(shape)} and gives {list(outputs)}; its card says images "
                f"[{self.batch}, 3, {', '.join(map(str, card.preprocess.size))}] and logits"
            )
        check_classes(card, outputs[1], str(path), named=named)
        super().__init__(
            model=str(path),
            card=card,
            device=cpu_name(),
            threads=threads,
            versions={"executorch": version("executorch")},
        )
        _open.add(self)

    def close(self) -> None:
        """Give its memory back."""
        self._method = self._program = None
        _open.discard(self)

    def _run(self, images: np.ndarray) -> np.ndarray:
        with foreign_file(self.model, WeightsError, f"cannot answer {len(images)} images"):
            (logits,) = self._method.execute([torch.from_numpy(images)])
            return np.array(logits, np.float32)


def _set_threads(count: int) -> int:
    """Let the pool have ``count`` threads (0: as it is); how many it has."""
    from executorch.extension.pybindings import portable_lib

    now = int(portable_lib._threadpool_get_thread_count())
    if count not in (0, now):
        if _open:  # they would be left without their pool
            raise EngineUnavailable(
                f"executorch: a program with {now} threads is open in this process, and {count} "
                "were asked for; give all the same count (threads)"
            )
        portable_lib._unsafe_reset_threadpool(count)
        now = count
    return now


def find_engine(name: str) -> EngineState:
    """ExecuTorch's version on this processor."""
    return EngineState(name, version("executorch"), cpu_name())


def open_engine(name: str, wish: Wish) -> Engine:
    """ExecuTorch on the ``.pte`` file of ``wish``."""
    path, card = open_device_file(wish)
    return ExecuTorchEngine(path, card, threads=wish.threads, named=wish.classes is not None)
