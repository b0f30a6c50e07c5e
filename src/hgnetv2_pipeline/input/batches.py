"""How one batch is made: a pure function of (seed, step), or of a place in the evaluation order.

The makers run in worker processes; they hold a table of samples and no state that a step changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from hgnetv2_pipeline.data.index import decoding_of, read_bytes
from hgnetv2_pipeline.data.lists.multi_label import is_multi_label, label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import epoch_order, keyed_rng
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input.augment import TOGETHER, Augment, begin
from hgnetv2_pipeline.input.deferred_view import (
    DeferredView,
    DeviceOperations,
    DeviceView,
    UnfinishedView,
    pack,
)
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.randaugment import Choice
from hgnetv2_pipeline.input.teacher_logits import Records, ReplayedView


@dataclass(frozen=True)
class Answers:
    """What a teacher said of a batch, as ``teacher_logits`` stores it.

    Attributes:
        ids: int64 [N, K]: the best classes, best first.
        logps: float16 or float32 [N, K]: logarithms of their probabilities.
    """

    ids: torch.Tensor
    logps: torch.Tensor

    @classmethod
    def of(cls, records: Records) -> Answers:
        """From records [N]."""
        ids = torch.from_numpy(records["ids"].astype(np.int64))
        return cls(ids, torch.from_numpy(records["logps"].copy()))

    def pin_memory(self) -> Answers:
        return Answers(self.ids.pin_memory(), self.logps.pin_memory())

    def chunk(self, parts: int) -> list[Answers]:
        """Those of the images in each of ``parts`` parts of the batch, as ``Tensor.chunk`` cuts."""
        pieces = zip(self.ids.chunk(parts), self.logps.chunk(parts), strict=True)
        return [Answers(ids, logps) for ids, logps in pieces]

    def to(self, device: torch.device) -> Answers:
        """The same on ``device``."""
        return Answers(
            self.ids.to(device, non_blocking=True), self.logps.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Batch:
    """Images of one step.

    Attributes:
        images: uint8 [N, 3, H, W], channels_last.
        labels: int64 [n_real]; -1 where an image has no label. Of samples with several labels
            uint8 [n_real, classes] of 0 and 1.
        keys: n_real keys.
        step: number of the training step, or of the evaluation batch from 0.
        n_real: how many of the N images count; the rest (``pad=True``) repeats the last one.
        answers: the teacher's of the n_real images, where they are stored.
    """

    images: torch.Tensor
    labels: torch.Tensor
    keys: list[str]
    step: int
    n_real: int
    answers: Answers | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        answers = 0 if self.answers is None else self.answers.ids.nbytes + self.answers.logps.nbytes
        return int(self.images.nbytes + self.labels.nbytes + answers)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to a GPU run in the background."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            answers=None if self.answers is None else self.answers.pin_memory(),
        )


class SampleReader:
    """The columns of a frame of samples that a worker needs, kept outside Python objects.

    Arrow and NumPy memory is shared with forked workers; a list of a million strings would be
    copied page by page as reference counts change.
    """

    def __init__(self, samples: pd.DataFrame, root: Path) -> None:
        import pyarrow as pa

        if len(samples) == 0:
            raise DataError("0 samples; nothing to load")
        self.root = Path(root)
        self.decoding = decoding_of(samples)
        self.keys = pa.array(samples["key"], pa.large_string())
        self.paths = pa.array(samples["path"], pa.large_string())
        self.offsets = samples["offset"].to_numpy(np.int64)
        self.lengths = samples["length"].to_numpy(np.int64)
        self.labels: npt.NDArray[Any]
        if is_multi_label(samples):
            self.labels = label_matrix(samples)
        elif "label" in samples.columns:
            self.labels = samples["label"].fillna(-1).to_numpy(np.int64)
        else:
            self.labels = np.full(len(samples), -1, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def note_row(self, row: int) -> None:
        """Called before an image is read or decoded; ``loader`` has it noted."""

    def place(self, row: int) -> dict[str, Any]:
        """Where an image is, as ``index.read_bytes`` takes it."""
        return {
            "key": self.keys[row].as_py(),
            "path": self.paths[row].as_py(),
            "offset": int(self.offsets[row]),
            "length": int(self.lengths[row]),
        }

    def read(self, row: int) -> bytes:
        self.note_row(row)
        return read_bytes(self.place(row), self.root)

    def image(self, row: int) -> LazyImage:
        """The image of a row, to be decoded as its index says; DataError as ``LazyImage``."""
        return LazyImage(self.read(row), self.decoding)


@dataclass(frozen=True)
class WorkerBatch:
    """What a worker sends: a batch, and the images that could not be read.

    With a ``DeviceView`` the batch's images are bytes [B] until ``device_views.DeviceInput`` turns
    them and ``drawn``, one entry per image, into pixels. With ``DeviceOperations`` they lack
    ``operations``, one entry per image, until ``prefetch.OperateOnDevice`` has done them.
    """

    batch: Batch | None
    bad: list[tuple[str, str]]
    drawn: list[DeferredView] = field(default_factory=list)
    operations: list[list[Choice]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the batch's tensors."""
        return 0 if self.batch is None else self.batch.nbytes

    def pin_memory(self) -> WorkerBatch:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


