"""Which model is used: the rule against an independent transcription of it."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.evaluation.choice import choose_model, map_difference
from hgnetv2_pipeline.intervals import PairedDifference, top1_difference


def used_by_hand(answers: list[list[bool]], standard_errors: int) -> tuple[int, int]:
    """Places of the model that is used and of the leader, in whole numbers and fractions alone."""
    n = len(answers[0])
    right = [sum(row) for row in answers]
    leader = min(place for place in range(len(answers)) if right[place] == max(right))
    for place, row in enumerate(answers):
        pairs = [a - b for a, b in zip(answers[leader], row, strict=True)]
        mean = Fraction(sum(pairs), n)
        variance_of_mean = sum((d - mean) ** 2 for d in pairs) / (n - 1) / n
        if mean**2 <= standard_errors**2 * variance_of_mean:
            return place, leader
    raise AssertionError("the leader is not behind itself")


def used_by_us(answers: list[list[bool]], standard_errors: int) -> tuple[int, int]:
    rows = [np.array(row) for row in answers]
    found = choose_model(
        [float(row.mean()) for row in rows],
        lambda first, second: top1_difference(rows[first], rows[second]),
        standard_errors=standard_errors,
    )
    return found.used, found.leader


@pytest.mark.parametrize("standard_errors", [0, 1, 2])
def test_the_rule_is_that_of_a_transcription_in_fractions(standard_errors: int) -> None:
    generator = random.Random(standard_errors)
    used = set()
    for _ in range(400):
        n, models = generator.randrange(2, 60), generator.randrange(1, 6)
        shares = [generator.random() for _ in range(models)]
        answers = [[generator.random() < share for _ in range(n)] for share in shares]
        if generator.random() < 0.3:
            # Nearly the same model: one or two images apart.
            answers.append([right ^ (place < 2) for place, right in enumerate(answers[0])])
        assert used_by_us(answers, standard_errors) == used_by_hand(answers, standard_errors)
        used.add(used_by_us(answers, standard_errors)[0])
    assert {0, 1, 2, 3} <= used


def answers(both: int, preferred: int, other: int, neither: int) -> list[list[bool]]:
    """Answers of two models by how many images both, only one, or neither of them has right."""
    first = [True] * (both + preferred) + [False] * (other + neither)
    second = [True] * both + [False] * preferred + [True] * other + [False] * neither
    return [first, second]


@pytest.mark.parametrize(
    ("preferred", "other", "used"),
    [
        (5, 5, 0),  # a tie
        (9, 5, 0),
        (0, 1, 0),  # one image decides nothing: 1 > 1 is false
        (0, 2, 1),
        (3, 6, 0),  # 9 > 9 is false
        (3, 7, 1),  # 16 > 10
        (40, 49, 0),  # 81 > 89 is false
        (40, 50, 1),  # 100 > 90
    ],
)
@pytest.mark.parametrize("agreed", [0, 1, 1000])
def test_one_standard_error_is_mcnemars_statistic_held_to_one(
    preferred: int, other: int, used: int, agreed: int
) -> None:
    given = answers(agreed, preferred, other, agreed)
    assert used_by_us(given, 1)[0] == used
    assert ((other - preferred) ** 2 > other + preferred and other > preferred) == bool(used)


def test_what_beats_the_leader_by_luck_alone_is_preferred_in_order() -> None:
    """The third leads; the second is within its noise and the first is not."""
    errors = {0: PairedDifference(0.1, 0.02), 1: PairedDifference(0.01, 0.02)}
    found = choose_model(
        [0.7, 0.79, 0.8, 0.8], lambda first, second: errors.get(second, PairedDifference(0.0, 0.1)),
        standard_errors=1,
    )  # fmt: skip
    assert (found.used, found.leader) == (1, 2)
    assert found.behind == (
        errors[0], errors[1], PairedDifference(0.0, 0.0), PairedDifference(0.0, 0.1),
    )  # fmt: skip


def test_of_a_single_image_nothing_is_known() -> None:
    assert top1_difference(np.array([True]), np.array([False])) == PairedDifference(1.0, 1.0)
    assert used_by_us([[False], [True]], 1) == (0, 1)


def scores(seed: int, noise: float) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((57, 4)) < 0.3).astype(np.int64)
    return truth, truth + noise * generator.standard_normal(truth.shape)


def test_several_labels_are_paired_by_a_jackknife_over_every_twentieth_image() -> None:
    truth, good = scores(0, 0.4)
    poor = truth + 0.9 * np.random.default_rng(1).standard_normal(truth.shape)

    def gain(kept: list[int]) -> float:
        first, second = (
            np.mean([average_precision_score(truth[kept, c], each[kept, c]) for c in range(4)])
            for each in (good, poor)
        )
        return float(first - second)

    everything = list(range(57))
    without = [gain([i for i in everything if i % 20 != group]) for group in range(20)]
    error = np.sqrt(19 / 20 * np.sum((np.array(without) - np.mean(without)) ** 2))
    found = map_difference(good, poor, truth)
    assert found.value == pytest.approx(gain(everything), abs=1e-9)
    assert found.error == pytest.approx(float(error), abs=1e-9)
    assert found.exceeds(1) and not map_difference(poor, good, truth).exceeds(0)
    assert map_difference(good, good, truth) == PairedDifference(0.0, 0.0)


def test_fewer_images_than_groups_are_left_out_one_by_one() -> None:
    truth, good = np.eye(3, dtype=np.int64), np.eye(3)
    found = map_difference(good, good[::-1], truth)
    assert found.value > 0 and found.error > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: choose_model([], lambda first, second: PairedDifference(0, 0), standard_errors=1),
        lambda: top1_difference(np.array([True]), np.array([True, False])),
        lambda: top1_difference(np.array([], bool), np.array([], bool)),
        lambda: map_difference(np.zeros((2, 3)), np.zeros((2, 2)), np.ones((2, 3))),
        lambda: map_difference(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Any) -> None:
    with pytest.raises(DataError, match=r"no model to choose|cannot be paired"):
        call()
