"""Prediction on files: every input gets a row, in the order given; a bad one its reason."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

import numpy as np

from hgnetv2_pipeline.deployment.inputs import (
    ImageInput,
    RefusedInput,
    Span,
    answers,
    expand_inputs,
)
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.evaluation.metrics import NEUTRAL_THRESHOLD, sigmoid, softmax
from hgnetv2_pipeline.processor import MOST_THREADS
from hgnetv2_pipeline.progress import Progress

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.card import ModelCard

_log = logging.getLogger(__name__)
_NOT_FINITE = "the model gives no answer: its logits are NaN or infinite"


class Predictor(Protocol):
    """What predicts: every engine does."""

    card: ModelCard
    model: Any

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes its input."""

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, classes], of images, float32 [N, 3, crop, crop]."""

    def logits_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, and embeddings, float32 [N, width]."""

    def require_embeddings(self) -> None:
        """Raise ParameterError unless it gives embeddings."""


class Record(TypedDict):
    """The answer for one input. ``class_ids`` is empty and ``error`` is there for a bad one.

    ``embedding``, float32 [width], is there where it was asked for and the input is a good one.
    """

    class_ids: list[int]
    scores: list[float]
    file_name: str
    label_names: list[str]
    error: NotRequired[str]
    embedding: NotRequired[np.ndarray]


