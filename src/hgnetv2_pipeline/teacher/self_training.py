"""Classifiers of probes trained further on the pool: co-training on what they agree is typical.

Probes of different kinds (a pretrained network, gradients and colours) err differently. Their mean
names classes for pool images; those that are at least as typical as most labelled images join the
labelled ones, and each probe's classifier is fitted again, in several rounds (self-training; with
two probes or more it is co-training, Blum and Mitchell 1998). Whether it helps is measured on
labelled images that the rehearsal did not see, and it is left out where they get worse.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.intervals import PairedDifference, top1_difference
from hgnetv2_pipeline.teacher.choosing import CLEAR
from hgnetv2_pipeline.teacher.logistic import (
    FOLDS,
    Classifier,
    Standardised,
    calibrated,
    fit_classifier,
    folds_of,
)
from hgnetv2_pipeline.teacher.typicality import spread_over_classes, statistic, unit

_log = logging.getLogger(__name__)
ROUNDS = 3
LEAST_TYPICAL = 0.3
"""Share of the labelled images that a pool image must be more typical than, to be learnt from."""
POOL_WEIGHT = 0.5
"""What a pool image counts in the loss, where a labelled one counts 1."""


@dataclass(frozen=True)
class Features:
    """What one probe sees: features [N, D] of labelled images and [M, D] of pool images."""

    labelled: NDArray[np.float32]
    pool: NDArray[np.float32]


@dataclass(frozen=True)
class SelfTraining:
    """Classifiers after self-training, and what is known of it.

    Attributes:
        classifiers: one for each probe that took part.
        partners: which of the given probes those are.
        taken: pool images that were learnt from in the last round.
        held_out: labelled images of the rehearsal that were not learnt from.
        right_before, right_after: of those, how many the probes' mean gets right.
        lost: share that was right before minus share that is right after; None without a rehearsal.
    """

    classifiers: list[Classifier]
    partners: list[int]
    taken: int
    held_out: int
    right_before: int
    right_after: int
    lost: PairedDifference | None

    @property
    def helps(self) -> bool:
        """Whether the held-out images, if there are any, did not get clearly worse."""
        return self.lost is None or not self.lost.exceeds(CLEAR)


def self_train(
    seen: Sequence[Features],
    labels: NDArray[np.int64],
    classes: int,
    *,
    balanced: bool = False,
    rounds: int = ROUNDS,
    device: str = "cpu",
) -> SelfTraining:
    """Train the classifiers of probes on labelled images and on those of the pool they are sure of.

    The probe with the most held-out images right takes part, and every other one with which their
    mean has more right. The rehearsal holds out a fifth of the labelled images, of each class that
    has an image left then; L2 and the least typical image were found with all of them.

    Args:
        seen: of each probe, of the same images in the same order.
        labels: of the labelled images [N].
        balanced: every class weighs the same.
        rounds: how often pool images are chosen and the classifiers fitted.

    Raises:
        DataError: there is no pool image, or features do not fit each other.
    """
    if not len(seen[0].pool):
        raise DataError("self-training needs images of the pool")
    plain = [
        fit_classifier(one.labelled, labels, classes, balanced=balanced, device=device)
        for one in seen
    ]
    partners = _partners([one.held_out for one in plain], labels)
    work = _CoTraining(
        [seen[one] for one in partners], [plain[one] for one in partners], labels, classes,
        balanced, rounds, device,
    )  # fmt: skip
    out = folds_of(labels, FOLDS) == 0
    out &= ~np.isin(labels, np.setdiff1d(labels, labels[~out]))  # a class is not held out whole
    temperatures, lost = [one.temperature for one in work.plain], None
    before = after = np.zeros(0, dtype=bool)
    if out.any():
        rehearsal = work.run(~out)
        before = _right([one.held_out[out] for one in work.plain], labels[out])
        answers = [
            head.logits(one.labelled[out])
            for head, one in zip(rehearsal.heads, work.seen, strict=True)
        ]
        found = [calibrated(one, labels[out], classes, balanced) for one in answers]
        temperatures = [temperature for temperature, _ in found]
        after = _right([log_probability for _, log_probability in found], labels[out])
        lost = top1_difference(before, after)
    else:
        _log.warning("too few labelled images to hold any out: self-training is not rehearsed")
    final = work.run(np.ones(len(labels), dtype=bool))
    return SelfTraining(
        [head.classifier(t) for head, t in zip(final.heads, temperatures, strict=True)],
        partners, final.taken, len(before), int(before.sum()), int(after.sum()), lost,
    )  # fmt: skip


def _right(
    log_probabilities: Sequence[NDArray[np.floating]], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the mean probability names the class of each image [N]."""
    mean = np.mean([np.exp(one) for one in log_probabilities], axis=0)
    right: NDArray[np.bool_] = mean.argmax(axis=1) == labels
    return right


