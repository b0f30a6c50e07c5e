"""Who teaches: the best on validation images, and whose help is clear."""

from __future__ import annotations

import numpy as np
import pytest

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.teacher.choosing import choose_members

IMAGES, CLASSES = 400, 4
LABELS = np.arange(IMAGES) % CLASSES


def answers(right: np.ndarray, sure: float = 0.7) -> np.ndarray:
    """Probabilities [N, C]: ``sure`` for the label where ``right``, else for the class after it."""
    found = np.full((IMAGES, CLASSES), (1 - sure) / (CLASSES - 1))
    named = np.where(right, LABELS, (LABELS + 1) % CLASSES)
    found[np.arange(IMAGES), named] = sure
    return found


def some(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(IMAGES) < share


def test_one_that_is_better_by_far_teaches_alone() -> None:
    choice = choose_members(
        {"weak": answers(some(0.4, 0)), "strong": answers(some(0.95, 1))}, LABELS
    )
    assert choice.members == ("strong",)
    assert choice.right == some(0.95, 1).sum()
    assert choice.reasons["strong"].startswith("the best: ")
    assert "with it" in choice.reasons["weak"]


def test_equals_that_err_on_different_images_teach_together() -> None:
    members = {"one": answers(some(0.8, 0)), "other": answers(some(0.8, 1))}
    choice = choose_members(members, LABELS)
    assert sorted(choice.members) == ["one", "other"]
    mean = (members["one"] + members["other"]) / 2
    assert choice.right == (mean.argmax(axis=1) == LABELS).sum()


def test_a_copy_of_the_best_helps_nothing() -> None:
    best = answers(some(0.8, 0))
    assert choose_members({"one": best, "other": best.copy()}, LABELS).members == ("one",)


def test_of_equals_the_better_calibrated_is_the_best() -> None:
    right = some(0.6, 0)
    choice = choose_members({"vain": answers(right, 0.999), "honest": answers(right, 0.6)}, LABELS)
    assert choice.members[0] == "honest"


def test_a_probability_of_zero_is_no_infinite_loss() -> None:
    never = np.eye(CLASSES)[(LABELS + 1) % CLASSES]
    choice = choose_members({"never": never, "good": answers(some(0.9, 2))}, LABELS)
    assert choice.members == ("good",)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"no candidate for a teacher \(train_teacher.members"):
        choose_members({}, LABELS)


def test_answers_that_are_not_finite_never_win() -> None:
    spoilt = answers(some(0.9, 0))
    spoilt[3] = np.nan
    with pytest.raises(WeightsError, match="teacher odd answers with numbers that are not finite"):
        choose_members({"odd": spoilt, "good": answers(some(0.5, 1))}, LABELS)