# Row, key, what is left to be done for its view, the teacher's stored answer.
_Begun = tuple[
    int, str, Callable[[], npt.NDArray[np.uint8] | DeferredView | UnfinishedView], Records | None
]


class TrainMaker:
    """Makes training batches: the order of epochs, one after the other, cut in equal pieces."""

    def __init__(
        self,
        reader: SampleReader,
        transform: Augment | DeviceView | DeviceOperations | ReplayedView,
        seed: int,
        batch_size: int,
        rank: int,
        world_size: int,
        weights: npt.NDArray[np.float64] | None,
        stop_after: int,
    ) -> None:
        self.reader, self.transform, self.seed = reader, transform, seed
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.bounds = None if weights is None else np.cumsum(weights) / weights.sum()
        self.stop_after = stop_after
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        order = self._orders.get(epoch)
        if order is None:
            n = len(self.reader)
            if self.bounds is None:
                order = epoch_order(n, self.seed, epoch)
            else:
                draws = keyed_rng(self.seed, epoch, "balanced draws").random(n)
                picks = np.searchsorted(self.bounds, draws, side="right")
                order = np.minimum(picks, n - 1).astype(np.int64)
            # A batch may span the end of an epoch, so the one before is kept as well. A new
            # dictionary: the thread of ``DeviceInput`` may be reading this one.
            kept = {e: known for e, known in self._orders.items() if e >= epoch - 1}
            self._orders = {**kept, epoch: order}
        return order

    def _positions(self, step: int) -> Iterator[int]:
        """Places in the endless order: this rank's of the step, then its of the steps after.

        The latter fill the places of unreadable images; they come again in their own step, so that
        a step never depends on what happened in the steps before it.
        """
        while True:
            start = (step * self.world_size + self.rank) * self.batch_size
            yield from range(start, start + self.batch_size)
            step += 1

    def make(self, step: int, known_bad: Mapping[str, str] | None = None) -> WorkerBatch:
        """The batch of a step; ``known_bad`` (key to reason) are left out unread."""
        views: list[npt.NDArray[np.uint8]] = []
        drawn: list[DeferredView] = []
        operations: list[list[Choice]] = []
        records: list[Records] = []
        rows: list[int] = []
        keys: list[str] = []
        bad = dict(known_bad or {})
        positions = self._positions(step)
        while len(rows) < self.batch_size:
            begun = self._begin(positions, min(TOGETHER, self.batch_size - len(rows)), bad)
            if begun is None:
                return WorkerBatch(None, list(bad.items()))
            for row, key, finish, record in begun:
                self.reader.note_row(row)
                try:
                    view = finish()
                except DataError as error:
                    bad[key] = str(error)
                    continue
                if isinstance(view, DeferredView):
                    drawn.append(view)
                elif isinstance(view, UnfinishedView):
                    views.append(view.pixels)
                    operations.append(view.operations)
                else:
                    views.append(view)
                if record is not None:
                    records.append(record)
                rows.append(row)
                keys.append(key)
        labels = self.reader.labels[rows]
        if drawn:
            data, rest = pack(drawn)
            batch = Batch(data, torch.from_numpy(labels), keys, step, len(rows))
            return WorkerBatch(batch, list(bad.items()), rest)
        batch = _batch(views, labels, keys, step, self.batch_size)
        if records:
            batch = replace(batch, answers=Answers.of(np.stack(records)))
        return WorkerBatch(batch, list(bad.items()), operations=operations)

    def _begin(
        self, positions: Iterator[int], count: int, bad: dict[str, str]
    ) -> list[_Begun] | None:
        """The next ``count`` images, read and drawn; None once too many are ``bad``."""
        n = len(self.reader)
        begun: list[_Begun] = []
        for position in positions:
            if len(bad) > self.stop_after or len(bad) == n:
                return None
            epoch, place = divmod(position, n)
            row = int(self._order(epoch)[place])
            key = self.reader.keys[row].as_py()
            if key in bad:
                continue
            try:
                picture = self.reader.image(row)
                record = None
                rng = keyed_rng(self.seed, epoch, self._name(key, place))
                if not isinstance(self.transform, ReplayedView):
                    finish = begin(self.transform, picture, rng)
                elif self.transform.clean:
                    finish, record = self.transform.draw(picture, row, rng)
                else:
                    number = self._view_number(self.transform.store.views, epoch, place, key)
                    finish, record = self.transform.begin(picture, key, row, number)
            except DataError as error:
                bad[key] = str(error)
                continue
            begun.append((row, key, finish, record))
            if len(begun) == count:
                break
        return begun

    def _name(self, key: str, place: int) -> str:
        """Balanced draws may show an image twice in an epoch: each time another view."""
        return key if self.bounds is None else f"{key}@{place}"

    def _view_number(self, views: int, epoch: int, place: int, key: str) -> int:
        """Which stored view of an image an epoch shows: each in its turn, or a drawn one."""
        if self.bounds is None:
            return epoch % views
        return int(keyed_rng(self.seed, epoch, self._name(key, place)).integers(views))


