"""Metrics against scikit-learn and by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.intervals import wilson_interval

RNG = np.random.default_rng(5)
CLASSES = [f"class {index}" for index in range(8)]
LABELS = RNG.integers(0, 8, 300)
LOGITS = RNG.normal(0, 1, (300, 8)).astype(np.float32)
LOGITS[np.arange(300), LABELS] += 1


def test_summary_equals_scikit_learn() -> None:
    found = metrics.summarise(LOGITS, LABELS, CLASSES)
    predicted = LOGITS.argmax(1)
    for k in (1, 5):
        expected = top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(8))
        assert found[f"top{k}"] == pytest.approx(expected, abs=1e-12)
        assert found[f"top{k}_count"] == round(expected * 300)
    assert found["confusion"] == confusion_matrix(LABELS, predicted).tolist()
    recall = [row["recall"] for row in found["per_class"]]
    precision = [row["precision"] for row in found["per_class"]]
    np.testing.assert_allclose(recall, recall_score(LABELS, predicted, average=None))
    np.testing.assert_allclose(precision, precision_score(LABELS, predicted, average=None))
    assert sum(row["n"] for row in found["per_class"]) == found["n"] == 300
    f1 = [row["f1"] for row in found["per_class"]]
    np.testing.assert_allclose(f1, f1_score(LABELS, predicted, average=None))
    assert found["f1_macro"] == pytest.approx(f1_score(LABELS, predicted, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(LABELS, predicted))
    chances = metrics.softmax(LOGITS)
    aucs = [roc_auc_score(at == LABELS, chances[:, at]) for at in range(8)]
    np.testing.assert_allclose([row["auc"] for row in found["per_class"]], aucs, rtol=1e-12)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(LABELS, chances, multi_class="ovr"))


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_the_area_under_the_curve_counts_equal_scores_by_half(steps: int) -> None:
    rng = np.random.default_rng(steps)
    for size in (2, 7, 400):
        scores, truth = rng.integers(0, steps, size) / 7, np.arange(size) % 3 == 0
        # Pair by pair, as it is defined.
        higher = np.subtract.outer(scores[truth], scores[~truth])
        by_hand = float(((higher > 0) + (higher == 0) / 2).mean())
        assert metrics.roc_auc(scores, truth) == pytest.approx(by_hand, abs=1e-12)
        assert by_hand == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        # A positive that nobody scored is below every negative.
        unseen = np.append(higher, np.full((2, higher.shape[1]), -1.0), axis=0)
        half = ((unseen > 0) + (unseen == 0) / 2).mean()
        assert metrics.roc_auc(scores, truth, missed=2) == pytest.approx(half, abs=1e-12)
    assert metrics.roc_auc(scores, np.ones(400)) is None
    assert metrics.roc_auc(scores, np.zeros(400)) is None
    assert metrics.roc_auc(scores, np.zeros(400), missed=1) == 0


def test_means_over_classes_leave_out_those_without_images() -> None:
    """By hand: two of class 0 right, one of class 1 taken for class 2, which has none."""
    logits = np.array([[2.0, 0, 0], [1.0, 0, 0], [0, 0, 3.0]])
    found = metrics.summarise(logits, np.array([0, 0, 1]), ["a", "b", "c"])
    assert [row["f1"] for row in found["per_class"]] == [1, 0, None]
    assert (found["f1_macro"], found["balanced_accuracy"]) == (0.5, 0.5)
    assert found["per_class"][2]["auc"] is None
    # Its only image gives class 1 less than both others do.
    assert found["roc_auc"] == (1 + 0) / 2
    one = metrics.summarise(logits, np.zeros(3, int), ["a", "b", "c"])
    assert one["roc_auc"] is None, "there is nothing to tell it from"


def test_cross_entropies_equal_scikit_learn_and_do_not_overflow() -> None:
    each = metrics.cross_entropies(LOGITS, LABELS)
    wanted = log_loss(LABELS, metrics.softmax(LOGITS))
    assert each.mean() == pytest.approx(wanted, rel=1e-9)
    far = metrics.cross_entropies(np.array([[1e4, -1e4], [3.0, 3.0]]), np.array([1, 0]))
    assert far.tolist() == pytest.approx([2e4, np.log(2)])
    truth = (LABELS[:, None] == range(8)).astype(int)
    binary = metrics.binary_cross_entropies(LOGITS, truth)
    wanted = sum(log_loss(truth[:, at], metrics.sigmoid(LOGITS[:, at])) for at in range(8))
    assert binary.mean() == pytest.approx(wanted, rel=1e-6)
    assert metrics.binary_cross_entropies(np.array([[-1e4]]), np.array([[1]])).tolist() == [1e4]


def test_counts_of_parts_add_up_to_the_whole() -> None:
    whole = metrics.topk_counts(LOGITS, LABELS, (1, 3, 8))
    parts = [metrics.topk_counts(LOGITS[i::7], LABELS[i::7], (1, 3, 8)) for i in range(7)]
    assert whole == {k: sum(part[k] for part in parts) for k in (1, 3, 8)}
    assert whole[8] == 300


def test_equal_logits_do_not_count_as_right_for_every_class() -> None:
    logits = np.zeros((4, 4))
    assert metrics.topk_counts(logits, np.arange(4), (1, 2)) == {1: 1, 2: 2}
    assert metrics.summarise(logits, np.arange(4), CLASSES[:4])["top1_count"] == 1


def test_k_beyond_the_classes_is_an_error_and_not_everything_right() -> None:
    with pytest.raises(ParameterError, match="top-9 of 8 classes"):
        metrics.topk_counts(LOGITS, LABELS, (9,))


def test_three_classes_have_no_top5() -> None:
    found = metrics.summarise(LOGITS[:, :3], LABELS % 3, CLASSES[:3])
    assert found["top5"] is None
    assert found["top5_count"] is None


def test_class_without_images_has_no_recall() -> None:
    found = metrics.summarise(LOGITS, np.zeros(300, dtype=int), CLASSES)
    assert found["per_class"][3]["n"] == 0
    assert found["per_class"][3]["recall"] is None


def test_many_classes_have_their_largest_mistakes_listed_instead_of_a_matrix() -> None:
    labels = np.array([0] * 6 + [1] * 4)
    logits = np.zeros((10, 150))
    logits[:6, 7] = 1
    logits[6:, 9] = 1
    found = metrics.summarise(logits, labels, [str(index) for index in range(150)])
    assert found["confusion"] is None
    assert found["most_confused"] == [
        {"true": "0", "predicted": "7", "count": 6},
        {"true": "1", "predicted": "9", "count": 4},
    ]


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False])
    expected = (2 * 0.05 + 2 * 0.05) / 4
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(expected)
    assert metrics.expected_calibration_error(np.ones(3), np.ones(3, dtype=bool)) == 0


def test_a_confidence_on_an_edge_is_in_the_bin_below_it() -> None:
    # 0.2 is 3/15: with 0.19 in the third bin, whose confidence is 0.39 and whose right ones are 1.
    found = metrics.expected_calibration_error(np.array([0.2, 0.19]), np.array([True, False]))
    assert found == pytest.approx(0.61 / 2)


def test_wilson_interval_equals_the_textbook() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263 and 0 of 20.
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson_interval(0, 20)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no image"),
        (np.zeros((2, 3)), np.array([0, 3]), "do not fit 3 classes"),
        (np.zeros((2, 3)), np.array([-1, 0]), "do not fit 3 classes"),
        (np.zeros((2, 3)), np.array([0]), "are not"),
        (np.array([[0.0, np.nan]]), np.array([0]), "NaN"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    logits: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        metrics.topk_counts(logits, labels, (1,))


def test_model_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="answers for 8 classes, the data has 3"):
        metrics.summarise(LOGITS, LABELS % 3, CLASSES[:3])


def test_metrics_need_no_torch() -> None:
    program = (
        "import sys; from hgnetv2_pipeline.evaluation import metrics; "
        "import hgnetv2_pipeline.evaluation; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture(params=["plain", "tied"])
def several(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of 301 images and six classes, the last without a positive."""
    rng = np.random.default_rng(7)
    truth = rng.random((301, 6)) < [0.5, 0.3, 0.1, 0.05, 0.01, 0.0]
    truth[:2, 4] = True
    logits = rng.normal(-1, 2, (301, 6)) + 1.5 * truth
    if request.param == "tied":
        logits = np.round(logits)
    return logits.astype(np.float32), truth.astype(np.uint8)


