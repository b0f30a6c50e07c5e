"""Contact sheets of a mining: the first and last of each class, and what was taken for copies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hgnetv2_pipeline import data
from hgnetv2_pipeline.mining.twins import pool_places

_PLACE = ["key", "path", "offset", "length"]


def contact_sheets(
    mined: pd.DataFrame,
    dedup: pd.DataFrame,
    *,
    pool: tuple[pd.DataFrame | Path, Path],
    protected: Mapping[str, tuple[pd.DataFrame, Path]],
    classes: Sequence[str],
    columns: int = 10,
    most_rows: int = 20,
) -> dict[str, Image.Image]:
    """Pictures to look at before believing the counts.

    ``top`` and ``bottom``: a row a class (evenly chosen if there are more than ``most_rows``), the
    ``columns`` images the teacher is surest of, and the last ones that came in. ``removed`` and
    ``review``: the pool image, then its protected twin, the least sure pairs first. A sheet with
    nothing to show is absent.
    """
    samples, root = pool
    sheets = {}
    labels = np.unique(mined["label"])
    shown = labels[np.unique(np.linspace(0, len(labels) - 1, most_rows).astype(int))]
    chosen = mined[mined["label"].isin(shown)].sort_values(["label", "rank"])
    for name, rows in (
        ("top", chosen.groupby("label").head(columns)),
        ("bottom", chosen.groupby("label").tail(columns)),
    ):
        if len(rows):
            sheets[name] = _by_class(rows, samples, root, classes, columns)
    for decision, name in (("remove", "removed"), ("review", "review")):
        pairs = dedup[(dedup["decision"] == decision) & (dedup["val_key"] != "")]
        # The farthest hashes first: those the pixels had to decide.
        pairs = pairs.sort_values(["distance", "key"], ascending=[False, True])
        pairs = pairs.head(most_rows * columns // 2)
        if len(pairs):
            sheets[name] = _pairs(pairs, samples, root, protected, columns)
    return sheets


def _by_class(
    rows: pd.DataFrame,
    samples: pd.DataFrame | Path,
    root: Path,
    classes: Sequence[str],
    columns: int,
) -> Image.Image:
    """One strip a class, so that a short class does not shift the ones below it."""
    places = pool_places(samples, rows["key"].to_numpy())
    strips = []
    for label, group in rows.groupby("label"):
        cells = places.loc[group["key"]].reset_index()
        captions = [f"{classes[int(str(label))]} {score:.3f}" for score in group["score"]]
        strips.append(data.contact_sheet(cells, root, columns=columns, captions=captions))
    sheet = Image.new(
        "RGB",
        (max(strip.width for strip in strips), sum(strip.height for strip in strips)),
        "white",
    )
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _pairs(
    pairs: pd.DataFrame,
    samples: pd.DataFrame | Path,
    root: Path,
    protected: Mapping[str, tuple[pd.DataFrame, Path]],
    columns: int,
) -> Image.Image:
    places = pool_places(samples, pairs["key"].to_numpy())
    # A sheet has one root: the folder that holds all of them.
    roots = {name: Path(where).absolute() for name, (_, where) in protected.items()}
    home = Path(root).absolute()
    common = Path(os.path.commonpath([home, *roots.values()]))
    twins = {name: frame.set_index("key")[_PLACE[1:]] for name, (frame, _) in protected.items()}
    cells, captions = [], []
    for pair in pairs.to_dict("records"):
        name = pair["protected"]
        for place, where in (
            (places.loc[pair["key"]], home),
            (twins[name].loc[pair["val_key"]], roots[name]),
        ):
            path = (where / place["path"]).relative_to(common).as_posix()
            cells.append((path, path, place["offset"], place["length"]))
        how = f" {pair['distance']} bits" if pair["channel"] == "phash" else ""
        captions += [f"{pair['channel']}{how}", f"= {name}"]
    frame = pd.DataFrame(cells, columns=_PLACE)
    return data.contact_sheet(frame, common, columns=columns - columns % 2, captions=captions)
