"""Lists of images, ``path label`` a line: read strictly and written.

The format is PaddleClas's. A line is split once at its last space, so paths may contain spaces.
CRLF line ends and a byte order mark are accepted; blank lines and lines that start with ``#`` are
skipped (write ``./#name`` for a file whose name starts so). Everything doubtful is refused with the
line's number and a remedy: nothing is guessed, relabelled or dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.grammar import ParsedList, parse_list, why_unlistable
from hgnetv2_pipeline.data.listing import Problem, check_files
from hgnetv2_pipeline.data.quarantine import printable, quarantine_frame, write_quarantine
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError, ParameterError

_log = logging.getLogger(__name__)


def read_list(
    path: Path,
    root: Path | None = None,
    num_classes: int | None = None,
    *,
    labelled: bool = True,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
) -> pd.DataFrame:
    """Read a list of images.

    Args:
        path: the list file.
        root: if given, every file must exist there, be a regular file (or a member of a tar,
            ``archive.tar!member``) and lie inside it.
        num_classes: if given, labels must be below it.
        labelled: False for a list of paths alone (a pool); labels are then NA.
        duplicates: what to do with a path listed twice with one label: ``refuse`` or ``drop``.
            Two labels for one path are always refused.
        every_class: refuse a list in which a class 0..num_classes-1 has no image (without
            ``num_classes``: 0..highest label).
        trusted_roots: folders outside ``root`` into which symbolic links may lead.
        missing_to: where to write all unusable files (CSV: key, reason, line) before raising.

    Returns:
        DataFrame [path (str), label (Int64)], in the order of the list.

    Raises:
        DataError: with file, line number and remedy.
    """
    parsed = checked_list(
        path,
        root,
        num_classes,
        labelled=labelled,
        duplicates=duplicates,
        every_class=every_class,
        trusted_roots=trusted_roots,
        missing_to=missing_to,
    )
    return _frame(parsed, labelled)[["path", "label"]]


def checked_list(
    path: Path,
    root: Path | None,
    num_classes: int | None,
    *,
    labelled: bool,
    duplicates: str,
    every_class: bool,
    trusted_roots: Sequence[Path],
    missing_to: Path | None,
) -> ParsedList:
    """As ``read_list``, with the line numbers."""
    if duplicates not in ("refuse", "drop"):
        raise ParameterError(f"duplicates {duplicates!r}: 'refuse' or 'drop' (data.duplicates)")
    path = Path(path)
    parsed = parse_list(path, labelled=labelled)
    if len(parsed.labels) == 0:
        form = "'path label'" if labelled else "'path'"
        raise DataError(f"{path}: 0 samples; write one {form} a line")
    if labelled:
        _check_labels(path, parsed, num_classes, every_class)
    parsed = _without_duplicates(path, parsed, duplicates)
    if root is not None:
        frame = _frame(parsed, labelled)
        problems = check_files(frame["path"], Path(root), trusted_roots)
        if problems:
            _raise_unusable(path, parsed, problems, missing_to)
    return parsed


def _check_labels(
    path: Path, parsed: ParsedList, num_classes: int | None, every_class: bool
) -> None:
    if num_classes is not None:
        above = np.flatnonzero(parsed.labels >= num_classes)
        if len(above):
            line, label = parsed.lines[above[0]], parsed.labels[above[0]]
            raise DataError(
                f"{path}:{line}: label {label} is outside the {num_classes} classes "
                f"0-{num_classes - 1} ({len(above):,} such lines); correct it or set num_classes"
            )
    if every_class:
        wanted = num_classes if num_classes is not None else int(parsed.labels.max()) + 1
        absent = np.setdiff1d(np.arange(wanted), parsed.labels)
        if len(absent):
            some = ", ".join(str(label) for label in absent[:5])
            raise DataError(
                f"{path}: {len(absent):,} of {wanted:,} classes have no image: "
                f"{some}{' ...' if len(absent) > 5 else ''}; number the classes from 0 without a "
                "gap, or correct num_classes"
            )


def _without_duplicates(path: Path, parsed: ParsedList, duplicates: str) -> ParsedList:
    """Refuse or drop lines that repeat a path; warn of paths that differ in case alone."""
    hashes = _hashes(parsed, lower=False)
    # Hashes find the few candidates in little memory; the paths themselves then decide.
    candidates = np.flatnonzero(pd.Series(hashes).duplicated(keep=False))
    if len(candidates):
        frame = _frame(parsed, True, candidates)
        _refuse_conflicts(path, frame, parsed)
        twice = frame["path"].duplicated(keep="first")
        count = int(twice.sum())
        if count and duplicates == "refuse":
            name = frame["path"][twice].iloc[0]
            earlier, later = frame.index[frame["path"] == name][:2]
            raise DataError(
                f"{path}:{parsed.lines[later]}: {name!r} is listed already in line "
                f"{parsed.lines[earlier]} ({count:,} such lines); remove it, or set "
                "data.duplicates: drop"
            )
        if count:
            _log.warning("%s: %d lines that repeat an earlier one are left out", path, count)
            mask = np.ones(len(parsed.labels), bool)
            mask[frame.index[twice]] = False
            parsed = ParsedList(
                parsed.paths.filter(mask), parsed.labels[mask], parsed.lines[mask], parsed.skipped
            )
    collisions = int(pd.Series(_hashes(parsed, lower=True)).duplicated().sum())
    if collisions:
        _log.warning(
            "%s: %d paths differ from another only in upper and lower case; they are different "
            "images here and one image on a file system that ignores case",
            path,
            collisions,
        )
    return parsed


def _hashes(parsed: ParsedList, *, lower: bool) -> npt.NDArray[np.uint64]:
    """uint64 [N]: a hash of each path, of its lower case if asked."""
    import pyarrow.compute as pc

    parts = [np.zeros(0, np.uint64)]
    for chunk in parsed.paths.chunks:
        texts = pc.utf8_lower(chunk) if lower else chunk
        values = texts.to_numpy(zero_copy_only=False)
        parts.append(pd.util.hash_array(values, categorize=False))
    return np.concatenate(parts)


def _refuse_conflicts(path: Path, frame: pd.DataFrame, parsed: ParsedList) -> None:
    again = frame[frame["path"].duplicated(keep=False)]
    kinds = again.groupby("path", sort=False)["label"].nunique()
    conflicts = kinds[kinds > 1]
    if len(conflicts):
        name = conflicts.index[0]
        rows = again[again["path"] == name]
        first = rows.iloc[0]
        other = rows[rows["label"] != first["label"]].iloc[0]
        lines = parsed.lines[[first.name, other.name]]
        raise DataError(
            f"{path}:{lines[1]}: {name!r} has label {other['label']} here and {first['label']} in "
            f"line {lines[0]} ({len(conflicts):,} such paths); keep the right one"
        )


def _raise_unusable(
    path: Path, parsed: ParsedList, problems: list[Problem], missing_to: Path | None
) -> None:
    rows: list[tuple[str, str, int | None]] = [
        (problem.path, problem.reason, int(parsed.lines[problem.position])) for problem in problems
    ]
    where = ""
    if missing_to is not None:
        write_quarantine(missing_to, quarantine_frame(rows))
        where = f"; all of them are in {missing_to}"
    some = "; ".join(f"line {line}: {printable(key)}: {reason}" for key, reason, line in rows[:3])
    raise DataError(
        f"{path}:{rows[0][2]}: {len(rows):,} of {len(parsed.labels):,} files cannot be used: "
        f"{some}{' ...' if len(rows) > 3 else ''}{where}; restore the files or remove the lines"
    )


def _frame(
    parsed: ParsedList, labelled: bool, rows: npt.NDArray[np.int64] | None = None
) -> pd.DataFrame:
    """Columns path and label; of all samples, or of these rows (which then are the index)."""
    index = pd.RangeIndex(len(parsed.labels)) if rows is None else pd.Index(rows)
    labels = parsed.labels if rows is None else parsed.labels[rows]
    paths = parsed.paths if rows is None else parsed.paths.take(rows)
    unknown = np.full(len(labels), not labelled)
    return pd.DataFrame(
        {
            "path": pd.Series(paths.to_pandas().to_numpy(), index=index, dtype="str")
            if rows is not None
            else paths.to_pandas().astype("str"),
            "label": pd.Series(pd.arrays.IntegerArray(labels, unknown), index=index),
        }
    )


def write_list(path: Path, frame: pd.DataFrame) -> Path:
    """Write ``path label`` a line (``path`` alone if no image has a label), whole or not at all.

    Args:
        frame: columns ``key`` or ``path`` (the key wins: it names members of archives), ``label``.

    Raises:
        DataError: a path cannot stand in a list, or only some images have a label.
    """
    names = frame["key"] if "key" in frame.columns else frame["path"]
    unknown = frame["label"].isna()
    if unknown.any() and not unknown.all():
        raise DataError(
            f"{path}: {int(unknown.sum()):,} of {len(frame):,} images have no label; a list has "
            "labels for all of them or for none"
        )
    labelled = not unknown.any()
    lines = []
    for name, label in zip(names, frame["label"], strict=True):
        written = f"./{name}" if name.startswith("#") else name
        line = f"{written} {label}" if labelled else written
        reason = why_unlistable(name)
        if reason is not None:
            raise DataError(f"{path}: {printable(name)!r} cannot stand in a list: {reason}")
        lines.append(line)
    return write_text(path, "".join(f"{line}\n" for line in lines))
