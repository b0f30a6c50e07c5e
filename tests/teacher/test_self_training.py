"""Probes that learn from the pool as well: which of it, with whom, and when it is left out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hgnetv2_pipeline.data.sample_rng import epoch_order
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.intervals import PairedDifference
from hgnetv2_pipeline.teacher import self_training
from hgnetv2_pipeline.teacher.choosing import keep_self_trained
from hgnetv2_pipeline.teacher.self_training import Features, self_train
from hgnetv2_pipeline.teacher.typicality import (
    APART,
    NEAR,
    Reference,
    fit_reference,
    read_reference,
    save_reference,
    spread_over_classes,
    statistic,
    unit,
)
from hgnetv2_pipeline.weights.load import save_weights

CLASSES, WIDTH = 3, 12


def statistic_by_hand(
    log: np.ndarray, guesses: np.ndarray, features: np.ndarray, reference: np.ndarray,
    labels: np.ndarray, itself: bool,
) -> np.ndarray:  # fmt: skip
    found = []
    for number, feature in enumerate(features):
        near, other = [-1.0], [-1.0]
        for place, (known, label) in enumerate(zip(reference, labels, strict=True)):
            if not (itself and place == number):
                cosine = float(feature @ known)
                (near if label == guesses[number] else other).append(cosine)
        found.append(log[number] + 5 * max(near) + 5 * (max(near) - max(other)))
    return np.array(found)


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("block", [1, 30, 1 << 24])
def test_the_statistic_is_that_of_the_definition(
    itself: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    reference = unit(torch.from_numpy(rng.normal(size=(20, WIDTH))))
    features = reference if itself else unit(torch.from_numpy(rng.normal(size=(15, WIDTH))))
    labels, guesses = rng.integers(0, 3, 20), rng.integers(0, 3, len(features))
    log = np.log(rng.uniform(0.3, 1, len(features)))
    monkeypatch.setattr("hgnetv2_pipeline.teacher.typicality._BLOCK", block)
    assert (NEAR, APART) == (5, 5)
    found = statistic(
        torch.from_numpy(log), torch.from_numpy(guesses), features, reference,
        torch.from_numpy(labels), itself=itself,
    )  # fmt: skip
    expected = statistic_by_hand(log, guesses, features.numpy(), reference.numpy(), labels, itself)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_typicality_is_the_share_of_labelled_images_that_are_less_typical() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.arange(900) % CLASSES)
    centres = torch.eye(CLASSES, WIDTH, dtype=torch.float64)
    features = unit(centres[labels] + 0.3 * torch.from_numpy(rng.normal(size=(900, WIDTH))))
    log = torch.from_numpy(-rng.exponential(0.1, 900))
    reference = fit_reference(log[:600], labels[:600], features[:600], labels[:600])
    others = reference.typicality(log[600:], labels[600:], features[600:])
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert abs(float((others < share).double().mean()) - share) < 0.08
    # What is far from all labelled images is less typical than nearly all, however sure the answer.
    strange = unit(torch.from_numpy(rng.normal(size=(50, WIDTH))))
    sure = torch.zeros(50, dtype=torch.float64)
    assert float(reference.typicality(sure, labels[:50], strange).median()) < 0.02


def test_a_teacher_that_is_never_right_has_no_typicality() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(
        DataError, match=r"names the class of 0 of 3 labelled images.*mining.rank_by=confidence"
    ):
        fit_reference(torch.zeros(3), (labels + 1) % 3, torch.eye(3), labels)


@pytest.mark.parametrize(
    ("most", "expected"), [(100, [50, 5, 1]), (21, [15, 5, 1]), (3, [1, 1, 1])]
)
def test_a_reference_is_spread_over_the_classes(most: int, expected: list[int]) -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2])
    places = spread_over_classes(labels, most, seed=3)
    assert np.bincount(labels[places]).tolist() == expected
    assert places.tolist() == sorted(places.tolist())
    first = [place for place in epoch_order(56, 3, 0) if labels[place] == 0][: expected[0]]
    assert places[labels[places] == 0].tolist() == sorted(first)


def two_views(
    images: int, shift: float, seed: int
) -> tuple[Features, Features, np.ndarray, np.ndarray]:
    """Two kinds of features of labelled images and of a pool whose centres are moved by ``shift``.

    A third of the pool belongs to no class. Returns the views, the labels, and the pool's (-1).
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    truth = np.where(np.arange(600) % 3 == 0, -1, rng.integers(0, CLASSES, 600))
    views = []
    for view in range(2):
        base = np.random.default_rng(100 + view)
        centres = base.normal(size=(CLASSES, WIDTH))
        moved = centres + shift * base.normal(size=(CLASSES, WIDTH))
        strange = base.normal(size=(8, WIDTH))[rng.integers(0, 8, 600)]
        pool = np.where(truth[:, None] >= 0, moved[truth], strange)
        views.append(
            Features(
                (centres[labels] + rng.normal(size=(images, WIDTH))).astype(np.float32),
                (pool + rng.normal(size=(600, WIDTH))).astype(np.float32),
            )
        )
    return views[0], views[1], labels, truth


def accuracy(found: self_training.SelfTraining, views: list[Features], truth: np.ndarray) -> float:
    mean = np.zeros((len(truth), CLASSES))
    for place, classifier in zip(found.partners, found.classifiers, strict=True):
        logits = views[place].pool @ classifier.weight.T + classifier.bias
        mean += np.exp(logits - logits.max(axis=1, keepdims=True)) / np.exp(
            logits - logits.max(axis=1, keepdims=True)
        ).sum(axis=1, keepdims=True)
    known = truth >= 0
    return float((mean.argmax(axis=1)[known] == truth[known]).mean())


