"""Suspected pairs decided: by the hash alone up to ``auto_max`` bits, else by their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.duplicates.compare import Evidence, Thresholds, compare
from hgnetv2_pipeline.mining.duplicates.grey_image import GreyImage
from hgnetv2_pipeline.mining.duplicates.guarded_sets import GuardedImages, Shelf, read_grey
from hgnetv2_pipeline.progress import Progress

COLUMNS = [
    "key", "val_key", "protected", "channel", "distance", "inliers", "correlation", "high_pass",
    "decision",
]  # fmt: skip


def judge_pairs(
    found: Mapping[str, pd.DataFrame],
    settled: set[str],
    near: GuardedImages,
    places: Callable[[NDArray[Any]], pd.DataFrame],
    root: Path,
    auto_max: int,
    limits: Thresholds,
    workers: int,
) -> list[dict[str, Any]]:
    """One row per pool image with pairs: the pixels decide wherever the hash alone may not.

    ``found`` holds each channel's pairs (key, position of the twin, view, distance), best first;
    keys in ``settled`` are decided already. ``places`` gives path, offset and length of pool images
    by key, which are below ``root``.
    """
    parts = [part.assign(channel=channel) for channel, part in found.items() if len(part)]
    if not parts:
        return []
    pairs = pd.concat(parts, ignore_index=True)
    pairs = pairs[~pairs["key"].isin(settled)]
    where = places(pairs["key"].unique())
    shelf = Shelf(near)

    def judged(item: tuple[str, pd.DataFrame]) -> dict[str, Any]:
        key, tried = item
        picture: GreyImage | None = None
        best: dict[str, Any] | None = None
        values = (tried[name].tolist() for name in ("position", "view", "distance", "channel"))
        for position, view, distance, channel in zip(*values, strict=True):
            twin = near.rows.iloc[position]
            if 0 <= distance <= auto_max:
                return pair_row(key, twin, channel, distance, Evidence(), "remove")
            picture = picture or GreyImage(read_grey(where.loc[key], root))
            evidence = compare(picture, shelf.get(position), view, limits)
            decision = evidence.decision(limits)
            row = pair_row(key, twin, channel, distance, evidence, decision)
            if best is None or _weight(row) > _weight(best):
                best = row
            if decision == "remove":
                break
        assert best is not None  # noqa: S101
        return best

    items = [(str(key), tried) for key, tried in pairs.groupby("key", sort=True)]
    rows = []
    with (
        ThreadPoolExecutor(workers) as threads,
        Progress(len(items), "verifying near-duplicates", "img") as progress,
    ):
        for row in threads.map(judged, items):
            rows.append(row)
            progress.advance()
    return rows


def _weight(row: Mapping[str, Any]) -> tuple[int, float]:
    return (("keep", "review", "remove").index(row["decision"]), row["correlation"])


def pair_row(
    key: str,
    twin: pd.Series[Any],
    channel: str,
    distance: int,
    evidence: Evidence,
    decision: str,
) -> dict[str, Any]:
    """A row of the result: a pool image, its protected twin, what speaks for it, the decision."""
    values = (
        key, twin["key"], twin["protected"], channel, distance, evidence.inliers,
        evidence.correlation, evidence.high_pass, decision,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
