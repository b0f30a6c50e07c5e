"""Contact sheets of a mining: the first and last of each class, and what was taken for copies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hgnetv2_pipeline.data import report
from hgnetv2_pipeline.data.index import DECODED_BY
from hgnetv2_pipeline.mining.duplicates.find import pool_places
from hgnetv2_pipeline.mining.mined_list import read_batches
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

SHEETS = ("top", "bottom", "removed", "review")
_MOST_ROWS = 20
_TITLE = 22  # pixels, of a line with the name of a class
_PLACE = ["key", "path", "offset", "length", DECODED_BY]
_NOTHING = {
    "top": "no image was mined",
    "bottom": "no image was mined",
    "removed": "no image was removed for its likeness to a protected one",
    "review": "no pair waits for a person",
}


def contact_sheets(
    mined: Path,
    dedup: pd.DataFrame,
    *,
    pool: tuple[pd.DataFrame | Path, Path],
    protected: Mapping[str, tuple[pd.DataFrame | Path, Path]],
    classes: Sequence[str],
    columns: int = 10,
    scored: ScoredPool | None = None,
    truth: pd.DataFrame | None = None,
) -> dict[str, Image.Image]:
    """Pictures to look at before believing the counts, by the names in ``SHEETS``.

    ``top`` and ``bottom``: one row per class (evenly chosen if more than twenty), the ``columns``
    images the teacher is surest of, and the last ones that came in, each with its margin by
    ``scored`` or, without that, its score; where ``truth`` (key, label; NA = of no class) is known
    wrong ones have a red frame. ``removed`` and
    ``review``: the pairs of ``shown_pairs``, the pool image, then its protected twin, with channel
    and bits below the one, set and inliers below the other. A sheet with nothing to show says so.
    ``mined`` (the list as parquet) and indexes given as paths are read row by row as needed.
    """
    samples, root = pool
    shown = _edges(mined, columns, _MOST_ROWS)
    shown = shown.assign(said=_numbers(shown, scored), wrong=False)
    if truth is not None:
        shown = _judged(shown, truth, classes)
    sheets = {}
    for name in ("top", "bottom"):
        rows = shown[shown[name]]
        sheets[name] = (
            _by_class(rows, samples, root, classes, columns) if len(rows) else _blank(name)
        )
    for decision, name in (("remove", "removed"), ("review", "review")):
        pairs = shown_pairs(dedup, decision, _MOST_ROWS * (columns // 2))
        sheets[name] = (
            _pairs(pairs, samples, root, protected, columns) if len(pairs) else _blank(name)
        )
    return sheets


def shown_pairs(dedup: pd.DataFrame, decision: str, most: int) -> pd.DataFrame:
    """The ``most`` pairs with this decision that deserve a look: the farthest hashes first, which
    are those the pixels had to decide."""
    pairs = dedup[(dedup["decision"] == decision) & (dedup["val_key"] != "")]
    return pairs.sort_values(["distance", "key"], ascending=[False, True]).head(most)


def _edges(mined: Path, columns: int, most_rows: int) -> pd.DataFrame:
    """The first and the last images of some classes: key, label, score, rank, top, bottom."""
    import pyarrow as pa

    depth: dict[Any, int] = {}
    for batch in read_batches(mined, ["label", "rank"]):
        for label, rank in batch.to_pandas().groupby("label")["rank"].max().items():
            depth[label] = max(rank, depth.get(label, 0))
    labels = np.array(sorted(depth), dtype=np.int64)
    chosen = np.unique(np.linspace(0, max(0, len(labels) - 1), most_rows).astype(int))
    labels = labels[chosen[: len(labels)]]
    parts = [pd.DataFrame(columns=["key", "label", "score", "rank", "top", "bottom"])]
    # Of millions of images only these few become a frame.
    for batch in read_batches(mined, ["key", "label", "score", "rank"]):
        rows = batch.filter(pa.array(np.isin(batch["label"].to_numpy(), labels))).to_pandas()
        rows["top"] = rows["rank"] <= columns
        rows["bottom"] = rows["rank"] > rows["label"].map(depth) - columns
        parts.append(rows[rows["top"] | rows["bottom"]])
    found = pd.concat([part for part in parts if len(part)] or parts[:1])
    return found.sort_values(["label", "rank"], ignore_index=True)


def _numbers(rows: pd.DataFrame, scored: ScoredPool | None) -> list[str]:
    """Of each row its margin: the logit of its class less the highest of the others.

    Probabilities of sure answers are all 1.000; margins still tell them apart. It is the score
    where margins are not asked for or only one class is stored.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if scored is None or scored.kept < 2:
        return [f"{score:.3f}" for score in rows["score"]]
    wanted = pa.array(rows["key"], pa.large_string())
    margins: dict[tuple[str, int], float] = {}
    for batch in scored.chunks(["key", "top_ids", "top_logits"]):
        some = batch.filter(pc.is_in(batch["key"].cast(wanted.type), value_set=wanted))
        for row in some.to_pylist():
            ids, logits = row["top_ids"], row["top_logits"]
            for place, label in enumerate(ids):
                other = logits[0] if place else logits[1]
                margins[row["key"], label] = logits[place] - other
    places = zip(rows["key"], rows["label"], strict=True)
    return [f"{margins[key, int(label)]:.1f}" for key, label in places]