def test_two_probes_learn_from_a_pool_that_is_unlike_the_labelled_images() -> None:
    gained = []
    for seed in range(4):
        one, other, labels, truth = two_views(90, 1.0, seed)
        before = self_train([one, other], labels, CLASSES, rounds=0)
        after = self_train([one, other], labels, CLASSES, rounds=3)
        assert before.taken == 0
        assert 0.1 * 600 < after.taken < 0.7 * 600
        assert after.helps
        views = [one, other]
        gained.append(accuracy(after, views, truth) - accuracy(before, views, truth))
    assert np.mean(gained) > 0.03, gained
    assert min(gained) > -0.02, gained


def test_without_rounds_the_classifiers_are_those_of_the_labelled_images() -> None:
    one, _, labels, _ = two_views(60, 0, 0)
    found = self_train([one], labels, CLASSES, rounds=0)
    from hgnetv2_pipeline.teacher.logistic import fit_classifier

    plain = fit_classifier(one.labelled, labels, CLASSES)
    [again] = found.classifiers
    assert again.l2 == plain.l2
    logits = [one.pool @ c.weight.T + c.bias for c in (again, plain)]
    assert (logits[0].argmax(axis=1) == logits[1].argmax(axis=1)).mean() > 0.99


def test_a_probe_that_knows_nothing_takes_no_part() -> None:
    one, _, labels, _ = two_views(60, 0, 0)
    rng = np.random.default_rng(5)
    noise = Features(
        rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(600, 5)).astype(np.float32)
    )
    found = self_train([noise, one], labels, CLASSES)
    assert found.partners == [1]
    assert len(found.classifiers) == 1


def test_a_pool_that_misleads_is_noticed_on_held_out_images() -> None:
    """What looks like one class in the pool is of another: the rehearsal gets worse."""
    one, _, labels, _ = two_views(300, 0, 0)
    found = self_train([one], labels, CLASSES)
    assert found.helps
    assert found.held_out == 60
    assert found.lost is not None
    worse, little = PairedDifference(20 / 60, 0.07), PairedDifference(5 / 60, 0.05)
    assert not replace(found, lost=worse).helps
    assert replace(found, lost=little).helps


@pytest.mark.parametrize(("per_class", "held_out"), [([1, 1, 1], 0), ([1, 8, 8], 2)])
def test_no_class_is_held_out_whole(
    per_class: list[int], held_out: int, caplog: pytest.LogCaptureFixture
) -> None:
    one, _, labels, _ = two_views(90, 0, 0)
    some = np.concatenate([np.flatnonzero(labels == c)[:n] for c, n in enumerate(per_class)])
    few = Features(one.labelled[some], one.pool)
    found = self_train([few], labels[some], CLASSES)
    assert found.held_out == held_out
    assert ("self-training is not rehearsed" in caplog.text) is (held_out == 0)
    assert found.helps


def test_with_many_labelled_images_some_of_every_class_are_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, _, labels, truth = two_views(90, 0, 0)
    whole = self_train([one], labels, CLASSES)
    monkeypatch.setattr(self_training, "spread_over_classes", partial(spread_over_classes, most=30))
    compared: list[int] = []

    def counted(*given: torch.Tensor, **more: bool) -> torch.Tensor:
        reference, known = given[3:]
        compared.append(len(reference))
        assert torch.bincount(known).tolist() == [10] * CLASSES
        return statistic(*given, **more)

    monkeypatch.setattr(self_training, "statistic", counted)
    fewer = self_train([one], labels, CLASSES)
    assert set(compared) == {30}
    views = [one]
    assert accuracy(fewer, views, truth) > accuracy(whole, views, truth) - 0.05


def test_an_empty_pool_is_refused() -> None:
    one, _, labels, _ = two_views(60, 0, 0)
    with pytest.raises(DataError, match="needs images of the pool"):
        self_train([Features(one.labelled, one.pool[:0])], labels, CLASSES)


@pytest.mark.parametrize(
    ("before", "after", "kept"), [(90, 87, True), (90, 85, False), (95, 60, False), (80, 90, True)]
)
def test_self_trained_probes_teach_unless_others_are_clearly_better(
    before: int, after: int, kept: bool
) -> None:
    labels = np.zeros(100, dtype=np.int64)

    def answers(right: int) -> np.ndarray:
        return np.where(np.arange(100)[:, None] < right, [[0.9, 0.1]], [[0.1, 0.9]])

    found, why = keep_self_trained([answers(after)], [answers(before)], labels)
    assert found is kept
    assert f"{after} of 100 right together, the best of the others {before} " in why


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    reference = Reference(torch.eye(2).half(), torch.tensor([0, 1]), 1 / 3, 0.5)
    for name in ("one", "other"):
        save_reference(tmp_path / f"{name}.safetensors", reference)
    files = [(tmp_path / f"{name}.safetensors") for name in ("one", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = read_reference(files[0]).to(torch.device("cpu"))
    assert (again.mean, again.spread) == (1 / 3, 0.5)
    assert torch.equal(again.features, reference.features)
    assert torch.equal(again.labels, reference.labels)
    save_weights(files[0], {"labels": reference.labels}, {"mean": "1"})
    with pytest.raises(WeightsError, match=r"one.safetensors is no reference of typicality"):
        read_reference(files[0])
