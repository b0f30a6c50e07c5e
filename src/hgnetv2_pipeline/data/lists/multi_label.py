"""Lists of images that may belong to several classes, ``path<TAB>0,1,0`` a line, as in PaddleClas.

What holds for the paths of other lists holds here: spaces inside, CRLF and a byte order mark are
accepted, blank lines and comments skipped, everything doubtful refused with line and remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.index import LABELS
from hgnetv2_pipeline.data.lists.duplicates import drop_repeats
from hgnetv2_pipeline.data.lists.files import refuse_unusable
from hgnetv2_pipeline.data.lists.kinds import delimiter_of, delimiter_of_several
from hgnetv2_pipeline.data.lists.syntax import (
    Grammar,
    ParsedList,
    check_utf8,
    parse_multi_label_line,
    spell_name,
)
from hgnetv2_pipeline.data.regular import open_or_refuse
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError

# More classes than any known set of labels; a longer line is a broken file.
_MOST_CLASSES = 1_000_000
_ONE_LINE = np.zeros(1, np.int64)


def read_multi_label_list(
    path: Path,
    root: Path | None = None,
    num_classes: int | None = None,
    *,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
    delimiter: str = "auto",
) -> pd.DataFrame:
    """``read_list(..., multi_label=True)``: see there for the arguments.

    Returns:
        DataFrame [path (str), labels (Arrow fixed-size list of uint8 [classes])].

    Raises:
        DataError: with file, line number and remedy.
    """
    parsed, table = read_parsed_multi_label_list(
        path, root, num_classes, duplicates=duplicates, every_class=every_class,
        trusted_roots=trusted_roots, missing_to=missing_to, delimiter=delimiter,
    )  # fmt: skip
    return pd.DataFrame(
        {
            "path": parsed.paths.to_pandas().astype("str"),
            "labels": label_column(table[parsed.labels]),
        }
    )


def read_parsed_multi_label_list(
    path: Path,
    root: Path | None,
    num_classes: int | None,
    *,
    duplicates: str,
    every_class: bool,
    trusted_roots: Sequence[Path],
    missing_to: Path | None,
    delimiter: str,
) -> tuple[ParsedList, npt.NDArray[np.uint8]]:
    """The same with line numbers: a label is the row of a table [sets, classes] of 0 and 1."""
    import pyarrow as pa

    path = Path(path)
    mark = delimiter_of(delimiter) or delimiter_of_several(path)
    grammar = Grammar(delimiter=mark, root=root)
    names: list[str] = []
    lines: list[int] = []
    sets: dict[bytes, int] = {}  # each distinct set of labels once, by order of appearance
    codes: list[int] = []
    for number, line in _lines(path):
        try:
            found = parse_multi_label_line(line, grammar)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        if found is None:
            continue
        name, labels = found
        wanted = num_classes if num_classes is not None else len(next(iter(sets), labels))
        if len(labels) != wanted:
            raise DataError(
                f"{path}:{number}: {len(labels)} labels where {wanted} are expected; write one "
                "for every class in every line, as many as there are class names"
            )
        names.append(name)
        lines.append(number)
        codes.append(sets.setdefault(labels, len(sets)))
    if not names:
        raise DataError(f"{path}: 0 samples; write one 'path<TAB>0,1,0' a line")
    table = np.stack([np.frombuffer(labels, np.uint8) for labels in sets])
    parsed = ParsedList(
        pa.array(names, pa.large_string()),
        np.asarray(codes, np.int32),
        np.asarray(lines, np.int32),
        0,
    )
    parsed = drop_repeats(path, parsed, duplicates, lambda code: _shown(table[code]))
    absent = np.flatnonzero(~table.any(axis=0))
    if every_class and len(absent):
        raise DataError(
            f"{path}: {len(absent):,} of {table.shape[1]:,} classes have no image, class "
            f"{absent[0]} among them; add images or leave the classes out"
        )
    if root is not None:
        refuse_unusable(path, parsed, root, trusted_roots, missing_to)
    return parsed, table


def label_column(matrix: npt.NDArray[np.uint8]) -> pd.Series:
    """The column ``labels`` of a list or a frame of samples from a matrix [N, classes]."""
    import pyarrow as pa

    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    return pd.Series(pd.arrays.ArrowExtensionArray(column))


def is_multi_label(frame: pd.DataFrame) -> bool:
    """Whether the images of a list or a frame of samples may belong to several classes."""
    return LABELS in frame.columns


def label_matrix(frame: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """uint8 [N, classes] of 0 and 1: the column ``labels`` of a multi-label list."""
    column: Any = frame["labels"].array.__arrow_array__().combine_chunks()
    width = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.uint8).reshape(-1, width)


def label_text(frame: pd.DataFrame) -> pd.Series:
    """What is said of each image: its ``label``, or the numbers of its classes as ``0,3``."""
    if not is_multi_label(frame):
        return frame["label"]
    sets, codes = np.unique(label_matrix(frame), axis=0, return_inverse=True)
    texts = np.array([",".join(map(str, np.flatnonzero(row))) for row in sets], object)
    return pd.Series(texts[codes.ravel()] if len(frame) else [], frame.index, dtype="str")


def images_per_class(frame: pd.DataFrame, classes: int) -> npt.NDArray[np.int64]:
    """int64 [classes]: the images that belong to each class; unlabelled ones do not count."""
    if is_multi_label(frame):
        return np.asarray(label_matrix(frame).sum(axis=0, dtype=np.int64))
    labels = frame["label"].dropna().to_numpy(np.int64)
    return np.bincount(labels, minlength=classes).astype(np.int64)


def write_multi_label_list(path: Path, paths: Sequence[str], labels: npt.NDArray[np.uint8]) -> Path:
    """Write ``path<TAB>0,1,0`` a line, whole or not at all.

    Args:
        labels: [N, classes] of 0 and 1.

    Raises:
        DataError: a path cannot be in a list, or the labels are no such matrix.
    """
    if labels.ndim != 2 or len(labels) != len(paths) or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{path}: labels of shape {labels.shape} for {len(paths):,} paths; a matrix of 0 and "
            "1 with one row per path and one column per class is needed"
        )
    rows = zip(paths, labels, strict=True)
    return write_text(
        path, "".join(f"{spell_name(path, name)}\t{_shown(row)}\n" for name, row in rows)
    )


def _shown(labels: npt.NDArray[np.uint8]) -> str:
    return ",".join("1" if label else "0" for label in labels)


def _lines(path: Path) -> Any:
    """Number and bytes of each line, line ends and byte order mark taken off; UTF-8 checked."""
    with open_or_refuse(path, "list") as file:
        number, place = 0, 0
        while line := file.readline(2 * _MOST_CLASSES):
            number += 1
            if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{path}:1: UTF-16 text; save the list as UTF-8")
            if len(line) == 2 * _MOST_CLASSES:
                raise DataError(f"{path}:{number}: the line is longer than {len(line):,} bytes")
            check_utf8(path, line, _ONE_LINE, number - 1, place)
            place += len(line)
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")
