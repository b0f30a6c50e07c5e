"""How bright and how colourful the images of a scan are, in counts that add up over scans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hgnetv2_pipeline.errors import DataError

MEASURED = ("brightness", "red", "green", "blue")
_LEVELS = 256
_PARTS = 16  # a side: an image is looked at in so many parts across and down
_GREY = 8  # levels that the channels of a part may be apart
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns images grey

Tone = tuple[int, int, int, int, bool]
"""Mean brightness, red, green and blue of an image, 0 to 255, and whether it is grey all over."""


@dataclass(frozen=True)
class Tones:
    """Images by their mean levels, 0 to 255; those with transparent pixels are not among them.

    Attributes:
        counts: int64 [4, 256], images by the mean of each of ``MEASURED``.
        grey: how many have no part, of 16 x 16, whose channels are more than 8 levels apart.
    """

    counts: NDArray[np.int64]
    grey: int

    @property
    def images(self) -> int:
        """How many were looked at."""
        return int(self.counts[0].sum())

    def to_json(self) -> dict[str, Any]:
        """What ``tones_from_json`` reads."""
        measured = dict(zip(MEASURED, self.counts.tolist(), strict=True))
        return {"grey": self.grey, **measured}


def tones_from_json(given: dict[str, Any]) -> Tones:
    """What ``Tones.to_json`` gave; DataError for anything else."""
    try:
        counts = np.array([given[name] for name in MEASURED], np.int64)
        found = Tones(counts, int(given["grey"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"no counts of tones ({error!r}); run the ingestion pipeline again") from (
            error
        )
    if counts.shape != (len(MEASURED), _LEVELS):
        raise DataError("no counts of tones; run the ingestion pipeline again")
    return found


def tone_of(image: Image.Image) -> Tone:
    """The tone of an RGB image."""
    size = min(_PARTS, image.width), min(_PARTS, image.height)
    small = np.asarray(image.resize(size, Image.Resampling.BOX), np.int16)
    means = small.reshape(-1, 3).mean(axis=0)
    red, green, blue = np.rint(means).astype(int).tolist()
    grey = bool((small.max(axis=2) - small.min(axis=2)).max() <= _GREY)
    return round(float(means @ _LUMA)), red, green, blue, grey


def count_tones(found: Iterable[Tone]) -> Tones:
    """The counts of these."""
    rows = np.array(list(found), np.int64).reshape(-1, len(MEASURED) + 1)
    counts = [np.bincount(column, minlength=_LEVELS) for column in rows[:, :-1].T]
    return Tones(np.stack(counts), int(rows[:, -1].sum()))


def add_tones(several: Iterable[Tones]) -> Tones:
    """The counts of all of them together."""
    known = list(several)
    none = np.zeros((len(MEASURED), _LEVELS), np.int64)
    return Tones(sum((one.counts for one in known), none), sum(one.grey for one in known))
