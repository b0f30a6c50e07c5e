"""Which of several candidates teach: the best on validation images, and those that help it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.intervals import top1_difference

CLEAR = 2.0
"""Standard errors by which a further member must lower the log-loss, or one group beat another."""
_LEAST = 1e-12


@dataclass(frozen=True)
class Choice:
    """The members that teach, in the order in which they were taken, and why.

    Attributes:
        members: names; the first is the best alone.
        right: validation images whose class their mean probability names.
        reasons: of every candidate, in words.
    """

    members: tuple[str, ...]
    right: int
    reasons: dict[str, str]


def choose_members(
    probabilities: Mapping[str, NDArray[np.floating]], labels: NDArray[np.int64]
) -> Choice:
    """The candidate with the most ``labels`` right, and every other one whose help is clear.

    Of equals the one with the smaller log-loss is the best. Another is taken if the mean
    probability with it has a log-loss that is smaller by ``CLEAR`` standard errors, paired over the
    images, and no fewer right; the one that lowers it most comes first. ``probabilities`` [N, C]
    are of the same N validation images. Raises ``ParameterError`` where there is no candidate.
    """
    if not probabilities:
        raise ParameterError("there is no candidate for a teacher (train_teacher.members, .probes)")
    for name, answers in probabilities.items():
        if not np.isfinite(answers).all():
            raise WeightsError(f"teacher {name} answers with numbers that are not finite")
    rows = np.arange(len(labels))

    def loss(mean: NDArray[np.floating]) -> NDArray[np.floating]:
        each: NDArray[np.floating] = -np.log(np.maximum(mean[rows, labels], _LEAST))
        return each

    def right(mean: NDArray[np.floating]) -> int:
        return int((mean.argmax(axis=1) == labels).sum())

    best = max(
        probabilities,
        key=lambda name: (right(probabilities[name]), -loss(probabilities[name]).mean()),
    )
    taken = [best]
    reasons = {best: f"the best: {right(probabilities[best])} of {len(labels)} right"}
    mean = probabilities[best]
    while True:
        found = None
        for name in [one for one in probabilities if one not in taken]:
            wider = (mean * len(taken) + probabilities[name]) / (len(taken) + 1)
            gain = loss(mean) - loss(wider)
            error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
            reasons[name] = (
                f"{right(probabilities[name])} right; with it {right(wider)}, log-loss lower by "
                f"{gain.mean():.3f} (standard error {error:.3f})"
            )
            helps = gain.mean() > CLEAR * error and right(wider) >= right(mean)
            if helps and (found is None or gain.mean() > found[0]):
                found = gain.mean(), name, wider
        if found is None:
            return Choice(
                tuple(taken), right(mean), {name: reasons[name] for name in probabilities}
            )
        _, name, mean = found
        taken.append(name)


def keep_self_trained(
    trained: Sequence[NDArray[np.floating]],
    others: Sequence[NDArray[np.floating]],
    labels: NDArray[np.int64],
) -> tuple[bool, str]:
    """Whether the mean of the self-trained teaches rather than that of ``others``, and why.

    It does unless the others have more of the validation images right by ``CLEAR`` standard errors,
    paired: what self-training gains is in images that are unlike the labelled ones, and validation
    has none of those. All probabilities are [N, C].
    """
    after = np.mean(trained, axis=0).argmax(axis=1) == labels
    before = np.mean(others, axis=0).argmax(axis=1) == labels
    lost = top1_difference(before, after)
    said = (
        f"learnt from the pool as well: {int(after.sum())} of {len(labels)} right together, the "
        f"best of the others {int(before.sum())} (standard error {lost.error * len(labels):.1f})"
    )
    return not lost.exceeds(CLEAR), said
