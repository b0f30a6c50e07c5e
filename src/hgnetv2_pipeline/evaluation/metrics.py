"""Metrics from logits [N, C] and labels [N], or label matrices [N, C] of 0 and 1 where an image may
belong to several classes; in NumPy alone: sums first, then one division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.intervals import wilson_interval

# Above this many classes a confusion matrix is mostly zeros and megabytes of JSON.
LARGEST_CONFUSION = 100
MOST_CONFUSED = 50
CALIBRATION_BINS = 15
NEUTRAL_THRESHOLD = 0.5
"""Probability from which on one of several classes is reported, where none was chosen on val."""

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
    # In place: of a validation set with thousands of classes each copy takes gigabytes.
    powers = np.array(logits, dtype=np.float64)
    powers -= powers.max(axis=1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def calibration_bins(
    confidence: Floats, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Images, sum of their confidences and right answers in each of 15 equal bins of confidence.

    Bins are open on the left, as in Guo et al. (arXiv:1706.04599): a confidence of exactly 1/15
    belongs to the first.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    trusted = np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
    images, right = (
        np.bincount(each, minlength=CALIBRATION_BINS).astype(np.int64)
        for each in (bins, bins[np.asarray(correct, dtype=bool)])
    )
    return images, trusted.astype(np.float64), right


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins (Guo et al., 1706.04599)."""
    _, trusted, right = calibration_bins(confidence, correct)
    return float(np.abs(trusted - right).sum() / len(confidence))


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """The sigmoid of each value, in float64."""
    wide = np.asarray(logits, dtype=np.float64)
    # Of the negative magnitude: nothing overflows, and small probabilities keep their digits.
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1 + small))


def average_precision(scores: Floats, truth: Ints, missed: int = 0) -> float | None:
    """Average precision of one class: the sum over thresholds of precision times gained recall.

    scikit-learn's ``average_precision_score``: no interpolation, and equal scores [N] are one
    threshold. ``truth`` [N] is 0 or 1; ``missed`` counts further positives that nobody scored, and
    that are therefore never found. None without any positive.
    """
    positives = int(np.sum(truth)) + missed
    if not positives:
        return None
    precision, gained = operating_points(scores, truth)[1:3]
    return float((precision * gained).sum() / positives)


def roc_auc(scores: Floats, truth: Ints, missed: int = 0) -> float | None:
    """Area under the ROC curve of one class: the chance that an image of it has a higher score than
    one that is not, equal scores counting a half (the Mann-Whitney statistic).

    scikit-learn's ``roc_auc_score``. ``truth`` [N] is 0 or 1; ``missed`` counts further positives
    that nobody scored, each below all others. None without a positive or without a negative.
    """
    truth = np.asarray(truth) == 1
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives + missed or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # The mean rank of each distinct score, doubled: whole numbers, whose sum is exact.
    ranks = 2 * counts.cumsum() - counts + 1
    higher = int(ranks[inverse][truth].sum()) - positives * (positives + 1)
    return higher / (2 * negatives * (positives + missed))


def cross_entropies(logits: Floats, labels: Ints) -> NDArray[np.float64]:
    """``-log softmax`` [N] of the true class, in float64."""
    logits, labels = _checked(logits, labels)
    wide = np.asarray(logits, dtype=np.float64)
    top = wide.max(axis=1)
    total = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
    return np.asarray(total - np.take_along_axis(wide, labels[:, None], axis=1)[:, 0])


def binary_cross_entropies(logits: Floats, labels: Ints) -> NDArray[np.float64]:
    """The binary cross-entropy of each image, summed over the classes [N], in float64."""
    logits, truth = _checked_matrix(logits, labels)
    wide = np.asarray(logits, dtype=np.float64)
    each = np.maximum(wide, 0) - wide * truth + np.log1p(np.exp(-np.abs(wide)))
    return np.asarray(each.sum(axis=1))


def mean_average_precision(logits: Floats, labels: Ints) -> float:
    """mAP of [N, C]: the mean over the classes that have a positive of their average precision.

    Raises:
        DataError: no image belongs to any class.
    """
    logits, truth = _checked_matrix(logits, labels)
    found = [average_precision(logits[:, at], truth[:, at]) for at in range(truth.shape[1])]
    known = [value for value in found if value is not None]
    if not known:
        raise DataError("no image belongs to any class; mAP has nothing to be measured on")
    return float(np.mean(known))


