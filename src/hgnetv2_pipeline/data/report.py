"""What a data set holds, in numbers (JSON-able), and contact sheets to look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from hgnetv2_pipeline.data.index import read_image
from hgnetv2_pipeline.data.lists.multi_label import (
    images_per_class,
    is_multi_label,
    label_matrix,
    label_text,
)
from hgnetv2_pipeline.data.split import conflicting_copies
from hgnetv2_pipeline.errors import DataError

_EXAMPLES = 20
_RED = "#c00000"
_SIDES = (32, 64, 128, 256, 384, 512, 768, 1024, 2048)


def summarise_sets(
    sets: Mapping[str, pd.DataFrame],
    classes: Sequence[str] | None,
    quarantined: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, Any]:
    """Counts of each set and what they share.

    Args:
        sets: frames of samples by name (train, val, pool ...).
        classes: class names by label.
        quarantined: columns key, reason, line by set name.

    Returns:
        ``sets``: a summary each (``summarise_samples``); ``shared``: exact copies between each pair
        of sets (count and examples); ``conflicting_labels``: same bytes, different labels.
    """
    bad = quarantined or {}
    parts = []
    for name, frame in sets.items():
        labels = label_text(frame)
        known = frame[labels.notna()]  # of a pool nothing
        parts.append(
            pd.DataFrame(
                {
                    "key": name + ":" + known["key"],
                    "bytes_sha256": known["bytes_sha256"],
                    "label": labels[labels.notna()].astype("object"),
                }
            )
        )
    said = pd.concat(parts, ignore_index=True)
    shared = []
    for (first, a), (second, b) in combinations(sets.items(), 2):
        # Few are shared; a merge would copy all the others.
        columns = ["key", "bytes_sha256"]
        copies = b.loc[b["bytes_sha256"].isin(a["bytes_sha256"]), columns]
        copied = a.loc[a["bytes_sha256"].isin(copies["bytes_sha256"]), columns]
        both = pd.merge(
            copied, copies, on="bytes_sha256", suffixes=("_first", "_second")
        ).sort_values(["key_first", "key_second"])
        examples = both[["key_first", "key_second"]].head(_EXAMPLES).values.tolist()
        shared.append(
            {
                "first": first,
                "second": second,
                "n_images": int(both["key_second"].nunique()),
                "examples": examples,
            }
        )
    conflicts = conflicting_copies(said)
    return {
        "sets": {
            name: summarise_samples(frame, classes, bad.get(name)) for name, frame in sets.items()
        },
        "shared": shared,
        "conflicting_labels": [
            {"bytes_sha256": digest, "key": key, "label": label}
            for digest, key, label in conflicts.itertuples(index=False)
        ],
    }


def summarise_samples(
    samples: pd.DataFrame,
    classes: Sequence[str] | None,
    quarantined: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Counts of one set: images, classes, imbalance, formats, sizes, copies, unreadable ones."""
    several = is_multi_label(samples)
    labelled = len(samples) if several else int(samples["label"].notna().sum())
    counts = images_per_class(samples, len(classes or ())) if labelled else np.zeros(0, int)
    names = list(classes) if classes is not None else [str(n) for n in range(len(counts))]
    present = counts[counts > 0]
    copies = samples["bytes_sha256"].duplicated(keep="first")
    return {
        "n_images": len(samples),
        "n_labelled": labelled,
        "n_classes": int((counts > 0).sum()),
        "n_quarantined": 0 if quarantined is None else len(quarantined),
        "bytes": int(samples["length"].sum()),
        "class_counts": [
            {"label": label, "name": names[label], "n": int(count)}
            for label, count in enumerate(counts)
        ],
        **({"labels_per_image": _labels_per_image(samples)} if several else {}),
        "imbalance": float(present.max() / present.min()) if len(present) else None,
        "formats": {str(k): int(v) for k, v in sorted(samples["format"].value_counts().items())},
        "width": _spread(samples["width"]),
        "height": _spread(samples["height"]),
        "short_side": _bins(samples[["width", "height"]].min(axis=1)),
        "aspect": _aspect(samples),
        "exact_copies": {
            "n_images": int(copies.sum()),
            "examples": samples["key"][copies].head(_EXAMPLES).tolist(),
        },
        "unreadable": []
        if quarantined is None
        else [
            {"key": key, "reason": reason}
            for key, reason in quarantined[["key", "reason"]]
            .head(_EXAMPLES)
            .itertuples(index=False)
        ],
    }


