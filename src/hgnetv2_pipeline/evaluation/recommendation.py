"""Which of several measured models to use within a budget of time: the rule, without any words.

Of those that answer within the budget the most accurate leads. The fastest is recommended that is
not clearly worse than it: whose paired difference from it, on the same images, is within the 95 %
interval. It is the rule of ``choice`` with speed as the preference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hgnetv2_pipeline.evaluation.choice import choose_model
from hgnetv2_pipeline.intervals import PairedDifference

CLEAR = 1.959963984540054
"""Standard errors of half a 95 % interval."""


@dataclass(frozen=True)
class MeasuredModel:
    """What the rule reads of a model; NaN or None where there is no measurement."""

    accuracy: float | None
    milliseconds: float | None

    @property
    def is_measured(self) -> bool:
        """Whether both figures are finite numbers."""
        known = (self.accuracy, self.milliseconds)
        return all(value is not None and math.isfinite(value) for value in known)


@dataclass(frozen=True)
class Recommendation:
    """Places in the list of models.

    Attributes:
        used: the one to use; None where none was measured or none is within the budget.
        leader: the most accurate within the budget, which ``used`` may be itself.
        fastest: the fastest of all that were measured, whatever the budget.
        behind: of each model within the budget how far it is behind ``leader``.
    """

    used: int | None
    leader: int | None
    fastest: int | None
    behind: dict[int, PairedDifference]


def recommend(
    models: Sequence[MeasuredModel],
    difference: Callable[[int, int], PairedDifference],
    *,
    budget_ms: float | None,
) -> Recommendation:
    """Which of ``models`` to use; ``budget_ms`` None: whatever time they take.

    ``difference(i, j)`` is the accuracy of model i minus that of model j on the same images, and is
    asked of measured models alone.
    """
    measured = [place for place, model in enumerate(models) if model.is_measured]
    measured.sort(key=lambda place: (models[place].milliseconds, -_accuracy(models[place])))
    if not measured:
        return Recommendation(None, None, None, {})
    within = [
        place
        for place in measured
        if budget_ms is None or (models[place].milliseconds or 0.0) <= budget_ms
    ]
    if not within:
        return Recommendation(None, None, measured[0], {})
    choice = choose_model(
        [_accuracy(models[place]) for place in within],
        lambda first, second: difference(within[first], within[second]),
        standard_errors=CLEAR,
    )
    return Recommendation(
        within[choice.used],
        within[choice.leader],
        measured[0],
        dict(zip(within, choice.behind, strict=True)),
    )


def _accuracy(model: MeasuredModel) -> float:
    assert model.accuracy is not None
    return model.accuracy