def test_map_and_f1_equal_scikit_learn(several: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = several
    thresholds = [0.5, 0.2, 0.3, 0.4, 0.1, 0.5]
    found = metrics.summarise_multi_label(logits, truth, CLASSES[:6], thresholds)
    # scikit-learn calls a class without positives 0 and warns; here it has none and does not count.
    wanted = average_precision_score(truth[:, :5], logits[:, :5], average=None)
    aps = [row["ap"] for row in found["per_class"]]
    np.testing.assert_allclose(aps[:5], wanted, rtol=0, atol=1e-12)
    assert aps[5] is None and found["map_classes"] == 5
    aucs = roc_auc_score(truth[:, :5], logits[:, :5], average=None)
    found_aucs = [row["auc"] for row in found["per_class"]]
    assert found_aucs[:5] == pytest.approx(aucs.tolist(), abs=1e-12) and found_aucs[5] is None
    assert found["roc_auc"] == pytest.approx(aucs.mean(), abs=1e-12)
    macro = average_precision_score(truth[:, :5], logits[:, :5], average="macro")
    assert found["map"] == pytest.approx(macro, abs=1e-12)
    assert metrics.mean_average_precision(logits, truth) == found["map"]

    told = 1 / (1 + np.exp(-logits.astype(np.float64))) >= thresholds
    for average in ("micro", "macro"):
        columns = slice(None) if average == "micro" else slice(0, 5)
        expected = f1_score(truth[:, columns], told[:, columns], average=average)
        assert found[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)
    assert found["exact_count"] == round(accuracy_score(truth, told) * 301)
    parts = ("true_positives", "false_positives", "false_negatives")
    for name in parts:
        assert found[name] == sum(row[name] for row in found["per_class"])
    assert found["per_class"][2]["n"] == truth[:, 2].sum()


def test_average_precision_does_not_depend_on_the_order_of_the_images(
    several: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, truth = several
    order = np.random.default_rng(1).permutation(301)
    assert metrics.mean_average_precision(logits[order], truth[order]) == (
        metrics.mean_average_precision(logits, truth)
    )


def test_positives_that_nobody_scored_count_as_never_found() -> None:
    logits = np.array([[3.0], [2.0], [1.0]])
    truth = np.array([[1], [0], [1]])
    lost = metrics.summarise_multi_label(logits, truth, ["a"], [0.5], np.array([2]))
    assert lost["per_class"][0]["ap"] == pytest.approx((1 + 2 / 3) / 4)
    assert (lost["false_negatives"], lost["per_class"][0]["n"]) == (2, 4)


def test_thresholds_give_the_best_f1_of_every_class(
    several: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, truth = several
    chosen = metrics.best_thresholds(logits, truth)
    probabilities = metrics.sigmoid(logits)
    assert chosen[5] == metrics.NEUTRAL_THRESHOLD
    for at in range(5):
        scores = probabilities[:, at]
        precision, recall, _ = precision_recall_curve(truth[:, at], scores)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert f1_score(truth[:, at], scores >= chosen[at]) == pytest.approx(best, abs=1e-12)
        # Half-way between two scores: rounding in another engine moves no image across.
        assert np.abs(scores - chosen[at]).min() > 1e-6


@pytest.mark.parametrize(
    ("logits", "truth", "said"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "are not both"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "no image to evaluate"),
        (np.zeros((2, 3)), np.full((2, 3), 2), "0 or 1"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "2 images got NaN or inf"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "belongs to any class"),
    ],
)
def test_what_map_cannot_be_measured_on_is_refused(
    logits: np.ndarray, truth: np.ndarray, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        metrics.mean_average_precision(logits, truth)
