"""From samples to uint8 batches, in worker processes or in the caller's own thread.

A batch is a pure function of (seed, step): workers are handed step numbers and make whole batches,
so that the bytes do not depend on how many workers there are or on where a run resumed. Pixels stay
uint8 until ``normalise`` on the device. An image that cannot be read goes to the ledger and is left
out; it is never replaced by another picture under its label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from hgnetv2_pipeline.data.augment import Augment
from hgnetv2_pipeline.data.decode import MAX_PIXELS, decode_image
from hgnetv2_pipeline.data.index import read_bytes
from hgnetv2_pipeline.data.keyed import epoch_order, keyed_rng
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.errors import DataError, ParameterError

_TIMEOUT_SECONDS = 120.0
_PREFETCH = 4


@dataclass(frozen=True)
class Batch:
    """Images of one step.

    Attributes:
        images: uint8 [N, 3, H, W], channels_last.
        labels: int64 [n_real]; -1 where an image has no label.
        keys: n_real keys.
        step: number of the training step, or of the evaluation batch from 0.
        n_real: how many of the N images count; the rest (``pad=True``) repeats the last one.
    """

    images: torch.Tensor
    labels: torch.Tensor
    keys: list[str]
    step: int
    n_real: int

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to a GPU run in the background."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


class _Source:
    """The columns of a frame of samples that a worker needs, kept outside Python objects.

    Arrow and NumPy memory is shared with forked workers; a list of a million strings would be
    copied page by page as reference counts change.
    """

    def __init__(self, samples: pd.DataFrame, root: Path) -> None:
        import pyarrow as pa

        if len(samples) == 0:
            raise DataError("0 samples; nothing to load")
        self.root = Path(root)
        self.keys = pa.array(samples["key"], pa.large_string())
        self.paths = pa.array(samples["path"], pa.large_string())
        self.offsets = samples["offset"].to_numpy(np.int64)
        self.lengths = samples["length"].to_numpy(np.int64)
        self.labels = samples["label"].fillna(-1).to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> bytes:
        place = (self.paths[row].as_py(), int(self.offsets[row]), int(self.lengths[row]))
        return read_bytes(place, self.root)


@dataclass(frozen=True)
class _Made:
    """What a worker sends: a batch, and the images that could not be read."""

    batch: Batch | None
    bad: list[tuple[str, str]]

    def pin_memory(self) -> _Made:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _Maker(Protocol):
    def make(self, step: int) -> _Made:
        """The batch of a step."""


class _TrainMaker:
    """Makes training batches: the order of epochs, one after the other, cut in equal pieces."""

    def __init__(
        self,
        source: _Source,
        transform: Augment,
        seed: int,
        batch_size: int,
        rank: int,
        world_size: int,
        weights: npt.NDArray[np.float64] | None,
        stop_after: int,
        max_pixels: int,
    ) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.bounds = None if weights is None else np.cumsum(weights) / weights.sum()
        self.stop_after, self.max_pixels = stop_after, max_pixels
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            n = len(self.source)
            # A batch may span the end of an epoch, so the one before is kept as well.
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            if self.bounds is None:
                self._orders[epoch] = epoch_order(n, self.seed, epoch)
            else:
                draws = keyed_rng(self.seed, epoch, "balanced draws").random(n)
                picks = np.searchsorted(self.bounds, draws, side="right")
                self._orders[epoch] = np.minimum(picks, n - 1).astype(np.int64)
        return self._orders[epoch]

    def _positions(self, step: int) -> Iterator[int]:
        """Places in the endless order: this rank's of the step, then its of the steps after.

        The latter fill the places of unreadable images; they come again in their own step, so that
        a step never depends on what happened in the steps before it.
        """
        while True:
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)
            step += 1

    def make(self, step: int) -> _Made:
        n = len(self.source)
        views: list[npt.NDArray[np.uint8]] = []
        rows: list[int] = []
        keys: list[str] = []
        bad: dict[str, str] = {}
        for position in self._positions(step):
            epoch, place = divmod(position, n)
            row = int(self._order(epoch)[place])
            key = self.source.keys[row].as_py()
            if key in bad:
                continue
            try:
                image = decode_image(self.source.read(row), self.max_pixels)
            except DataError as error:
                bad[key] = str(error)
                if len(bad) > self.stop_after or len(bad) == n:
                    return _Made(None, list(bad.items()))
                continue
            # Balanced draws may show an image twice in an epoch: each time another view.
            name = key if self.bounds is None else f"{key}@{place}"
            views.append(self.transform(image, keyed_rng(self.seed, epoch, name)))
            rows.append(row)
            keys.append(key)
            if len(rows) == self.batch_size:
                break
        labels = self.source.labels[rows]
        return _Made(_batch(views, labels, keys, step, self.batch_size), list(bad.items()))


class _EvalMaker:
    """Makes evaluation batches: the samples in their order, each once."""

    def __init__(self, source: _Source, preprocess: Preprocess, batch_size: int, pad: bool) -> None:
        self.source, self.preprocess = source, preprocess
        self.batch_size, self.pad = batch_size, pad

    def make(self, step: int) -> _Made:
        views: list[npt.NDArray[np.uint8]] = []
        rows: list[int] = []
        keys: list[str] = []
        bad: list[tuple[str, str]] = []
        start = step * self.batch_size
        for row in range(start, min(start + self.batch_size, len(self.source))):
            key = self.source.keys[row].as_py()
            try:
                views.append(self.preprocess.image(self.source.read(row)))
            except DataError as error:
                bad.append((key, str(error)))
                continue
            rows.append(row)
            keys.append(key)
        if not rows:
            return _Made(None, bad)
        size = self.batch_size if self.pad else len(rows)
        return _Made(_batch(views, self.source.labels[rows], keys, step, size), bad)


def _batch(
    views: list[npt.NDArray[np.uint8]],
    labels: npt.NDArray[np.int64],
    keys: list[str],
    step: int,
    size: int,
) -> Batch:
    pixels = np.stack(views + [views[-1]] * (size - len(views)))
    # [N, H, W, 3] in memory, seen as [N, 3, H, W]: that is channels_last.
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Batch(images, torch.from_numpy(labels), keys, step, len(views))


class _Steps(Dataset[_Made]):
    """Step numbers as a map-style dataset for torch's DataLoader."""

    def __init__(self, maker: _Maker, start: int, count: int) -> None:
        self.maker, self.start, self.count = maker, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> _Made:
        return self.maker.make(self.start + index)


