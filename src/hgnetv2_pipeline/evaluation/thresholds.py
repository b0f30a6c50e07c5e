"""Several labels per image: precision, recall and F1 of a class by its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.evaluation.metrics import Floats, Ints, average_precision, operating_points

FEW = 3  # classes at either end that get curves of their own
_POINTS = 150
ALL_CLASSES = "all classes together (micro)"


def threshold_curves(
    probabilities: Floats, truth: Ints, classes: Sequence[str], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """Curves of all classes together, of the weakest classes and of the best, in this order.

    Args:
        probabilities: [N, C]; ``truth`` [N, C] is 0 or 1.
        thresholds: that are in use, one per class.

    Returns:
        One record per curve: ``class``, ``kind`` (all, weakest, best), ``positives``, ``ap``,
        ``threshold`` (None of all classes), and ``points``: at most 150 of (threshold, precision,
        recall, F1), thresholds descending. Classes without a positive image have no curve.
    """
    found = [
        {
            "class": ALL_CLASSES, "kind": "all", "threshold": None,
            **_curve(probabilities.ravel(), truth.ravel()),
        }
    ]  # fmt: skip
    rated = sorted(
        (ap, at)
        for at in range(truth.shape[1])
        if (ap := average_precision(probabilities[:, at], truth[:, at])) is not None
    )
    weakest, best = rated[:FEW], rated[FEW:][-FEW:]
    for kind, group in (("weakest", weakest), ("best", best)):
        for _, at in group:
            curve = _curve(probabilities[:, at], truth[:, at])
            named = {"class": classes[at], "kind": kind, "threshold": float(thresholds[at])}
            found.append({**named, **curve})
    return found


def _curve(scores: Floats, truth: Ints) -> dict[str, Any]:
    positives = int(truth.sum())
    distinct, precision, _, predicted = operating_points(scores, truth)
    kept = np.unique(np.linspace(0, len(distinct) - 1, _POINTS).round().astype(int))
    at, right = distinct[kept], precision[kept]
    f1 = 2 * right * predicted[kept] / (predicted[kept] + positives)
    recall = right * predicted[kept] / max(positives, 1)
    points: NDArray[np.float64] = np.stack([at, right, recall, f1], axis=1).astype(np.float64)
    ap = average_precision(scores, truth)
    return {"positives": positives, "ap": ap, "points": points.tolist()}
