"""Which of 16 bits a data set uses, by ``data.depth``; and which pictures have one colour."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.depth import Depth
    from hgnetv2_pipeline.data.scan.folders import Scan

_log = logging.getLogger(__name__)
LEVELS = "levels.json"
_NARROW = 4
"""A set whose levels span less than this part of its bits is told so."""


def choose_depth(
    folder: Path, identity: Identity, data: DataParams, scans: Sequence[Scan]
) -> Depth:
    """The depth by which the images of a set are decoded, said and written to ``folder``.

    ``data.depth: auto`` is the bits that the highest level of all files of 16 bits needs. A scan of
    a pool that an older version made does not know; its images are not counted.
    """
    from hgnetv2_pipeline.data.depth import FULL, check_depth, used_depth

    deep = sum(scan.deep for scan in scans)
    found = [scan.levels for scan in scans if scan.levels is not None]
    low, high = min((a for a, _ in found), default=0), max((b for _, b in found), default=0)
    depth = used_depth(high) if data.depth == "auto" else check_depth(data.depth, "data.depth")
    depth = depth if deep else FULL
    if deep:
        _log.info(
            "%s images have 16 bits a channel and levels from %s to %s; data.depth = %s is %s",
            f"{deep:,}", f"{low:,}", f"{high:,}", data.depth, depth_in_words(depth),
        )  # fmt: skip
        _warn(identity, depth, low, high)
    counts = {name: sum(getattr(scan, name) for scan in scans) for name in ("flat", "black")}
    if counts["flat"]:
        _log.warning(
            "%s images have one colour all over, %s of them are black: look whether they should be "
            "among the images (dataset_report.html)",
            f"{counts['flat']:,}", f"{counts['black']:,}",
        )  # fmt: skip
    if deep or counts["flat"]:
        shown = depth if isinstance(depth, int) else list(depth)
        write_json(
            folder / LEVELS,
            {"deep": deep, "lowest": low, "highest": high, "depth": shown, **counts},
        )
    return depth


def depth_in_words(depth: Depth) -> str:
    """What of 16 bits is seen."""
    if isinstance(depth, int):
        return f"the upper 8 of {depth} bits"
    return f"levels {depth[0]:,} to {depth[1]:,}, scaled"


def _warn(identity: Identity, depth: Depth, low: int, high: int) -> None:
    """Say so where much of what the files tell is lost: most levels unused, or some cut off."""
    bottom, top = depth if isinstance(depth, tuple) else (0, 2**depth - 1)
    if high > top or low < bottom and isinstance(depth, tuple):
        _log.warning(
            "levels beyond %s to %s become 0 or 255: data.depth in conf/%s/parameters.yml",
            f"{bottom:,}", f"{top:,}", identity.environment,
        )  # fmt: skip
    elif (high - low) * _NARROW < top - bottom:
        _log.warning(
            "the levels %s to %s are %d of the 256 that networks see: data.depth: [%d, %d] in "
            "conf/%s/parameters.yml scales them to all of these",
            f"{low:,}", f"{high:,}", 256 * (high - low + 1) // (top - bottom + 1), low, high,
            identity.environment,
        )  # fmt: skip


def read_levels(lists: Path) -> dict[str, Any]:
    """What ``choose_depth`` wrote, as an entry of the summary; empty where there is nothing."""
    path = lists / LEVELS
    return {"levels": read_json(path)} if path.is_file() else {}
