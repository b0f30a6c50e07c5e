"""Weights against class imbalance: for a sampler (one per image) or for a loss (one per class)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name


def sampling_weights(labels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """float64 [N]: with these as chances every class is drawn equally often; they sum to 1."""
    given = np.asarray(labels, dtype=np.int64)
    if given.size == 0 or given.min() < 0:
        raise DataError("balanced sampling needs at least one image and a label for every image")
    counts = np.bincount(given)
    weights = 1.0 / counts[given]
    return np.asarray(weights / weights.sum())


def class_weights(labels: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.float32]:
    """float32 [num_classes]: weights of the loss, proportional to 1 / count.

    Scaled so that the mean over the images is 1, which keeps the learning rate's meaning. A class
    without images gets 0.
    """
    given = np.asarray(labels, dtype=np.int64)
    if given.size == 0 or given.min() < 0 or given.max() >= num_classes:
        raise DataError(f"class weights need labels from 0 to {num_classes - 1} and at least one")
    counts = np.bincount(given, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = given.size / (counts[present] * present.sum())
    return weights.astype(np.float32)


def own_weights(
    given: Mapping[str, float] | Sequence[float],
    classes: Sequence[str],
    labels: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float32]:
    """float32 [classes]: weights that a user gave, by name (1 for others) or one per class.

    With ``labels`` [N] they are scaled so that their mean over the images is 1.

    Raises:
        ParameterError: another number of them, a name that is no class, or all images have 0.
    """
    where = "loss.class_weights"
    if isinstance(given, Mapping):
        for name in given:
            if name not in classes:
                raise unknown_name("class", name, classes, where)
        weights = np.array([given.get(name, 1.0) for name in classes], dtype=np.float64)
    elif len(given) == len(classes):
        weights = np.array(given, dtype=np.float64)
    else:
        raise ParameterError(
            f"{len(given)} class weights for {len(classes)} classes; give one per class in the "
            f"order of class_map.txt, or weights by name ({where})"
        )
    if labels is not None:
        mean = weights[np.asarray(labels, dtype=np.int64)].mean()
        if not mean > 0:
            raise ParameterError(f"every training image has a class of weight 0 ({where})")
        weights = weights / mean
    return weights.astype(np.float32)


def positive_weights(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 [classes]: negatives over positives of each class in a label matrix [N, classes].

    With these a class's positives weigh as much as its negatives. A class without either gets 1.
    """
    positives = labels.sum(axis=0, dtype=np.int64)
    negatives = len(labels) - positives
    both = (positives > 0) & (negatives > 0)
    return np.where(both, negatives / np.maximum(positives, 1), 1.0).astype(np.float32)
