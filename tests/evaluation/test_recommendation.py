"""Which model is recommended within a budget of time: cases made by hand, and a transcription."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hgnetv2_pipeline.evaluation.recommendation import MeasuredModel, Recommendation, recommend
from hgnetv2_pipeline.intervals import PairedDifference, top1_difference

# Three models of one family: each step is slower, and four points better with an error of one.
FAMILY = [MeasuredModel(0.88, 1.0), MeasuredModel(0.92, 2.0), MeasuredModel(0.96, 4.0)]


def differences(
    models: Sequence[MeasuredModel], error: float
) -> Callable[[int, int], PairedDifference]:
    return lambda i, j: PairedDifference(
        (models[i].accuracy or 0.0) - (models[j].accuracy or 0.0), error
    )


def found(
    models: Sequence[MeasuredModel], *, error: float = 0.01, budget: float | None = None
) -> Recommendation:
    return recommend(models, differences(models, error), budget_ms=budget)


@pytest.mark.parametrize(
    ("budget", "error", "used", "leader"),
    [
        (None, 0.01, 2, 2),
        (4.0, 0.01, 2, 2),  # the budget itself is within it
        (3.9, 0.01, 1, 1),
        (1.0, 0.01, 0, 0),
        (None, 0.03, 1, 2),  # four points are within 1.96 x 3, eight are not
        (None, 0.05, 0, 2),  # all three are level
        (3.0, 0.05, 0, 1),
    ],
)
def test_the_fastest_that_is_level_with_the_most_accurate_within_the_budget(
    budget: float | None, error: float, used: int, leader: int
) -> None:
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        models = [FAMILY[place] for place in order]
        got = found(models, error=error, budget=budget)
        assert (order[got.used or 0], order[got.leader or 0]) == (used, leader)
        assert got.fastest == order.index(0)


def test_where_none_is_within_the_budget_the_fastest_is_named_and_none_recommended() -> None:
    got = found(FAMILY, budget=0.5)
    assert (got.used, got.leader, got.fastest, got.behind) == (None, None, 0, {})


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
@pytest.mark.parametrize("which", ["accuracy", "milliseconds"])
def test_a_model_without_a_figure_is_neither_recommended_nor_asked_about(
    lost: float | None, which: str
) -> None:
    broken = {"accuracy": 0.99, "milliseconds": 0.1} | {which: lost}
    models = [MeasuredModel(**broken), *FAMILY]

    def difference(i: int, j: int) -> PairedDifference:
        assert 0 not in (i, j)
        return differences(models, 0.01)(i, j)

    got = recommend(models, difference, budget_ms=None)
    assert (got.used, got.leader, got.fastest) == (3, 3, 1)
    assert recommend(models[:1], difference, budget_ms=None).used is None


def test_of_equally_fast_and_equally_accurate_models_one_is_used_and_the_same_again() -> None:
    same = [MeasuredModel(0.9, 2.0), MeasuredModel(0.9, 2.0), MeasuredModel(0.95, 2.0)]
    got = found(same, error=0.001)
    assert (got.used, got.leader) == (2, 2)
    assert found(same[:2], error=0.001).used == 0


def test_the_rule_on_answers_is_that_of_a_transcription() -> None:
    generator, seen = random.Random(0), set()
    for _ in range(300):
        n, count = generator.randrange(20, 200), generator.randrange(1, 6)
        shares = [generator.uniform(0.5, 1) for _ in range(count)]
        right = np.array([[generator.random() < share for _ in range(n)] for share in shares])
        times = [generator.uniform(1, 10) for _ in range(count)]
        budget = generator.uniform(0.5, 11)
        within = [i for i in range(count) if times[i] <= budget]
        expected = None
        if within:
            leader = max(within, key=lambda i: (right[i].sum(), -times[i]))
            level = []
            for i in within:
                each = right[leader].astype(float) - right[i]
                level += [i] if each.mean() <= 1.959964 * each.std(ddof=1) / n**0.5 + 1e-12 else []
            expected = min(level, key=lambda i: times[i])
        got = recommend(
            [MeasuredModel(float(row.mean()), ms) for row, ms in zip(right, times, strict=True)],
            lambda i, j, right=right: top1_difference(right[i], right[j]),
            budget_ms=budget,
        )
        assert got.used == expected
        seen.add((expected is None, got.used == got.leader))
    assert len(seen) == 3
