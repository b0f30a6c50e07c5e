"""Metrics from logits [N, C] and labels [N], in NumPy alone: sums first, then one division."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError, ParameterError

# Above this many classes a confusion matrix is mostly zeros and megabytes of JSON.
LARGEST_CONFUSION = 100
MOST_CONFUSED = 50
CALIBRATION_BINS = 15

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def ranks(logits: Floats, labels: Ints) -> NDArray[np.int64]:
    """Rank [N] of the true class, 0 = highest; among equal logits the lower class comes first."""
    logits, labels = _checked(logits, labels)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    higher = (logits > own).sum(axis=1)
    earlier = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return np.asarray(higher + earlier.sum(axis=1), dtype=np.int64)


def topk_counts(logits: Floats, labels: Ints, ks: Sequence[int]) -> dict[int, int]:
    """How many images have their true class among the k highest logits, for each k.

    k above the number of classes is an error: it would always count everything.
    """
    rank = ranks(logits, labels)
    for k in ks:
        if not 1 <= k <= np.asarray(logits).shape[1]:
            raise ParameterError(
                f"top-{k} of {np.asarray(logits).shape[1]} classes is not a measurement; "
                "k must be from 1 to the number of classes"
            )
    return {k: int((rank < k).sum()) for k in ks}


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Softmax over classes [N, C], in float64."""
    wide = np.asarray(logits, dtype=np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def wilson_interval(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion (95 % by default): honest for small n and near 1."""
    if not 0 <= successes <= n or n < 1:
        raise ParameterError(f"{successes} successes of {n} is not a proportion")
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins (Guo et al., 1706.04599)."""
    confidence = np.asarray(confidence, dtype=np.float64)
    # Bins are open on the left: a confidence of exactly 1/15 belongs to the first.
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    trusted = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, weights=correct, minlength=CALIBRATION_BINS)
    return float(np.abs(trusted - right).sum() / len(confidence))


def summarise(logits: Floats, labels: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics of an evaluation as JSON-able values.

    ``n, top1_count, top5_count, top1, top5, top1_interval, classes, per_class, confusion,
    most_confused, ece``. With fewer than five classes there is no top-5: both entries are None.
    ``confusion[true][predicted]`` is None above 100 classes; ``most_confused`` always lists the
    largest mistakes. ``per_class`` holds, in class order, the name, n, correct, predicted, recall
    and precision (None where nothing was there to divide by).
    """
    logits, labels = _checked(logits, labels)
    count = len(classes)
    if logits.shape[1] != count:
        raise DataError(f"the model answers for {logits.shape[1]} classes, the data has {count}")
    n = len(labels)
    counts = topk_counts(logits, labels, [k for k in (1, 5) if k <= count])
    probabilities = softmax(logits)
    # argmax takes the first of equal values, as ranks() does.
    predicted = logits.argmax(axis=1)
    confusion = np.bincount(labels * count + predicted, minlength=count * count)
    confusion = confusion.reshape(count, count)
    return {
        "n": n,
        "top1_count": counts[1],
        "top5_count": counts.get(5),
        "top1": counts[1] / n,
        "top5": counts[5] / n if 5 in counts else None,
        "top1_interval": list(wilson_interval(counts[1], n)),
        "classes": list(classes),
        "per_class": _per_class(confusion, classes),
        "confusion": confusion.tolist() if count <= LARGEST_CONFUSION else None,
        "most_confused": _most_confused(confusion, classes),
        "ece": expected_calibration_error(probabilities.max(axis=1), predicted == labels),
    }


def _per_class(confusion: Ints, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for index, name in enumerate(classes):
        correct = int(confusion[index, index])
        n, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        rows.append(
            {
                "class": name,
                "n": n,
                "correct": correct,
                "predicted": predicted,
                "recall": correct / n if n else None,
                "precision": correct / predicted if predicted else None,
            }
        )
    return rows


def _most_confused(confusion: Ints, classes: Sequence[str]) -> list[dict[str, Any]]:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MOST_CONFUSED]
    return [
        {"true": classes[i // len(classes)], "predicted": classes[i % len(classes)], "count": c}
        for i in order.tolist()
        if (c := int(mistakes.flat[i])) > 0
    ]


def _checked(logits: Floats, labels: Ints) -> tuple[Floats, NDArray[np.int64]]:
    logits, wanted = np.asarray(logits), np.asarray(labels).astype(np.int64)
    if logits.ndim != 2 or wanted.shape != logits.shape[:1]:
        raise DataError(
            f"logits {logits.shape} and labels {wanted.shape} are not [N, C] and [N] of one N"
        )
    if not len(wanted):
        raise DataError("no image to evaluate")
    if wanted.min() < 0 or wanted.max() >= logits.shape[1]:
        raise DataError(
            f"labels from {wanted.min()} to {wanted.max()} do not fit {logits.shape[1]} classes"
        )
    if not np.isfinite(logits).all():
        raise DataError(f"{int((~np.isfinite(logits)).any(axis=1).sum())} images got NaN or inf")
    return logits, wanted