def _judged(rows: pd.DataFrame, truth: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """``rows`` with ``wrong``, and what the wrong ones are in ``said``."""
    known = truth.drop_duplicates("key").set_index("key")["label"].astype("Int64")
    true = known.reindex(rows["key"])
    labels = rows["label"].to_numpy(np.int64)
    wrong: NDArray[np.bool_] = rows["key"].isin(known.index).to_numpy() & (
        true.fillna(-1).to_numpy(np.int64) != labels
    )
    said = [
        f"{number} {'of none' if pd.isna(label) else 'is ' + classes[int(label)]}"
        if bad
        else number
        for number, label, bad in zip(rows["said"], true, wrong, strict=True)
    ]
    return rows.assign(said=said, wrong=wrong)


def _titled(pictures: Image.Image, title: str) -> Image.Image:
    sheet = Image.new("RGB", (pictures.width, pictures.height + _TITLE), "white")
    sheet.paste(pictures, (0, _TITLE))
    ImageDraw.Draw(sheet).text((4, 3), title, fill="black", font=ImageFont.load_default(14))
    return sheet


def _blank(name: str) -> Image.Image:
    """A sheet that says why it shows nothing."""
    sheet = Image.new("RGB", (480, 40), "white")
    ImageDraw.Draw(sheet).text((8, 12), f"Nothing to show: {_NOTHING[name]}.", fill="black")
    return sheet


def _by_class(
    rows: pd.DataFrame,
    samples: pd.DataFrame | Path,
    root: Path,
    classes: Sequence[str],
    columns: int,
) -> Image.Image:
    """One strip per class, so that a short class does not shift the ones below it."""
    places = pool_places(samples, rows["key"].to_numpy())
    strips = []
    for label, group in rows.groupby("label"):
        cells = places.loc[group["key"]].reset_index()
        pictures = report.contact_sheet(
            cells,
            root,
            columns=columns,
            captions=group["said"].tolist(),
            marked=group["wrong"].tolist(),
            font_size=13,
        )
        strips.append(_titled(pictures, classes[int(str(label))]))
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
    protected: Mapping[str, tuple[pd.DataFrame | Path, Path]],
    columns: int,
) -> Image.Image:
    places = pool_places(samples, pairs["key"].to_numpy())
    # A sheet has one root: the folder that holds all of them.
    roots = {name: Path(where).absolute() for name, (_, where) in protected.items()}
    home = Path(root).absolute()
    common = Path(os.path.commonpath([home, *roots.values()]))
    twins = {
        str(name): pool_places(protected[str(name)][0], rows["val_key"].unique())
        for name, rows in pairs.groupby("protected", observed=True)
    }
    cells, captions = [], []
    for pair in pairs.to_dict("records"):
        name = pair["protected"]
        for place, where in (
            (places.loc[pair["key"]], home),
            (twins[name].loc[pair["val_key"]], roots[name]),
        ):
            path = (where / place["path"]).relative_to(common).as_posix()
            background = place.get(DECODED_BY)
            cells.append((path, path, place["offset"], place["length"], background))
        bits = f" {pair['distance']} bits" if pair["distance"] >= 0 else ""
        inliers = f", {pair['inliers']} inliers" if pair["inliers"] else ""
        captions += [f"{pair['channel']}{bits}", f"= {name}{inliers}"]
    frame = pd.DataFrame(cells, columns=_PLACE)
    return report.contact_sheet(frame, common, columns=columns - columns % 2, captions=captions)