def _labels_per_image(samples: pd.DataFrame) -> dict[str, Any]:
    """How many classes an image has: the mean, and images by their number of classes."""
    numbers = label_matrix(samples).sum(axis=1, dtype=np.int64)
    images = np.bincount(numbers)
    return {
        "mean": float(numbers.mean()) if len(numbers) else None,
        "images": [[at, int(images[at])] for at in np.flatnonzero(images).tolist()],
    }


def _spread(values: pd.Series) -> dict[str, int] | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": int(values.median()), "max": int(values.max())}


def _aspect(samples: pd.DataFrame) -> dict[str, Any] | None:
    """Median of width over height; median share of an image that the largest square in it has, and
    how many images that is less than half of.
    """
    if not len(samples):
        return None
    edges = samples[["width", "height"]]
    shares = edges.min(axis=1) / edges.max(axis=1)
    return {
        "median": float((samples["width"] / samples["height"]).median()),
        "square_share": float(shares.median()),
        "n_below_half": int((shares < 0.5).sum()),
    }


def _bins(sides: pd.Series) -> list[tuple[str, int]]:
    """Images by short side, from the first bin that holds one to the last."""
    edges = [0, *_SIDES]
    counts = np.bincount(np.searchsorted(_SIDES, sides, side="right"), minlength=len(edges))
    names = [f"{a}-{b - 1}" for a, b in pairwise(edges)] + [f"{edges[-1]} or more"]
    held = np.flatnonzero(counts)
    return (
        [(names[at], int(counts[at])) for at in range(held[0], held[-1] + 1)] if len(held) else []
    )


def fit_into(image: Image.Image, cell: int) -> Image.Image:
    """``image`` with its long side ``cell`` pixels; a small one with its pixels, not blurred."""
    scale = cell / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    return image.resize((width, height), how)


def contact_sheet(
    samples: pd.DataFrame,
    root: Path,
    columns: int = 10,
    cell: int = 96,
    captions: Sequence[str] | None = None,
    marked: Sequence[bool] | None = None,
    font_size: int = 10,
) -> Image.Image:
    """The images of ``samples`` in rows, each fitted into a square; unreadable ones crossed out.

    Args:
        columns: images per row (fewer samples make a narrower sheet).
        cell: side of a square in pixels.
        captions: a line of text below each image, cut to the width of its square.
        marked: which images have a red frame, and a red caption.
        font_size: of the captions, pixels.

    Raises:
        DataError: there is nothing to show, or not one caption an image.
    """
    if not len(samples) or (captions is not None and len(captions) != len(samples)):
        raise DataError(
            f"a contact sheet of {len(samples)} images with "
            f"{'no' if captions is None else len(captions)} captions; one each is needed"
        )
    columns = min(columns, len(samples))
    line, gap = (font_size + 4 if captions is not None else 0), 2
    height = cell + line + gap
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(font_size)
    for at, row in enumerate(samples.itertuples(index=False)):
        left, top = (at % columns) * (cell + gap) + gap, (at // columns) * height + gap
        try:
            image = read_image(row, root)
        except DataError:
            box = (left, top, left + cell - 1, top + cell - 1)
            draw.rectangle(box, outline="firebrick")
            draw.line(box, fill="firebrick")
        else:
            fitted = fit_into(image, cell)
            wide, high = fitted.size
            sheet.paste(fitted, (left + (cell - wide) // 2, top + (cell - high) // 2))
        red = marked is not None and marked[at]
        if red:
            draw.rectangle((left, top, left + cell - 1, top + cell - 1), outline=_RED, width=4)
        if captions is not None:
            text = captions[at]
            while text and draw.textlength(text, font=font) > cell:
                text = text[:-1]
            draw.text((left, top + cell), text, fill=_RED if red else "black", font=font)
    return sheet