def best_thresholds(logits: Floats, labels: Ints) -> NDArray[np.float64]:
    """float64 [C]: for each class the probability from which on telling it gives the best F1.

    Of equal F1 the highest threshold. A threshold is half-way between the lowest probability
    that counts and the next one, so that rounding in another engine moves no image across; a
    class without positives has 0.5.
    """
    logits, truth = _checked_matrix(logits, labels)
    probabilities = sigmoid(logits)
    chosen = np.full(truth.shape[1], NEUTRAL_THRESHOLD)
    for at in np.flatnonzero(truth.any(axis=0)).tolist():
        scores, precision, _, predicted = operating_points(probabilities[:, at], truth[:, at])
        f1 = 2 * precision * predicted / (predicted + truth[:, at].sum())
        best = int(np.argmax(f1))
        below = scores[best + 1] if best + 1 < len(scores) else 0.0
        chosen[at] = (scores[best] + below) / 2
    return chosen


def summarise_multi_label(
    logits: Floats,
    labels: Ints,
    classes: Sequence[str],
    thresholds: Sequence[float] | None = None,
    missed: Ints | None = None,
) -> dict[str, Any]:
    """All metrics of an evaluation with several labels per image, as JSON-able values.

    ``n, map, map_classes`` (classes with a positive, over which mAP is the mean), ``true_positives,
    false_positives, false_negatives`` and ``f1_micro`` of all classes together, ``f1_macro`` (mean
    over the classes with a positive), ``roc_auc`` (mean over those that also have a negative),
    ``exact_count`` (images of which all classes are right), ``classes``, and ``per_class`` in class
    order: ``class, n`` (positives), ``ap, auc, threshold``, the three counts, ``precision, recall,
    f1``. None is given where there was nothing to divide by.

    Args:
        thresholds: probability from which on a class is reported, one per class; 0.5 by default.
        missed: int [C], positives among images that could not be read: never found.
    """
    logits, truth = _checked_matrix(logits, labels)
    count = len(classes)
    if logits.shape[1] != count:
        raise DataError(f"the model answers for {logits.shape[1]} classes, the data has {count}")
    least = np.full(count, NEUTRAL_THRESHOLD) if thresholds is None else np.asarray(thresholds)
    if least.shape != (count,):
        raise DataError(f"{least.size} thresholds for {count} classes")
    lost = np.zeros(count, np.int64) if missed is None else np.asarray(missed, dtype=np.int64)
    predicted = sigmoid(logits) >= least
    right = (predicted & (truth == 1)).sum(axis=0)
    wrong = (predicted & (truth == 0)).sum(axis=0)
    absent = truth.sum(axis=0) + lost - right
    rows = []
    for at, name in enumerate(classes):
        tp, fp, fn = int(right[at]), int(wrong[at]), int(absent[at])
        rows.append(
            {
                "class": name,
                "n": tp + fn,
                "ap": average_precision(logits[:, at], truth[:, at], int(lost[at])),
                "auc": roc_auc(logits[:, at], truth[:, at], int(lost[at])),
                "threshold": float(least[at]),
                "true_positives": tp,
                "false_positives": fp,
                "false_negatives": fn,
                "precision": tp / (tp + fp) if tp + fp else None,
                "recall": tp / (tp + fn) if tp + fn else None,
                "f1": _f1(tp, fp, fn) if tp + fn else None,
            }
        )
    sums = int(right.sum()), int(wrong.sum()), int(absent.sum())
    return {
        "n": len(truth),
        "map": _mean_of(rows, "ap"),
        "map_classes": sum(row["ap"] is not None for row in rows),
        "true_positives": sums[0],
        "false_positives": sums[1],
        "false_negatives": sums[2],
        "f1_micro": _f1(*sums),
        "f1_macro": _mean_of(rows, "f1"),
        "roc_auc": _mean_of(rows, "auc"),
        "exact_count": int((predicted == (truth == 1)).all(axis=1).sum()),
        "classes": list(classes),
        "per_class": rows,
    }


