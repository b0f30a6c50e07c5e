"""Tables of images, one row each: CSV, TSV or Parquet with a column of paths and one of labels.

Columns are known by their names. Labels are class numbers where they are 0..n-1 without a gap or a
class map names them; otherwise they are the names themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hgnetv2_pipeline.data.lists.syntax import Grammar, ParsedList, parse_line
from hgnetv2_pipeline.data.regular import open_or_refuse
from hgnetv2_pipeline.data.scan.walk import natural, split_of
from hgnetv2_pipeline.errors import DataError

TABLES = (".csv", ".tsv", ".parquet")
"""Endings of tables."""
_USUAL = {
    "path": "path file filename file_name filepath file_path image image_path image_name "
    "image_file image_id img img_path img_name img_id picture photo name id",
    "label": "label labels class class_name class_id category category_name target y species "
    "breed diagnosis label_name label_id",
    "split": "split set subset partition",
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; None: known by their usual names, or not there."""

    path: str | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class ImageTable:
    """The rows of a table: paths, labels as text (None: it has no labels), splits."""

    file: Path
    columns: Columns
    rows: pd.DataFrame
    names: tuple[object, ...] = ()

    @property
    def splits(self) -> list[str]:
        """The splits that its own column divides it into; empty without one."""
        return [] if self.columns.split is None else sorted(set(self.rows["split"]))


def read_table(path: Path, columns: Columns = Columns()) -> ImageTable:
    """The columns of a table as text: path, label and, where there is one, split.

    Raises:
        DataError: no table; a column that is named is not there; none, or several, may be the one;
            a row without path or label; a split of another name.
    """
    frame = _read(path)
    if not len(frame):
        raise DataError(f"{path}: 0 rows; one row per image is needed")
    found = find_columns(path, frame, columns)
    if found.path is None:
        raise no_column(path, "path", list(frame.columns))
    rows = pd.DataFrame({"path": frame[found.path]})
    rows["label"] = frame[found.label] if found.label else None
    if found.split:
        rows["split"] = [split_of(text.strip()) for text in frame[found.split]]
        bad = rows["split"].isna()
        if bad.any():
            text = frame[found.split][bad].iloc[0]
            raise DataError(
                f"{path}:{_line(bad)}: {found.split} {text!r} is no split; train, val (valid, "
                "validation) and test are"
            )
    for name in ("path", *(("label",) if found.label else ())):
        empty = rows[name].str.strip() == ""
        if empty.any():
            raise DataError(
                f"{path}:{_line(empty)}: no {name} ({int(empty.sum()):,} such rows); fill it in or "
                "remove the row"
            )
    return ImageTable(path, found, rows, tuple(frame.columns))


def _read(path: Path) -> pd.DataFrame:
    try:
        with open_or_refuse(path, "table") as file:
            if path.suffix.lower() == ".parquet":
                frame = pd.read_parquet(file)
                whole = frame.select_dtypes("float").columns
                frame[whole] = frame[whole].astype("Int64", errors="ignore")
                return frame.astype("str").fillna("")
            mark = "\t" if path.suffix.lower() == ".tsv" else _mark(file.readline())
            file.seek(0)
            return pd.read_csv(
                file, sep=mark, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except ImportError:
        raise
    except DataError:
        raise
    except Exception as error:  # what a damaged table makes its reader raise
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: no table that can be read ({said})") from error


def _mark(header: bytes) -> str:
    """What separates the columns of a CSV: the most frequent of three marks in its first line."""
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def find_columns(path: Path, frame: pd.DataFrame, given: Columns = Columns()) -> Columns:
    """The columns that are named, and by their usual names those that are not.

    Raises:
        DataError: a named one is not there; several have usual names.
    """
    found: dict[str, str | None] = {}
    for role, usual in _USUAL.items():
        named = getattr(given, role)
        if named is not None:
            if named not in frame.columns:
                raise no_column(path, role, list(frame.columns), named)
            found[role] = named
            continue
        names = [name for name in frame.columns if _plain(name) in usual.split()]
        if len(names) > 1:
            # The more usual name comes first in the table above; but nothing is guessed.
            raise DataError(
                f"{path}: the columns {', '.join(names)} may each be the {role}; say which: "
                f"data.columns.{role} (hgnetv2 init --columns {role}={names[0]})"
            )
        found[role] = names[0] if names else None
    return Columns(**found)


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).strip().lower()).strip("_")


def no_column(
    path: Path, role: str, names: Sequence[object], named: str | None = None
) -> DataError:
    """The error of a table of the columns ``names`` that lacks the one of a role."""
    columns = ", ".join(map(str, names[:20]))
    what = f"no column {named!r}" if named else f"no column of the {role}"
    return DataError(
        f"{path}: {what}; it has {columns}; name it by data.columns.{role} (hgnetv2 init "
        f"--columns {role}=NAME)"
    )


def _line(rows: pd.Series) -> int:
    """The line of the first of these rows; the header is line 1."""
    return int(np.flatnonzero(rows.to_numpy())[0]) + 2


def table_classes(
    tables: Sequence[ImageTable], class_map: Sequence[str] | None
) -> list[str] | None:
    """The class names of the labels: None where they are numbers from 0 without a gap.

    Raises:
        DataError: a label is no class of ``class_map``.
    """
    known: set[str] = set()
    for table in tables:
        if table.columns.label is None:
            raise no_column(table.file, "label", list(table.names))
        known |= set(table.rows["label"].str.strip())
    if class_map is not None:
        names = set(class_map)
        if known <= names:
            return list(class_map)
        odd = sorted(label for label in known if not _is_number(label, len(class_map)))
        if odd:
            raise DataError(
                f"{tables[0].file}: label {odd[0]!r} is neither one of the {len(class_map)} class "
                f"names nor a number below {len(class_map)}"
            )
        return None
    if known == {str(number) for number in range(len(known))}:
        return None
    return sorted(known, key=natural)


def _is_number(label: str, below: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,9}", label)) and int(label) < below


def parse_rows(
    table: ImageTable, rows: pd.DataFrame, names: Sequence[str] | None, root: Path | None
) -> ParsedList:
    """Rows as the samples of a list; a label is its place in ``names``, or the number it is.

    Raises:
        DataError: a path that no list could hold; a label that is no class.
    """
    import pyarrow as pa

    number: Mapping[str, int] | None = (
        None if names is None else {name: label for label, name in enumerate(names)}
    )
    grammar = Grammar(labelled=False, root=root)
    paths, labels = [], []
    for row, path, label in zip(rows.index, rows["path"], rows["label"], strict=True):
        try:
            parsed = parse_line(str(path).strip().encode(), grammar)
        except DataError as error:
            raise DataError(f"{table.file}:{row + 2}: {error}") from None
        if parsed is None:
            raise DataError(f"{table.file}:{row + 2}: {path!r} is no path; write ./{path}")
        text = str(label).strip()
        if number is not None and text not in number:
            raise DataError(
                f"{table.file}:{row + 2}: label {text!r} is none of the {len(number)} classes of "
                "train; correct it, or give train an image of it"
            )
        paths.append(parsed[0])
        labels.append(int(text) if number is None else number[text])
    return ParsedList(
        pa.array(paths, pa.large_string()),
        np.asarray(labels, np.int32),
        (rows.index.to_numpy() + 2).astype(np.int32),
        0,
    )
