"""From samples to uint8 batches, in worker processes or in the caller's own thread.

A batch is a pure function of (seed, step): workers are handed step numbers and make whole batches,
so that the bytes do not depend on how many workers there are or on where a run resumed. Who makes
batches of another kind has them made by ``iterate_batches`` too, with the same care. Pixels stay
uint8 until ``normalise`` on the device. An image that cannot be read goes to the ledger and is left
out; it is never replaced by another picture under its label.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input.augment import Augment
from hgnetv2_pipeline.input.batches import (
    Batch,
    EvalMaker,
    SampleReader,
    TrainMaker,
    ViewMaker,
    WorkerBatch,
)
from hgnetv2_pipeline.input.deferred_view import DeviceOperations, DeviceView
from hgnetv2_pipeline.input.teacher_logits import ReplayedView
from hgnetv2_pipeline.input.workers import M, Maker, from_workers


def train_batches(
    samples: pd.DataFrame,
    root: Path,
    *,
    transform: Augment | DeviceView | DeviceOperations | ReplayedView,
    seed: int,
    batch_size: int,
    start_step: int,
    steps: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    weights: npt.ArrayLike | None = None,
    ledger: Ledger,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Batches of steps ``start_step`` to ``start_step + steps - 1``, endless over epochs.

    Args:
        samples: frame of samples, see ``index.SCHEMA``; unlabelled images have label -1.
        root: what the samples' paths are relative to.
        transform: from ``make_augment``, or that ``on_device``: then workers leave its part of the
            work undone, and the images of the batches are finished and kept on its device. Or
            ``ReplayedView``: views that a teacher saw, so that batches bring its answers.
        seed: of the order and of the views (of ``ReplayedView``: of the order).
        batch_size: images per step of this process; every batch is full.
        workers: processes that decode; 0 decodes in the caller's thread.
        rank, world_size: this process and their number; step ``s`` of all of them together takes
            ``world_size * batch_size`` images of the order.
        weights: chance of each sample to be drawn (``sampling_weights``); drawn with replacement.
        ledger: receives unreadable images; the next images of the order fill their places.
        device: a GPU has the images copied to it beside the training; others have no effect.

    Raises:
        DataError: there are no samples, or more are unreadable than the ledger allows.
    """
    if batch_size < 1 or steps < 0 or start_step < 0 or not 0 <= rank < world_size:
        raise ParameterError(
            f"batch_size {batch_size}, steps {steps}, start_step {start_step}, rank {rank} of "
            f"{world_size}: batch_size from 1, steps from 0, rank below world_size"
        )
    chances = None
    if weights is not None:
        chances = np.asarray(weights, np.float64)
        good = chances.shape == (len(samples),) and np.isfinite(chances).all()
        if not good or chances.min() < 0 or chances.sum() <= 0:
            raise ParameterError("weights: one finite number from 0 for each sample, not all 0")
    maker = TrainMaker(
        reader=SampleReader(samples, root),
        transform=transform,
        seed=seed,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        weights=chances,
        stop_after=ledger.allowed,
    )
    finish = _finisher(transform, maker, device)
    for made in iterate_batches(maker, start_step, steps, workers, ledger, finish):
        if made.batch is None:
            key, reason = made.bad[0]
            raise DataError(
                f"not one of {len(samples):,} images can be read; {key}: {reason}; restore them"
            )
        yield made.batch


def _finisher(
    transform: Augment | DeviceView | DeviceOperations | ReplayedView,
    maker: TrainMaker,
    device: torch.device | None,
) -> Callable[[Iterator[WorkerBatch]], Iterator[WorkerBatch]] | None:
    """What is done to the workers' batches in this process, beside the training."""
    from hgnetv2_pipeline.input.prefetch import CopyToDevice, OperateOnDevice, Prefetcher

    if isinstance(transform, DeviceView):
        from hgnetv2_pipeline.input.device_views import DeviceInput

        return Prefetcher(transform.device, DeviceInput(transform, maker))
    if isinstance(transform, DeviceOperations):
        return Prefetcher(transform.device, OperateOnDevice(transform))
    if device is not None and device.type == "cuda":
        return Prefetcher(device, CopyToDevice(device))
    return None


