"""Weights against class imbalance: for a sampler (one per image) or for a loss (one per class)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.errors import DataError


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


def positive_weights(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 [classes]: negatives over positives of each class in a label matrix [N, classes].

    With these a class's positives weigh as much as its negatives. A class without either gets 1.
    """
    positives = labels.sum(axis=0, dtype=np.int64)
    negatives = len(labels) - positives
    both = (positives > 0) & (negatives > 0)
    return np.where(both, negatives / np.maximum(positives, 1), 1.0).astype(np.float32)
