"""Which of several trained models is used: the rule, on what each answered to the same images.

The candidates come in an order of preference. The first is used that the most accurate one beats by
no more than noise: the paired difference is at most ``standard_errors`` times its own standard
error. That is the one-standard-error rule of Breiman, Friedman, Olshen and Stone (Classification
and Regression Trees, 1984, section 3.4.3), with the error of the difference in place of that of the
best: all candidates answered the same images, and most of what those images leave uncertain is the
same for all. With one standard error and top-1 it is McNemar's statistic held to 1:
``(b - c)^2 > b + c``, where b and c are the images that only one of the two has right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.evaluation.metrics import mean_average_precision
from hgnetv2_pipeline.intervals import PairedDifference

# Groups of images that are left out in turn: the error is itself known to 1 / sqrt(2 x 19).
JACKKNIFE_GROUPS = 20


@dataclass(frozen=True)
class ModelChoice:
    """Places of the model that is used and of the most accurate; how far each is behind that."""

    used: int
    leader: int
    behind: tuple[PairedDifference, ...]


def map_difference(
    first: NDArray[Any], second: NDArray[Any], truth: NDArray[Any]
) -> PairedDifference:
    """mAP of the scores ``first`` [N, C] minus that of ``second``, of images with labels ``truth``.

    mAP is no mean over images, so its error is that of a jackknife: every 20th image is left out,
    20 times, and each image once. Of one image nothing is known: the error is 1. Source: B. Efron
    and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 11.

    Raises:
        DataError: shapes that differ, or no image that belongs to a class.
    """

    def difference(kept: NDArray[np.bool_]) -> float:
        if not truth[kept].any():
            return 0.0
        return mean_average_precision(first[kept], truth[kept]) - mean_average_precision(
            second[kept], truth[kept]
        )

    if first.shape != second.shape or first.shape != truth.shape or not truth.any():
        raise DataError(
            f"answers {first.shape} and {second.shape} to images with labels {truth.shape} cannot "
            "be paired, or none of these images belongs to a class"
        )
    value = difference(np.ones(len(truth), bool))
    groups = min(JACKKNIFE_GROUPS, len(truth))
    if groups == 1:
        return PairedDifference(value, 1.0)
    place = np.arange(len(truth))
    without = [difference(place % groups != group) for group in range(groups)]
    spread = sum((each - sum(without) / groups) ** 2 for each in without)
    return PairedDifference(value, math.sqrt(spread * (groups - 1) / groups))


def choose_model(
    values: Sequence[float],
    difference: Callable[[int, int], PairedDifference],
    *,
    standard_errors: float,
) -> ModelChoice:
    """Which of the models with these metrics on val is used, in their order of preference.

    ``difference(i, j)`` is model i minus model j on the same images. Of equally accurate models the
    preferred one leads.

    Raises:
        DataError: there is no model.
    """
    if not values:
        raise DataError("there is no model to choose from")
    leader = values.index(max(values))
    behind = tuple(
        PairedDifference(0.0, 0.0) if place == leader else difference(leader, place)
        for place in range(len(values))
    )
    used = next(p for p, each in enumerate(behind) if not each.exceeds(standard_errors))
    return ModelChoice(used, leader, behind)
