"""What a device does to batches, beside the training: in a thread and on a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import torch

from hgnetv2_pipeline.input.batches import WorkerBatch
from hgnetv2_pipeline.input.deferred_view import DeviceOperations
from hgnetv2_pipeline.input.device_operations import augment

# Batches that are made or ready while the training is busy with an earlier one.
_AHEAD = 2


class Prefetcher:
    """Has ``finish`` done to every batch, two ahead of the one that is asked for."""

    def __init__(self, device: torch.device, finish: Callable[[WorkerBatch], WorkerBatch]) -> None:
        self.device, self.finish = device, finish
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, every: Iterable[WorkerBatch]) -> Iterator[WorkerBatch]:
        """Each of ``every`` in its turn, its images ready on the device."""
        waiting: deque[Future[WorkerBatch]] = deque()
        with ThreadPoolExecutor(1, "device-input") as pool:
            for made in every:
                waiting.append(pool.submit(self._finished, made))
                if len(waiting) > _AHEAD:
                    yield self._handed_over(waiting.popleft().result())
            while waiting:
                yield self._handed_over(waiting.popleft().result())

    def _finished(self, made: WorkerBatch) -> WorkerBatch:
        with torch.no_grad(), torch.cuda.stream(self.stream) if self.stream else nullcontext():
            made = self.finish(made)
            if self.stream is not None:
                # Waited for without spinning: the cores are the workers'.
                done = torch.cuda.Event(blocking=True)
                done.record()
                done.synchronize()
        return made

    def _handed_over(self, made: WorkerBatch) -> WorkerBatch:
        """``made``, its memory not to be used again before the caller's stream is done with it."""
        if self.stream is not None and made.batch is not None:
            made.batch.images.record_stream(torch.cuda.current_stream(self.device))
        return made


class CopyToDevice:
    """Nothing but the copy to the device, which thus takes no time from the training's stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, made: WorkerBatch) -> WorkerBatch:
        """``made`` with its images on the device."""
        if made.batch is None:
            return made
        images = made.batch.images.to(self.device, non_blocking=True)
        return replace(made, batch=replace(made.batch, images=images))


class OperateOnDevice(CopyToDevice):
    """RandAugment on the device, of views that workers cut, resized and flipped."""

    def __init__(self, view: DeviceOperations) -> None:
        if not view.view.operates:
            raise ValueError("a view without operations leaves nothing to do")
        super().__init__(view.device)
        self.fill = view.view.fill

    def __call__(self, made: WorkerBatch) -> WorkerBatch:
        """``made`` with its images on the device and their operations done."""
        made = super().__call__(made)
        if made.batch is None:
            return made
        images = augment(made.batch.images, made.operations, self.fill)
        return replace(made, batch=replace(made.batch, images=images), operations=[])
