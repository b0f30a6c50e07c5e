"""Paths that a list names twice: found by hashes, in little memory, then decided by the paths."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.lists.syntax import ParsedList, windows
from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio, as in Fibonacci hashing
# The first 0 to 8 bytes of a little-endian word.
_MASKS = np.array([(1 << (8 * count)) - 1 for count in range(9)], np.uint64)


def drop_repeats(
    path: Path, parsed: ParsedList, duplicates: str, shown: Callable[[int], str] = str
) -> ParsedList:
    """``parsed`` with no path named twice; warns of paths that differ in case alone.

    Args:
        path: the list file, for messages.
        duplicates: ``refuse`` or ``drop`` lines that repeat a path with the same label.
        shown: how a label is written in a message.

    Raises:
        DataError: a path has two labels, or is named twice and ``duplicates`` is ``refuse``.
    """
    if duplicates not in ("refuse", "drop"):
        raise ParameterError(f"duplicates {duplicates!r}: 'refuse' or 'drop' (data.duplicates)")
    candidates, n_distinct = _candidates(parsed)
    if len(candidates):
        names = parsed.paths.take(candidates).to_pandas().to_numpy()
        frame = pd.DataFrame({"path": names, "label": parsed.labels[candidates]}, index=candidates)
        _refuse_conflicts(path, frame, parsed, shown)
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
            left_out = zip(frame["path"][twice], parsed.lines[frame.index[twice]], strict=True)
            parsed = ParsedList(
                parsed.paths.filter(mask),
                parsed.labels[mask],
                parsed.lines[mask],
                parsed.skipped,
                tuple((str(name), int(line)) for name, line in left_out),
            )
    collisions = n_distinct - _distinct(_hashes(parsed.paths, lower=True))
    if collisions > 0:
        _log.warning(
            "%s: %d paths differ from another only in upper and lower case; they are different "
            "images here and one image on a file system that ignores case",
            path,
            collisions,
        )
    return parsed


def _candidates(parsed: ParsedList) -> tuple[npt.NDArray[np.int64], int]:
    """Rows whose hash another row shares, and the number of distinct hashes."""
    hashes = _hashes(parsed.paths, lower=False)
    ordered = np.sort(hashes)
    again = ordered[1:] == ordered[:-1]
    shared = ordered[1:][again]
    n_distinct = len(ordered) - int(again.sum())
    del ordered, again
    if not len(shared):
        return np.zeros(0, np.int64), n_distinct
    return np.flatnonzero(np.isin(hashes, np.unique(shared))), n_distinct


def _distinct(hashes: npt.NDArray[np.uint64]) -> int:
    hashes.sort()
    return len(hashes) - int((hashes[1:] == hashes[:-1]).sum())


def _hashes(paths: pa.LargeStringArray, *, lower: bool) -> npt.NDArray[np.uint64]:
    """uint64 [N]: a hash of each path, of its lower case if asked."""
    import pyarrow.compute as pc

    found = np.empty(len(paths), np.uint64)
    at = 0
    for part in windows(paths):
        found[at : at + len(part)] = _hashes_of(pc.utf8_lower(part) if lower else part)
        at += len(part)
    return found


def _hashes_of(texts: pa.LargeStringArray) -> npt.NDArray[np.uint64]:
    """uint64 [N]: eight bytes of every text at a time are added, multiplied and folded."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8)
    text = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    letters, bounds = np.concatenate([text, np.zeros(8, np.uint8)]), bounds - bounds[0]
    # The eight bytes from each byte on.
    words = np.ndarray((len(letters) - 7,), "<u8", letters, strides=(1,))
    hashes: npt.NDArray[np.uint64] = np.diff(bounds).astype(np.uint64)
    rows, at, left = np.arange(len(texts)), bounds[:-1], np.diff(bounds)
    while len(rows):
        taken = words[at] & _MASKS[np.minimum(left, 8)]
        mixed = (hashes[rows] ^ taken) * _FACTOR
        hashes[rows] = mixed ^ (mixed >> np.uint64(29))
        more = left > 8
        rows, at, left = rows[more], at[more] + 8, left[more] - 8
    return hashes


def _refuse_conflicts(
    path: Path, frame: pd.DataFrame, parsed: ParsedList, shown: Callable[[int], str]
) -> None:
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
            f"{path}:{lines[1]}: {name!r} has label {shown(int(other['label']))} here and "
            f"{shown(int(first['label']))} in line {lines[0]} ({len(conflicts):,} such paths); "
            "keep the right one"
        )