def _mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean over the classes of which there is such a number."""
    known = [row[name] for row in rows if row[name] is not None]
    return float(np.mean(known)) if known else None


def _f1(true_positives: int, false_positives: int, false_negatives: int) -> float | None:
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else None


def operating_points(scores: Floats, truth: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """The distinct scores [K] of ``scores`` [N], from high to low; with each as the threshold:
    precision, the positives that it alone adds, and how many images have that score or a higher.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ordered, hits = np.asarray(scores)[order], np.asarray(truth, dtype=np.int64)[order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    found, predicted = hits.cumsum()[last], last + 1.0
    return ordered[last], found / predicted, np.diff(found, prepend=0).astype(np.float64), predicted


def _checked_matrix(logits: Floats, labels: Ints) -> tuple[Floats, NDArray[np.int64]]:
    logits, truth = np.asarray(logits), np.asarray(labels).astype(np.int64)
    if logits.ndim != 2 or truth.shape != logits.shape:
        raise DataError(f"logits {logits.shape} and labels {truth.shape} are not both [N, C]")
    if not len(truth):
        raise DataError("no image to evaluate")
    if not np.isin(truth, (0, 1)).all():
        raise DataError("labels of several classes are 0 or 1 for each")
    if not np.isfinite(logits).all():
        raise DataError(f"{int((~np.isfinite(logits)).any(axis=1).sum())} images got NaN or inf")
    return logits, truth


def summarise(logits: Floats, labels: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics of an evaluation as JSON-able values.

    ``n, top1_count, top5_count, top1, top5, top1_interval, balanced_accuracy, f1_macro, roc_auc,
    classes, per_class, confusion, most_confused, ece``. With fewer than five classes there is no
    top-5: both entries are None. ``confusion[true][predicted]`` is None above 100 classes;
    ``most_confused`` always lists the largest mistakes. ``per_class`` holds, in class order, the
    name, n, correct, predicted, recall, precision, f1 and auc (the class against all others, by its
    probability), None where nothing was there to divide by; ``balanced_accuracy``, ``f1_macro`` and
    ``roc_auc`` are the means of recall, f1 and auc over the classes that have an image.
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
    rows = _per_class(predicted, classes, probabilities, labels)
    return {
        "n": n,
        "top1_count": counts[1],
        "top5_count": counts.get(5),
        "top1": counts[1] / n,
        "top5": counts[5] / n if 5 in counts else None,
        "top1_interval": list(wilson_interval(counts[1], n)),
        "balanced_accuracy": _mean_of(rows, "recall"),
        "f1_macro": _mean_of(rows, "f1"),
        "roc_auc": _mean_of(rows, "auc"),
        "classes": list(classes),
        "per_class": rows,
        "confusion": _confusion(predicted, labels, count) if count <= LARGEST_CONFUSION else None,
        "most_confused": _most_confused(predicted, labels, classes),
        "ece": expected_calibration_error(probabilities.max(axis=1), predicted == labels),
    }


def _per_class(
    predicted: Ints, classes: Sequence[str], probabilities: Floats, labels: Ints
) -> list[dict[str, Any]]:
    count = len(classes)
    hits, listed, answered = (
        np.bincount(some, minlength=count).tolist()
        for some in (labels[labels == predicted], labels, predicted)
    )
    rows = []
    for index, name in enumerate(classes):
        correct, n, given = hits[index], listed[index], answered[index]
        rows.append(
            {
                "class": name,
                "n": n,
                "correct": correct,
                "predicted": given,
                "recall": correct / n if n else None,
                "precision": correct / given if given else None,
                "f1": _f1(correct, given - correct, n - correct) if n else None,
                "auc": roc_auc(probabilities[:, index], labels == index),
            }
        )
    return rows


def _confusion(predicted: Ints, labels: Ints, count: int) -> list[list[int]]:
    """Images by true class, then by predicted class."""
    found = np.bincount(labels * count + predicted, minlength=count * count)
    matrix: list[list[int]] = found.reshape(count, count).tolist()
    return matrix


def _most_confused(predicted: Ints, labels: Ints, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent mistakes; counted without a matrix, which grows as classes squared."""
    wrong = labels != predicted
    pairs, counts = np.unique(labels[wrong] * len(classes) + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_CONFUSED]
    return [
        {"true": classes[i // len(classes)], "predicted": classes[i % len(classes)], "count": c}
        for i, c in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
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