def train_batches(
    samples: pd.DataFrame,
    root: Path,
    *,
    transform: Augment,
    seed: int,
    batch_size: int,
    start_step: int,
    steps: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    weights: npt.ArrayLike | None = None,
    ledger: Ledger,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Batch]:
    """Batches of steps ``start_step`` to ``start_step + steps - 1``, endless over epochs.

    Args:
        samples: frame of samples, see ``index.SCHEMA``; unlabelled images have label -1.
        root: what the samples' paths are relative to.
        transform: from ``make_augment``.
        seed: of the order and of the views.
        batch_size: images a step of this process; every batch is full.
        workers: processes that decode; 0 decodes in the caller's thread.
        rank, world_size: this process and their number; step ``s`` of all of them together takes
            ``world_size * batch_size`` images of the order.
        weights: chance of each sample to be drawn (``sampling_weights``); drawn with replacement.
        ledger: receives unreadable images; the next images of the order fill their places.
        max_pixels: an image with more is unreadable.

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
    maker = _TrainMaker(
        source=_Source(samples, root),
        transform=transform,
        seed=seed,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        weights=chances,
        stop_after=ledger.allowed,
        max_pixels=max_pixels,
    )
    for made in _run(maker, start_step, steps, workers, ledger):
        if made.batch is None:
            key, reason = made.bad[0]
            raise DataError(
                f"not one of {len(samples):,} images can be read; {key}: {reason}; restore them"
            )
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
) -> Iterator[Batch]:
    """All samples in their order, each once, in the evaluation view.

    An unreadable image is left out of its batch and goes to the ledger. With ``pad`` every batch
    has ``batch_size`` images, of which the first ``n_real`` count; labels and keys are not padded.

    Raises:
        DataError: there are no samples, or more are unreadable than the ledger allows.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size {batch_size}: a whole number from 1 up")
    maker = _EvalMaker(_Source(samples, root), preprocess, batch_size, pad)
    for made in _run(maker, 0, -(-len(samples) // batch_size), workers, ledger):
        if made.batch is not None:
            yield made.batch


def _run(maker: _Maker, start: int, count: int, workers: int, ledger: Ledger) -> Iterator[_Made]:
    """What the maker makes; its bad images are in the ledger, which may stop the run."""
    for made in _made(maker, start, count, workers):
        for key, reason in made.bad:
            ledger.quarantine(key, reason)
        if made.bad:
            ledger.check()
        yield made


def _made(maker: _Maker, start: int, count: int, workers: int) -> Iterator[_Made]:
    if workers == 0:
        for step in range(start, start + count):
            yield maker.make(step)
        return
    # A process that has a CUDA context must not be forked.
    context = "forkserver" if torch.cuda.is_initialized() else None
    loader: Any = DataLoader(
        _Steps(maker, start, count),
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=_PREFETCH,
        timeout=_TIMEOUT_SECONDS,
        pin_memory=torch.cuda.is_initialized(),
        worker_init_fn=_one_thread,
        multiprocessing_context=context,
    )
    yield from loader


def _one_thread(worker: int) -> None:
    """Workers share the CPUs among themselves: one thread each."""
    torch.set_num_threads(1)


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
    shape = (1, 3, 1, 1)
    centre = torch.tensor(mean, dtype=torch.float32, device=images.device).view(shape)
    spread = torch.tensor(std, dtype=torch.float32, device=images.device).view(shape)
    return images.to(torch.float32).div_(255).sub_(centre).div_(spread).to(dtype)
