"""Risk by coverage, the temperature that mends confidence, and curves by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.evaluation.calibration import (
    fit_temperature,
    risk_coverage,
    temperature_scaling,
)
from hgnetv2_pipeline.evaluation.thresholds import ALL_CLASSES, threshold_curves


def test_risk_rises_with_coverage_as_counted_by_hand() -> None:
    confidence = np.array([0.9, 0.5, 0.8, 0.7, 0.6])
    correct = np.array([True, False, True, False, True])
    found = risk_coverage(confidence, correct)
    # From the surest: right, right, wrong, right, wrong.
    assert found["points"] == pytest.approx(
        np.array([[0.2, 0], [0.4, 0], [0.6, 1 / 3], [0.8, 1 / 4], [1, 2 / 5]])
    )
    assert [(at["answered"], at["right"], at["threshold"]) for at in found["at"]] == [
        (4, 3, 0.6), (5, 3, 0.5), (5, 3, 0.5),
    ]  # fmt: skip


def test_images_of_equal_confidence_are_answered_together() -> None:
    found = risk_coverage(np.array([0.9, 0.9, 0.4]), np.array([True, False, False]))
    assert found["points"] == pytest.approx(np.array([[2 / 3, 1 / 2], [1, 2 / 3]]))
    assert {at["answered"] for at in found["at"]} == {3}


def test_a_curve_of_many_images_has_its_ends_and_few_points() -> None:
    confidence = np.linspace(0.1, 1, 5000)
    points = risk_coverage(confidence, np.ones(5000, bool))["points"]
    assert len(points) == 200
    assert points[0] == [1 / 5000, 0] and points[-1] == [1, 0]


def test_bins_are_open_on_the_left_and_give_the_error() -> None:
    confidence, correct = np.array([1 / 15, 0.07, 1.0]), np.array([True, False, True])
    images, trusted, right = metrics.calibration_bins(confidence, correct)
    assert images.tolist() == [1, 1, *[0] * 12, 1]
    assert right.tolist() == [1, 0, *[0] * 12, 1]
    assert trusted[[0, 1, 14]] == pytest.approx([1 / 15, 0.07, 1])
    expected = ((1 - 1 / 15) + 0.07 + 0) / 3
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(expected)


def two_classes(margin: float, right: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``margin`` sure of class 0, of which ``right`` of ``n`` images are."""
    labels = np.array([0] * right + [1] * (n - right))
    return np.tile([margin, 0.0], (n, 1)), labels


@pytest.mark.parametrize(("margin", "right"), [(4.0, 9), (0.5, 9), (3.0, 7)])
def test_the_temperature_is_that_of_the_closed_form(margin: float, right: int) -> None:
    """All images alike: the best scaled margin is the log-odds of being right."""
    logits, labels = two_classes(margin, right, 10)
    expected = margin / np.log(right / (10 - right))
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)


def test_no_temperature_makes_a_perfect_model_less_sure() -> None:
    logits, labels = two_classes(2.0, 10, 10)
    assert fit_temperature(logits, labels) is None
    assert temperature_scaling(logits, labels) is None


def test_what_is_mended_is_judged_by_the_other_half() -> None:
    # Of the images at even places 8 of 10 are right, at odd places 7 of 10.
    logits = np.tile([4.0, 0.0], (20, 1))
    labels = np.zeros(20, dtype=np.int64)
    labels[[0, 2]] = 1
    labels[[1, 3, 5]] = 1
    found = temperature_scaling(logits, labels)
    assert found is not None
    assert found["temperature"] == pytest.approx(4 / np.log(15 / 5), rel=1e-3)
    sure = 1 / (1 + np.exp(-4))
    assert found["ece"] == pytest.approx(sure - 0.75)
    # Even images get the odd ones' confidence 0.7 and are right in 0.8; odd ones the reverse.
    expected = abs(0.7 * 10 - 8) / 20 + abs(0.8 * 10 - 7) / 20
    assert found["ece_scaled"] == pytest.approx(expected, abs=1e-3)
    nll = -(8 * np.log(0.7) + 2 * np.log(0.3) + 7 * np.log(0.8) + 3 * np.log(0.2)) / 20
    assert found["nll_scaled"] == pytest.approx(nll, abs=1e-3)
    assert found["nll_scaled"] < found["nll"]


def test_curves_of_thresholds_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((60, 9)) < 0.3).astype(np.int64)
    truth[:, 8] = 0
    probabilities = np.round(metrics.sigmoid(rng.normal(truth, np.arange(1, 10) / 3)), 2)
    names = [f"c{at}" for at in range(9)]
    curves = threshold_curves(probabilities, truth, names, [0.5] * 9)
    aps = {at: metrics.average_precision(probabilities[:, at], truth[:, at]) for at in range(8)}
    order = sorted(aps, key=lambda at: aps[at] or 0)
    assert [curve["class"] for curve in curves] == [
        ALL_CLASSES, *(f"c{at}" for at in [*order[:3], *order[-3:]]),
    ]  # fmt: skip
    assert [curve["kind"] for curve in curves] == ["all", *["weakest"] * 3, *["best"] * 3]
    for curve in curves:
        at = None if curve["kind"] == "all" else int(curve["class"][1:])
        scores = probabilities.ravel() if at is None else probabilities[:, at]
        known = truth.ravel() if at is None else truth[:, at]
        precision, recall, thresholds = precision_recall_curve(known, scores)
        expected = np.stack([thresholds, precision[:-1], recall[:-1]], axis=1)[::-1]
        points = np.array(curve["points"])
        np.testing.assert_allclose(points[:, :3], expected, atol=1e-9)
        total = np.maximum(points[:, 1] + points[:, 2], 1e-300)
        np.testing.assert_allclose(points[:, 3], 2 * points[:, 1] * points[:, 2] / total, atol=1e-9)
        assert curve["positives"] == known.sum()
