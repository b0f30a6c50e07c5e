"""Is a pool like the labelled images? Sizes, shapes and tones of both, and what differs clearly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data.scan.tones import MEASURED, Tones

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
CLEAR = 0.75
"""Of pairs of one image of each side, the share from which on the one side is clearly higher."""
CLEAR_GREY = 0.25
"""How far apart the shares of grey images must be to differ clearly."""
FEWEST = 20
"""Images of each side below which nothing is said to differ."""

_Counted = tuple[NDArray[Any], NDArray[np.int64]]  # ascending values, images of each


def compare_sets(
    labelled: pd.DataFrame, pool: pd.DataFrame, tones: tuple[Tones, Tones] | None
) -> dict[str, Any]:
    """How alike the images of a pool and the labelled ones are, JSON-able.

    Args:
        labelled, pool: frames of samples.
        tones: of the labelled images and of the pool's, as they were scanned; None: not known.

    Returns:
        ``measures``: of each measure its name, unit, the ``QUANTILES`` of both sides, ``above``
        (the share of pairs in which the pool's image has the higher value, of equal ones half) and
        ``differs``: higher or lower (``above`` at least ``CLEAR``, or at most 1 less that), or
        null. ``grey``, where tones are known: grey images and all images of both sides, and
        ``differs`` by ``CLEAR_GREY``.
    """
    sides = [
        (frame[["width", "height"]].min(axis=1), frame["width"] / frame["height"])
        for frame in (labelled, pool)
    ]
    measures = [
        _measure(name, unit, *(_counted(side[place]) for side in sides))
        for place, (name, unit) in enumerate((("short side", "pixels"), ("width over height", "")))
    ]
    if tones is None or not all(side.images for side in tones):
        return {"measures": measures}
    levels = np.arange(tones[0].counts.shape[1])
    measures += [
        _measure(name, "mean level", *((levels, side.counts[place]) for side in tones))
        for place, name in enumerate(MEASURED)
    ]
    shares = [side.grey / side.images for side in tones]
    apart = shares[1] - shares[0] if min(side.images for side in tones) >= FEWEST else 0.0
    grey = {
        "labelled": [tones[0].grey, tones[0].images],
        "pool": [tones[1].grey, tones[1].images],
        "differs": _direction(apart, CLEAR_GREY),
    }
    return {"measures": measures, "grey": grey}


def _counted(values: pd.Series) -> _Counted:
    found, counts = np.unique(values.to_numpy(), return_counts=True)
    return found, counts.astype(np.int64)


def _measure(name: str, unit: str, labelled: _Counted, pool: _Counted) -> dict[str, Any]:
    above = _above(labelled, pool)
    enough = min(labelled[1].sum(), pool[1].sum()) >= FEWEST
    return {
        "name": name,
        "unit": unit,
        "labelled": _quantiles(labelled),
        "pool": _quantiles(pool),
        "above": round(above, 4),
        "differs": _direction(above - 0.5, CLEAR - 0.5) if enough else None,
    }


def _quantiles(side: _Counted) -> list[float]:
    """The lowest values with at least these shares of the images at or below them."""
    values, counts = side
    places = np.searchsorted(counts.cumsum(), np.array(QUANTILES) * counts.sum() - 1e-9)
    return [round(float(value), 4) for value in values[places]]


def _above(labelled: _Counted, pool: _Counted) -> float:
    below = np.concatenate([[0], labelled[1].cumsum()])
    less = below[np.searchsorted(labelled[0], pool[0], side="left")]
    at_most = below[np.searchsorted(labelled[0], pool[0], side="right")]
    pairs = float(below[-1]) * float(pool[1].sum())
    return float(((less + at_most) / 2) @ pool[1]) / pairs


def _direction(apart: float, clear: float) -> str | None:
    if abs(apart) < clear:
        return None
    return "higher" if apart > 0 else "lower"
