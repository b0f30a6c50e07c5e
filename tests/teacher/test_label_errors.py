"""Wrong labels are found by those who had not seen them, and counted with an honest interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.intervals import wilson_interval
from hgnetv2_pipeline.teacher.label_errors import find_label_errors
from hgnetv2_pipeline.teacher.logistic import fit_classifier


def test_planted_wrong_digits_are_the_first_suspects() -> None:
    """One in ten of 300 digits has another digit's label: at least four of five are found."""
    rng = np.random.default_rng(0)
    digits, truth = load_digits(return_X_y=True)
    some = rng.permutation(len(digits))[:300]
    features, truth = digits[some], truth[some]
    wrong = np.zeros(300, bool)
    wrong[rng.permutation(300)[:30]] = True
    labels = np.where(wrong, (truth + rng.integers(1, 10, 300)) % 10, truth).astype(np.int64)
    held_out = fit_classifier(features, labels, 10, l2=[0.1]).held_out
    found = find_label_errors(np.exp(held_out), labels)
    first = found.ranked(labels)[:30]
    assert wrong[first].sum() >= 24
    assert (found.suggested[first] == truth[first])[wrong[first]].mean() > 0.8
    # What the classifier itself gets wrong is counted too.
    assert 20 < found.estimate < 60


def test_the_count_is_that_of_the_paper_by_hand() -> None:
    """Two classes of 4 and 3: means .625 and .7 are the thresholds; the last of class 0 passes 1's.

    Confident of class 0: two right and one wrong, so 4/3 of its four; of class 1 two, none wrong.
    """
    first = np.array([0.9, 0.8, 0.6, 0.2, 0.2, 0.2, 0.5])
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    found = find_label_errors(np.stack([first, 1 - first], axis=1), labels)
    assert found.suspected.tolist() == [False, False, False, True, False, False, False]
    assert found.suggested.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert found.estimate == pytest.approx(4 / 3)
    low, high = wilson_interval(1, 5)
    assert found.interval == pytest.approx((low * 5 * 4 / 3, high * 5 * 4 / 3))
    # Half against half counts as answered otherwise, for argmax takes the first.
    assert found.ranked(labels).tolist() == [3, 6]


def test_a_class_with_one_image_is_not_suspected() -> None:
    answers = np.array([[0.99, 0.01], [0.98, 0.02], [0.97, 0.03]])
    labels = np.array([0, 0, 1])
    found = find_label_errors(answers, labels)
    assert not found.suspected.any() and not len(found.ranked(labels))


def test_none_found_is_not_none_there() -> None:
    answers = np.tile([[0.9, 0.1], [0.1, 0.9]], (50, 1))
    found = find_label_errors(answers, np.tile([0, 1], 50))
    assert found.estimate == 0
    assert found.interval == pytest.approx((0, 100 * wilson_interval(0, 100)[1]))


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        (np.ones((2, 2)), [0]),
        (np.full((1, 2), np.nan), [0]),
        (np.ones((0, 2)), np.zeros(0, np.int64)),
    ],
)
def test_what_does_not_fit_is_refused(answers: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(DataError):
        find_label_errors(answers, np.array(labels, np.int64))
