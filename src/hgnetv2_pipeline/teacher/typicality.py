"""How typical an image is of the class a teacher gives it.

A probability does not tell what belongs to no class: it is shared among the classes there are. The
labelled images do. Typicality adds to the logarithm of the probability how near the nearest
labelled image of that class is in the teacher's features, and how much nearer than the nearest of
any other class, as the trust score of Jiang et al. 2018 does (arXiv:1805.11783). It is given as the
share of labelled images of one's own that would be less typical, so that 0.3 means the same for
every teacher.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgnetv2_pipeline.data.sample_rng import epoch_order
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.weights.load import read_file
from hgnetv2_pipeline.weights.writing import save_weights

NEAR, APART = 5.0, 5.0
"""Weights of the two cosines beside the log-probability (docs/results/own_pictures.md)."""
MOST_COMPARED = 20_000
"""Labelled images, of all classes alike, that an image is compared with: each costs time."""
_BLOCK = 1 << 24  # cosines at a time, 64 MB
_LEAST_SPREAD = 1e-6


def statistic(
    log_probability: Tensor,
    guesses: Tensor,
    features: Tensor,
    reference: Tensor,
    labels: Tensor,
    *,
    itself: bool = False,
) -> Tensor:
    """What typicality is made of, float32 [N]; larger is more typical.

    Args:
        log_probability: of the class that the teacher gives each image [N].
        guesses: that class [N].
        features: of the images, rows of length 1 [N, D].
        reference: of labelled images, rows of length 1 [M, D].
        labels: their classes [M].
        itself: the images are the labelled ones, in the same order: none is its own neighbour.
    """
    found = [torch.zeros(0, device=features.device)]
    rows = max(1, _BLOCK // max(1, len(reference)))
    for first in range(0, len(features), rows):
        here = slice(first, first + rows)
        cosines = features[here].float() @ reference.float().T
        if itself:
            own = torch.arange(len(cosines), device=cosines.device)
            cosines[own, own + first] = -1.0
        same = labels[None, :] == guesses[here, None]
        near = cosines.masked_fill(~same, -1.0).amax(dim=1)
        other = cosines.masked_fill(same, -1.0).amax(dim=1)
        found.append(log_probability[here].float() + NEAR * near + APART * (near - other))
    return torch.cat(found)


@dataclass(frozen=True)
class Reference:
    """The labelled images that others are compared with, and how typical they are themselves.

    Attributes:
        features: rows of length 1, float16 [M, D].
        labels: their classes, int64 [M].
        mean, spread: of ``statistic`` over those whose class the teacher names, each compared with
            the others.
    """

    features: Tensor
    labels: Tensor
    mean: float
    spread: float

    def typicality(self, log_probability: Tensor, guesses: Tensor, features: Tensor) -> Tensor:
        """Float64 [N] from 0 to 1: the share of labelled images that are less typical.

        The statistic of the labelled images is taken as normal, so that no two images tie where
        the most typical labelled one ends. Arguments as those of ``statistic``.
        """
        found = statistic(log_probability, guesses, features, self.features, self.labels)
        z = (found.double() - self.mean) / self.spread
        typical: Tensor = torch.special.ndtr(z)
        return typical

    def to(self, device: torch.device) -> Reference:
        """The same on ``device``."""
        return Reference(
            self.features.to(device), self.labels.to(device), self.mean, self.spread
        )  # fmt: skip


def unit(features: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays so and resembles nothing."""
    return torch.nn.functional.normalize(features.float().flatten(1))


def fit_reference(
    log_probability: Tensor, guesses: Tensor, features: Tensor, labels: Tensor
) -> Reference:
    """The reference that labelled images make; arguments as those of ``statistic``.

    Raises ``DataError`` where the teacher names the class of fewer than two of them.
    """
    found = statistic(log_probability, guesses, features, features, labels, itself=True)
    right = found[guesses == labels].double()
    if len(right) < 2:
        raise DataError(
            f"the teacher names the class of {len(right)} of {len(labels):,} labelled images: "
            "typicality cannot be measured with it (mining.rank_by=confidence)"
        )
    spread = max(float(right.std()), _LEAST_SPREAD)
    return Reference(features.half(), labels.long(), float(right.mean()), spread)


def save_reference(path: Path, reference: Reference) -> None:
    """Write it as one file; the same reference gives the same bytes."""
    fit = {"mean": repr(reference.mean), "spread": repr(reference.spread)}
    save_weights(path, {"features": reference.features, "labels": reference.labels}, fit)


def read_reference(path: Path) -> Reference:
    """What ``save_reference`` wrote; ``WeightsError`` for any other file."""
    held = read_file(path)
    if not {"features", "labels"} <= set(held.tensors) or not {"mean", "spread"} <= set(
        held.metadata
    ):
        raise WeightsError(
            f"{path} is no reference of typicality; delete it, mining makes it again"
        )
    mean, spread = (float(held.metadata[name]) for name in ("mean", "spread"))
    return Reference(held.tensors["features"], held.tensors["labels"], mean, spread)


def spread_over_classes(
    labels: NDArray[np.int64], most: int = MOST_COMPARED, seed: int = 0
) -> NDArray[np.int64]:
    """Places of at most ``most`` images, as many of each class as there are or as fit, ascending.

    Of the images of a class those are taken that come first in the order that ``seed`` gives.
    """
    mixed = epoch_order(len(labels), seed, 0)
    ordered = mixed[np.argsort(labels[mixed], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    each = bisect_right(
        range(1, int(counts.max()) + 1), most, key=lambda k: int(np.minimum(counts, k).sum())
    )
    return np.sort(ordered[rank < max(1, each)])