def view_batches(
    samples: pd.DataFrame,
    root: Path,
    *,
    view: Augment,
    seed: int,
    views: int,
    images: int,
    workers: int,
    ledger: Ledger,
) -> Iterator[Batch]:
    """Views 0 to ``views - 1`` of all samples in their order, ``images`` samples a batch.

    View v of a sample is the one of the generator keyed by (seed, v, key). The layout of a batch
    is described at ``ViewMaker``; a batch of unreadable images alone is left out.

    Raises:
        DataError: there are no samples, or more are unreadable than the ledger allows.
    """
    maker = ViewMaker(SampleReader(samples, root), view, seed, views, images)
    for made in iterate_batches(maker, 0, -(-len(samples) // images), workers, ledger):
        if made.batch is not None:
            yield made.batch


def eval_batches(
    samples: pd.DataFrame,
    root: Path,
    *,
    preprocess: Preprocess,
    batch_size: int,
    workers: int,
    ledger: Ledger,
    pad: bool = False,
    fast: bool = False,
) -> Iterator[Batch]:
    """All samples in their order, each once, in the evaluation view.

    With ``fast`` the view is resized in coarser fixed point (``fast.evaluation_view``, most pixels
    equal, at most two levels off): for quick looks, not for numbers that are published.

    An unreadable image is left out of its batch and goes to the ledger. With ``pad`` every batch
    has ``batch_size`` images, of which the first ``n_real`` count; labels and keys are not padded.

    Raises:
        DataError: there are no samples, or more are unreadable than the ledger allows.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size {batch_size}: a whole number from 1 up")
    maker = EvalMaker(SampleReader(samples, root), preprocess, batch_size, pad, fast)
    for made in iterate_batches(maker, 0, -(-len(samples) // batch_size), workers, ledger):
        if made.batch is not None:
            yield made.batch


def iterate_batches(
    maker: Maker[M],
    start: int,
    count: int,
    workers: int,
    ledger: Ledger,
    finish: Callable[[Iterator[M]], Iterator[M]] | None = None,
) -> Iterator[M]:
    """What ``maker`` makes of steps ``start`` to ``start + count - 1``, in their order.

    ``workers`` processes make it, 0: the caller's thread; ``finish`` is what this process does to
    it. What could not be read goes to ``ledger``, which may stop the run.

    Raises:
        DataError: a worker died or hangs (with its image), or more is unreadable than allowed.
        DiskFullError: there is no room for the batches in shared memory.
    """
    every = from_workers(maker, start, count, workers)
    for made in every if finish is None else finish(every):
        for key, reason in made.bad:
            ledger.quarantine(key, reason)
        if made.bad:
            ledger.check()
        yield made


def normalise(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``(x / 255 - mean) / std`` of uint8 [N, 3, H, W] on its own device, in ``dtype``.

    Computed in float32, in the order of ``Preprocess.normalize``, with the same bits on a CPU; the
    memory format is kept.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ParameterError(
            f"normalise got {images.dtype} {tuple(images.shape)}; it takes uint8 [N, 3, H, W]"
        )
    centre, spread = (_constant(tuple(values), images.device) for values in (mean, std))
    return images.to(torch.float32).div_(255).sub_(centre).div_(spread).to(dtype)


View = Callable[[torch.Tensor], torch.Tensor]
"""From a batch as loaded (uint8) to what one network takes; every network brings its own."""


def normalised_view(preprocess: Preprocess, *, channels_last: bool) -> View:
    """uint8 images [N, 3, H, W] as a network wants them: float32 by its own mean and deviation."""
    layout = memory_format(channels_last)

    def view(images: torch.Tensor) -> torch.Tensor:
        x = normalise(images, preprocess.mean, preprocess.std, torch.float32)
        return x.contiguous(memory_format=layout)

    return view


def memory_format(channels_last: bool) -> torch.memory_format:
    """torch's name for the order of a tensor's values in memory."""
    return torch.channels_last if channels_last else torch.contiguous_format


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 [1, 3, 1, 1], made once: a copy to a GPU waits until all before it is done."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
