"""Labelled images that are probably labelled wrongly, by answers of classifiers that had not seen
them.

Confident learning (Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70,
2021): an image counts as one of class j where its probability of j is at least the mean that images
labelled j have. Where that class is another than its label, the label is suspected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.intervals import wilson_interval


@dataclass(frozen=True)
class LabelErrors:
    """What is thought of N labels.

    Attributes:
        suggested: int64 [N], the class that an image seems to be of: another than its label, unless
            nothing speaks against it.
        score: float64 [N], 1 less the probability of the label: the higher, the more doubtful.
        suspected: bool [N], whether confident learning counts the label as wrong.
        estimate: how many labels are wrong.
        interval: 95 % interval of ``estimate``, by which images there are; what the classifier
            itself gets wrong is not in it.
    """

    suggested: NDArray[np.int64]
    score: NDArray[np.float64]
    suspected: NDArray[np.bool_]
    estimate: float
    interval: tuple[float, float]

    def ranked(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images that are suspected or answered otherwise than ``labels``, worst first."""
        doubted = np.flatnonzero(self.suspected | (self.suggested != labels))
        return doubted[np.argsort(-self.score[doubted], kind="stable")]


def find_label_errors(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64]
) -> LabelErrors:
    """Compare ``labels`` [N] with ``probabilities`` [N, C] by classifiers that had not seen them.

    Each image must have been held out where its row was computed, or it has been learnt by heart.
    A class with one image was never seen where that was held out: nothing is suspected of it.

    Raises:
        DataError: the shapes do not fit, or probabilities are not finite.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(labels) or not len(labels):
        raise DataError(f"{len(labels)} labels and answers {probabilities.shape} do not fit")
    if not np.isfinite(probabilities).all():
        raise DataError("answers to labelled images are not finite")
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    rows = np.arange(len(labels))
    own = probabilities[rows, labels].astype(np.float64)
    sums = np.bincount(labels, weights=own, minlength=classes)
    threshold = np.where(counts > 1, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= threshold, probabilities, -1.0)
    place = confident.argmax(axis=1)
    known = (confident[rows, place] >= 0) & (counts[labels] > 1)
    suspected = known & (place != labels)
    answer = probabilities.argmax(axis=1)
    suggested = np.where(suspected, place, np.where(counts[labels] > 1, answer, labels))
    estimate, interval = _count(labels, place, known, counts)
    return LabelErrors(suggested.astype(np.int64), 1 - own, suspected, estimate, interval)


def _count(
    labels: NDArray[np.int64],
    place: NDArray[np.int64],
    known: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> tuple[float, tuple[float, float]]:
    """Wrong labels: of each class the share of its confident images that are of another one, times
    its images; and an interval, by Wilson's of the share of all confident images.
    """
    seen = np.bincount(labels[known], minlength=len(counts))
    wrong = np.bincount(labels[known & (place != labels)], minlength=len(counts))
    estimate = float((wrong / np.maximum(seen, 1) * counts).sum())
    if not seen.any():
        return estimate, (0.0, float(counts.sum()))
    low, high = wilson_interval(int(wrong.sum()), int(seen.sum()))
    # Classes differ in how many of their images are confident.
    scale = estimate / (wrong.sum() / seen.sum()) if wrong.any() else float(counts.sum())
    return estimate, (low * scale, min(high * scale, float(counts.sum())))