def _partners(held_out: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> list[int]:
    """The best alone, then each with which the mean has more right, the best of them first."""
    alone = [int(_right([one], labels).sum()) for one in held_out]
    order = sorted(range(len(held_out)), key=lambda one: (-alone[one], one))
    taken = order[:1]
    best = alone[order[0]]
    for one in order[1:]:
        together = int(_right([held_out[other] for other in (*taken, one)], labels).sum())
        if together > best:
            taken, best = [*taken, one], together
    return taken


@dataclass(frozen=True)
class _Round:
    heads: list[Standardised]
    taken: int


@dataclass(frozen=True)
class _CoTraining:
    """The features of the partners, their classifiers before, and how they are trained."""

    seen: list[Features]
    plain: list[Classifier]
    labels: NDArray[np.int64]
    classes: int
    balanced: bool
    rounds: int
    device: str

    def run(self, inside: NDArray[np.bool_]) -> _Round:
        """Classifiers that have learnt from the labelled images ``inside`` and from the pool."""
        labels = self.labels[inside]
        heads = [
            Standardised.fit(
                one.labelled[inside], labels, self.classes, l2=plain.l2, balanced=self.balanced,
                device=self.device,
            )
            for one, plain in zip(self.seen, self.plain, strict=True)
        ]  # fmt: skip
        temperatures = [one.temperature for one in self.plain]
        near = self._neighbours(inside)
        units = [(self._unit(one.labelled[near]), self._unit(one.pool)) for one in self.seen]
        taken = 0
        for number in range(self.rounds):
            answers = [
                _log_softmax(head.logits(one.pool) / t)
                for head, one, t in zip(heads, self.seen, temperatures, strict=True)
            ]
            mean = np.mean([np.exp(one) for one in answers], axis=0)
            guesses = mean.argmax(axis=1)
            typical = self._typical(np.log(mean.max(axis=1)), guesses, units, self.labels[near])
            if number == 0:  # how many stays, which ones changes
                taken = int((typical >= self._least(near, units)).sum())
            chosen = np.sort(np.argsort(-typical, kind="stable")[:taken])
            if not taken:
                break
            heads = [
                Standardised.fit(
                    np.concatenate([one.labelled[inside], one.pool[chosen]]),
                    np.concatenate([labels, guesses[chosen]]),
                    self.classes,
                    # The penalty is one of the mean loss: of more images each has less of it.
                    l2=plain.l2 * len(labels) / (len(labels) + POOL_WEIGHT * taken),
                    balanced=self.balanced,
                    device=self.device,
                    weights=np.repeat([1.0, POOL_WEIGHT], [len(labels), taken]),
                    start=head,
                )
                for one, plain, head in zip(self.seen, self.plain, heads, strict=True)
            ]
        return _Round(heads, taken)

    def _neighbours(self, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Places of the labelled images that others are compared with."""
        places = np.flatnonzero(inside)
        found: NDArray[np.int64] = places[spread_over_classes(self.labels[places])]
        return found

    def _unit(self, features: NDArray[np.float32]) -> Tensor:
        return unit(torch.from_numpy(features)).to(self.device)

    def _typical(
        self,
        log_probability: NDArray[np.floating],
        guesses: NDArray[np.int64],
        units: list[tuple[Tensor, Tensor]],
        labels: NDArray[np.int64],
        *,
        itself: bool = False,
    ) -> NDArray[np.float64]:
        """The statistic of each pool image, or of the labelled ones themselves, over the probes."""
        known, said = (torch.as_tensor(one, device=self.device) for one in (labels, guesses))
        log = torch.as_tensor(log_probability, device=self.device)
        found = [
            statistic(log, said, own if itself else pool, own, known, itself=itself)
            for own, pool in units
        ]
        typical: NDArray[np.float64] = torch.stack(found).mean(dim=0).double().cpu().numpy()
        return typical

    def _least(self, near: NDArray[np.int64], units: list[tuple[Tensor, Tensor]]) -> float:
        """What ``LEAST_TYPICAL`` of the labelled images that were held out and right stay below."""
        labels = self.labels[near]
        mean = np.mean([np.exp(one.held_out[near]) for one in self.plain], axis=0)
        guesses = mean.argmax(axis=1)
        typical = self._typical(np.log(mean.max(axis=1)), guesses, units, labels, itself=True)
        right = typical[guesses == labels]
        return float(np.quantile(right, LEAST_TYPICAL)) if len(right) else np.inf


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    found: NDArray[np.floating] = torch.from_numpy(logits).log_softmax(dim=1).numpy()
    return found