@dataclass(frozen=True)
class Ranking:
    """Which classes of an image are reported; ``thresholds``: one per class."""

    topk: int
    thresholds: np.ndarray
    multi_label: bool

    @classmethod
    def for_card(
        cls,
        card: ModelCard,
        *,
        topk: int | None,
        threshold: float | None = None,
        multi_label: bool | None = None,
    ) -> Ranking:
        """The ``topk`` best (None: all) from ``threshold`` on; None: as ``iter_predictions`` says.

        ParameterError for a ``topk`` below 1 or a threshold outside 0..1.
        """
        several = card.multi_label if multi_label is None else multi_label
        if topk is not None and topk < 1:
            raise ParameterError(f"topk={topk}; it must be at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ParameterError(f"threshold={threshold}; a score is between 0 and 1")
        least = np.full(len(card.classes), 0.0 if threshold is None else threshold)
        if threshold is None and several:
            least[:] = card.thresholds or NEUTRAL_THRESHOLD
        return cls(len(card.classes) if topk is None else topk, least, several)

    def of(self, logits: np.ndarray) -> Iterator[tuple[list[int], list[float]] | str]:
        """(class ids, scores) of each row, best first; of equal ones the lower class id first.

        A row with NaN or infinite logits is no answer: its reason takes its place.
        """
        finite = np.isfinite(logits).all(axis=1)
        logits = np.where(finite[:, None], logits, 0)
        for good, row in zip(
            finite, sigmoid(logits) if self.multi_label else softmax(logits), strict=True
        ):
            if not good:
                yield _NOT_FINITE
                continue
            order = np.argsort(-row, kind="stable")[: self.topk]
            kept = [int(index) for index in order if row[index] >= self.thresholds[index]]
            yield kept, [float(row[index]) for index in kept]


def iter_predictions(
    engine: Predictor,
    inputs: Any,
    *,
    topk: int | None = 5,
    threshold: float | None = None,
    multi_label: bool | None = None,
    batch_size: int = 16,
    root: Path | None = None,
    label_names: Sequence[str] | None = None,
    workers: int = 2,
    embeddings: bool = False,
) -> Iterator[Record]:
    """Yield a record for every input of ``expand_inputs(inputs)``, in order.

    The classes of an image are its ``topk`` best (None: all) with a score of at least
    ``threshold`` (None: 0, and for several labels what the card says for each class, else 0.5), so
    there may be none. ``multi_label`` makes scores by a sigmoid for each class instead of a softmax
    over all; None: as the model's card says. Images are decoded by ``workers`` threads ahead of the
    engine, at most two batches of them. ``label_names`` replaces the model's own class names.
    ``embeddings`` adds the embedding of every image to its record, from the same pass.
    ParameterError for a ``topk``, ``batch_size`` or ``workers`` below 1, a threshold outside 0..1
    or a wrong number of names.
    """
    ranking = Ranking.for_card(engine.card, topk=topk, threshold=threshold, multi_label=multi_label)
    for what, value, most in (
        ("batch_size", batch_size, 2**16),
        ("workers", workers, MOST_THREADS),
    ):
        if value < 1:
            raise ParameterError(f"{what}={value}; it must be at least 1")
        if value > most:
            raise ParameterError(f"{what}={value}; it must be at most {most:,}")
    names = list(engine.classes if label_names is None else label_names)
    if len(names) != len(engine.classes):
        raise ParameterError(
            f"{len(names)} label names for the {len(engine.classes)} classes of {engine.model}"
        )
    if embeddings:
        engine.require_embeddings()
    todo = expand_inputs(inputs, root=root)
    return _stream(engine, todo, names, ranking, batch_size, workers, embeddings=embeddings)


def _stream(
    engine: Predictor,
    todo: list[ImageInput],
    names: list[str],
    ranking: Ranking,
    batch_size: int,
    workers: int,
    *,
    embeddings: bool,
) -> Iterator[Record]:
    with (
        ThreadPoolExecutor(workers) as pool,
        Progress(len(todo), "predict", "img") as progress,
    ):
        tasks = _ahead(pool, engine, todo, 2 * batch_size)
        while batch := list(islice(tasks, batch_size)):
            decoded = [(entry, future.result()) for entry, future in batch]
            arrays = [image for _, image in decoded if isinstance(image, np.ndarray)]
            # One bad image must not cost the others of its batch, nor a batch of bad ones a call.
            rows = _answers(engine, arrays, ranking, embeddings=embeddings)
            for entry, image in decoded:
                answer, embedding = (image, None) if isinstance(image, str) else next(rows)
                if isinstance(answer, str):
                    _log.warning("%s: %s", entry.name, answer)
                    yield make_record(entry.name, [], [], names) | {"error": answer}  # type: ignore[misc]
                    continue
                record = make_record(entry.name, *answer, names)
                if embedding is not None:
                    record["embedding"] = embedding
                yield record
            progress.advance(len(batch))


def _answers(
    engine: Predictor, arrays: list[np.ndarray], ranking: Ranking, *, embeddings: bool
) -> Iterator[tuple[tuple[list[int], list[float]] | str, np.ndarray | None]]:
    """What ``ranking`` makes of every image, and its embedding where it is asked for."""
    if not arrays:
        return iter(())
    images = np.stack(arrays)
    if not embeddings:
        return zip(ranking.of(engine.logits(images)), repeat(None))
    logits, found = engine.logits_and_embeddings(images)
    return zip(ranking.of(logits), found, strict=True)


def _ahead(
    pool: ThreadPoolExecutor, engine: Predictor, todo: Iterable[ImageInput], depth: int
) -> Iterator[tuple[ImageInput, Future[np.ndarray | str]]]:
    """Each input with the future of its preprocessed image, ``depth`` of them under way."""
    waiting: deque[tuple[ImageInput, Future[np.ndarray | str]]] = deque()
    for entry in todo:
        waiting.append((entry, pool.submit(_load, engine, entry)))
        if len(waiting) >= depth:
            yield waiting.popleft()
    yield from waiting


def _load(engine: Predictor, entry: ImageInput) -> np.ndarray | str:
    """The preprocessed image, float32 [3, H, W], or the reason why there is none."""
    source = entry.source
    if isinstance(source, RefusedInput):
        return source.reason
    if isinstance(source, Path) and not answers(source.is_file):
        return "is a folder" if answers(source.is_dir) else "no such file"
    try:
        if isinstance(source, Span):
            from hgnetv2_pipeline.data.scan.archives import read_member

            source = read_member(source.path, source.offset, source.length)
        return engine.preprocess(source)
    except (DataError, OSError) as error:
        # A row names its file already; keep the reason to one line.
        return " ".join(str(error).split()) or type(error).__name__


def make_record(name: str, ids: list[int], scores: list[float], names: list[str]) -> Record:
    """The answer for the input ``name``; ``names`` are those of all classes."""
    return Record(
        class_ids=ids, scores=scores, file_name=name, label_names=[names[index] for index in ids]
    )


def predict_paths(
    engine: Predictor,
    inputs: Any,
    *,
    topk: int | None = 5,
    threshold: float | None = None,
    multi_label: bool | None = None,
    batch_size: int = 16,
    root: Path | None = None,
    label_names: Sequence[str] | None = None,
    workers: int = 2,
    embeddings: bool = False,
) -> list[Record]:
    """The records of ``iter_predictions`` as a list."""
    return list(
        iter_predictions(
            engine,
            inputs,
            topk=topk,
            threshold=threshold,
            multi_label=multi_label,
            batch_size=batch_size,
            root=root,
            label_names=label_names,
            workers=workers,
            embeddings=embeddings,
        )
    )


@dataclass
class Tally:
    """Counts records that pass by, so that a stream can be judged when it has ended."""

    total: int = 0
    bad: int = 0
    first: str = field(default="", repr=False)

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records, counted."""
        for record in records:
            self.total += 1
            if "error" in record:
                self.first = self.first or f"{record['file_name']}: {record['error']}"
                self.bad += 1
            yield record

    def check(self, *, strict: bool = False) -> None:
        """Raise DataError if no input could be predicted, or with ``strict`` if any could not."""
        if self.bad and (strict or self.bad == self.total):
            raise DataError(
                f"{self.bad} of {self.total} inputs could not be predicted; the first: {self.first}"
            )


def check_predictions(records: Iterable[Record], *, strict: bool = False) -> None:
    """``Tally.check`` of records that are all there."""
    tally = Tally()
    for _ in tally.watch(records):
        pass
    tally.check(strict=strict)