class ViewMaker:
    """Makes batches of ``views`` views of each of ``images`` samples, for a teacher to answer.

    Batch n holds samples n * images and following, all views of the first, then of the second.
    Batches are of one size, so that an answer does not depend on the other images; black takes
    the place of an image that is missing or cannot be read: its key is missing in ``keys``, and
    ``labels`` are the places (of a sample in its batch) of those that are there.
    """

    def __init__(
        self, reader: SampleReader, view: Augment, seed: int, views: int, images: int
    ) -> None:
        self.reader, self.view, self.seed = reader, view, seed
        self.views, self.images = views, images

    def make(self, step: int) -> WorkerBatch:
        first = step * self.images
        shown: dict[int, list[npt.NDArray[np.uint8]]] = {}
        bad: list[tuple[str, str]] = []
        keys: list[str] = []
        for place in range(min(self.images, len(self.reader) - first)):
            key = self.reader.keys[first + place].as_py()
            try:
                # Decoded once for all views; a crop of the pixels is the crop of the file.
                picture = LazyImage.of(self.reader.image(first + place).pixels())
                shown[place] = [
                    self.view(picture, keyed_rng(self.seed, number, key))
                    for number in range(self.views)
                ]
            except DataError as error:
                bad.append((key, str(error)))
                continue
            keys.append(key)
        if not shown:
            return WorkerBatch(None, bad)
        black = [np.zeros_like(next(iter(shown.values()))[0])] * self.views
        pixels = [view for place in range(self.images) for view in shown.get(place, black)]
        places = np.array(list(shown), np.int64)
        return WorkerBatch(_batch(pixels, places, keys, step, len(pixels)), bad)


class EvalMaker:
    """Makes evaluation batches: the samples in their order, each once."""

    def __init__(
        self, reader: SampleReader, preprocess: Preprocess, batch_size: int, pad: bool, fast: bool
    ) -> None:
        self.reader, self.preprocess = reader, preprocess
        self.batch_size, self.pad, self.fast = batch_size, pad, fast

    def _view(self, content: bytes) -> npt.NDArray[np.uint8]:
        from hgnetv2_pipeline.input.fast_augment import evaluation_view
        from hgnetv2_pipeline.input.pillow_resize import exact_view

        view = evaluation_view if self.fast else exact_view
        return view(self.preprocess, LazyImage(content, self.preprocess.decoding))

    def make(self, step: int) -> WorkerBatch:
        views: list[npt.NDArray[np.uint8]] = []
        rows: list[int] = []
        keys: list[str] = []
        bad: list[tuple[str, str]] = []
        start = step * self.batch_size
        for row in range(start, min(start + self.batch_size, len(self.reader))):
            key = self.reader.keys[row].as_py()
            try:
                views.append(self._view(self.reader.read(row)))
            except DataError as error:
                bad.append((key, str(error)))
                continue
            rows.append(row)
            keys.append(key)
        if not rows:
            return WorkerBatch(None, bad)
        size = self.batch_size if self.pad else len(rows)
        return WorkerBatch(_batch(views, self.reader.labels[rows], keys, step, size), bad)


def _batch(
    views: list[npt.NDArray[np.uint8]],
    labels: npt.NDArray[Any],
    keys: list[str],
    step: int,
    size: int,
) -> Batch:
    pixels = np.stack(views + [views[-1]] * (size - len(views)))
    # [N, H, W, 3] in memory, seen as [N, 3, H, W]: that is channels_last.
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Batch(images, torch.from_numpy(labels), keys, step, len(views))
