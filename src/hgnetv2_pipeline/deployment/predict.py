"""Prediction on files: every input gets a row, in the order given; a bad one its reason."""

from __future__ import annotations

import glob
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.progress import Progress

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.engines.base import Engine

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))
LIST_SUFFIXES = frozenset((".txt", ".lst"))
_GLOB_SIGNS = frozenset("*?[")


class Record(TypedDict):
    """The answer for one input. ``class_ids`` is empty and ``error`` is there for a bad one."""

    class_ids: list[int]
    scores: list[float]
    file_name: str
    label_names: list[str]
    error: NotRequired[str]


@dataclass(frozen=True)
class Input:
    """One thing to classify: the name its row bears, and a path, encoded bytes or a PIL image."""

    name: str
    source: Any


def expand_inputs(inputs: Any, *, root: Path | None = None) -> list[Input]:
    """Every image that ``inputs`` stands for, in order.

    A folder gives its images (recursively, sorted by path), a list file (.txt, .lst: a path a
    line, a label after it or not, # for a remark) its lines, relative to ``root`` or else to the
    list's folder, a glob its sorted matches, anything else itself; a sequence gives those of its
    members.
    A missing file is kept, so that its row can say so. DataError when a folder, list or glob
    holds nothing.
    """
    if isinstance(inputs, (list, tuple)):
        return [one for member in inputs for one in expand_inputs(member, root=root)]
    if not isinstance(inputs, (str, Path)):
        return [Input("<bytes>" if isinstance(inputs, bytes) else "<image>", inputs)]
    path = Path(inputs)
    if _is(path.is_dir):
        found = _folder(path)
    elif path.suffix.lower() in LIST_SUFFIXES:
        found = _list_file(path, root)
    elif not _is(path.exists) and _GLOB_SIGNS & set(str(path)):
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns too
        found = [Input(name, Path(name)) for name in names if Path(name).is_file()]
    else:
        # The name is printed as given: './a.jpg' stays './a.jpg'.
        return [Input(str(inputs), path)]
    if not found:
        raise DataError(
            f"nothing to predict in {inputs}: a folder needs image files "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}), a list at least one line, a glob a match"
        )
    return found


def _folder(folder: Path) -> list[Input]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        _log.info("%s: %d files that are no images left out", folder, len(files) - len(images))
    return [Input(str(path), path) for path in images]


def _list_file(path: Path, root: Path | None) -> list[Input]:
    base = path.parent if root is None else Path(root)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from error
    found = []
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        name, _, label = line.rpartition(" ")
        # A name may hold spaces, so only a last field that is a number counts as a label.
        if not name or not label.isdecimal() or (base / line).is_file():
            name = line
        found.append(Input(name.strip(), base / name.strip()))
    return found


def iter_predictions(
    engine: Engine,
    inputs: Any,
    *,
    topk: int = 5,
    batch_size: int = 16,
    root: Path | None = None,
    label_names: Sequence[str] | None = None,
    workers: int = 2,
) -> Iterator[Record]:
    """Yield a record for every input of ``expand_inputs(inputs)``, in order.

    Images are decoded by ``workers`` threads ahead of the engine, at most two batches of them.
    ``label_names`` replaces the model's own class names. ``topk`` beyond the number of classes
    gives all of them. ParameterError for a ``topk``, ``batch_size`` or ``workers`` below 1 or a
    wrong number of names.
    """
    for what, value in (("topk", topk), ("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ParameterError(f"{what}={value}; it must be at least 1")
    names = list(engine.classes if label_names is None else label_names)
    if len(names) != len(engine.classes):
        raise ParameterError(
            f"{len(names)} label names for the {len(engine.classes)} classes of {engine.model}"
        )
    todo = expand_inputs(inputs, root=root)
    return _stream(engine, todo, names, topk, batch_size, workers)


def _stream(
    engine: Engine, todo: list[Input], names: list[str], topk: int, batch_size: int, workers: int
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
            rows = iter(_top(engine.logits(np.stack(arrays)), topk)) if arrays else iter(())
            for entry, image in decoded:
                if isinstance(image, str):
                    _log.warning("%s: %s", entry.name, image)
                    yield _record(entry.name, [], [], names) | {"error": image}  # type: ignore[misc]
                else:
                    yield _record(entry.name, *next(rows), names)
            progress.advance(len(batch))


def _ahead(
    pool: ThreadPoolExecutor, engine: Engine, todo: Iterable[Input], depth: int
) -> Iterator[tuple[Input, Future[np.ndarray | str]]]:
    """Each input with the future of its preprocessed image, ``depth`` of them under way."""
    waiting: deque[tuple[Input, Future[np.ndarray | str]]] = deque()
    for entry in todo:
        waiting.append((entry, pool.submit(_load, engine, entry)))
        if len(waiting) >= depth:
            yield waiting.popleft()
    yield from waiting


def _load(engine: Engine, entry: Input) -> np.ndarray | str:
    """The preprocessed image, float32 [3, H, W], or the reason why there is none."""
    if isinstance(entry.source, Path) and not _is(entry.source.is_file):
        return "is a folder" if _is(entry.source.is_dir) else "no such file"
    try:
        return engine.preprocess(entry.source)
    except (DataError, OSError) as error:
        # A row names its file already; keep the reason to one line.
        return " ".join(str(error).split()) or type(error).__name__


def _is(question: Callable[[], bool]) -> bool:
    """``path.is_file`` and its like, where a name too long or a closed folder is a no."""
    try:
        return question()
    except OSError:
        return False


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _top(logits: np.ndarray, topk: int) -> Iterator[tuple[list[int], list[float]]]:
    """(class ids, scores) of each row, best first; of equal ones the lower class id first."""
    for row in softmax(logits):
        order = np.argsort(-row, kind="stable")[:topk]
        yield [int(index) for index in order], [float(score) for score in row[order]]


def _record(name: str, ids: list[int], scores: list[float], names: list[str]) -> Record:
    return Record(
        class_ids=ids, scores=scores, file_name=name, label_names=[names[index] for index in ids]
    )


def predict_paths(
    engine: Engine,
    inputs: Any,
    *,
    topk: int = 5,
    batch_size: int = 16,
    root: Path | None = None,
    label_names: Sequence[str] | None = None,
    workers: int = 2,
) -> list[Record]:
    """The records of ``iter_predictions`` as a list."""
    return list(
        iter_predictions(
            engine,
            inputs,
            topk=topk,
            batch_size=batch_size,
            root=root,
            label_names=label_names,
            workers=workers,
        )
    )


def check_predictions(records: Sequence[Record], *, strict: bool = False) -> None:
    """Raise DataError when no input could be predicted, or with ``strict`` when any could not."""
    bad = [record for record in records if "error" in record]
    if bad and (strict or len(bad) == len(records)):
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {len(records)} inputs could not be predicted; the first: "
            f"{first['file_name']}: {first['error']}"
        )
