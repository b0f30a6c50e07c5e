"""The linear classifier of a probe: a minimum, chosen and calibrated on what it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad, minimize

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.teacher import logistic
from hgnetv2_pipeline.teacher.logistic import L2, Standardised, fit_classifier

CLASSES = 3


def blobs(
    images: int = 60, spread: float = 1.0, seed: int = 0, width: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre per class, in units that differ by a thousand, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    centres = np.random.default_rng(9).normal(size=(CLASSES, width))
    features = centres[labels] + spread * rng.normal(size=(images, width))
    return features * np.logspace(0, 3, width) + 5, labels


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def by_hand(features: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """Logits of the minimum, with features scaled by hand and SciPy's optimiser."""
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    hot = np.eye(CLASSES)[labels]

    def loss(flat: np.ndarray) -> float:
        weights = flat.reshape(CLASSES, -1)
        logits = x @ weights[:, :-1].T + weights[:, -1]
        value = -(hot * log_softmax(logits)).sum(axis=1).mean()
        return float(value + l2 / 2 * np.square(weights[:, :-1]).sum())

    def slope(flat: np.ndarray) -> np.ndarray:
        weights = flat.reshape(CLASSES, -1)
        off = (np.exp(log_softmax(x @ weights[:, :-1].T + weights[:, -1])) - hot) / len(x)
        return np.hstack([off.T @ x + l2 * weights[:, :-1], off.sum(axis=0)[:, None]]).ravel()

    start = np.zeros(CLASSES * (x.shape[1] + 1))
    assert check_grad(loss, slope, start + 0.1) < 1e-5
    weights = minimize(loss, start, jac=slope, tol=1e-12).x.reshape(CLASSES, -1)
    return np.asarray(x @ weights[:, :-1].T + weights[:, -1])


@pytest.mark.parametrize("l2", [1.0, 0.03])
def test_it_is_the_minimum_on_scaled_features(l2: float) -> None:
    features, labels = blobs()
    found = fit_classifier(features, labels, CLASSES, l2=[l2])
    logits = (features @ found.weight.T + found.bias) * found.temperature
    expected = by_hand(features, labels, l2)
    # A class's bias is free up to a constant for all classes.
    centred = [one - one.mean(axis=1, keepdims=True) for one in (logits, expected)]
    np.testing.assert_allclose(*centred, atol=2e-4)


def test_the_penalty_is_chosen_by_what_was_held_out() -> None:
    """Of many useless features a strong penalty is right, of few good ones a weak one."""
    features, labels = blobs(images=90, spread=0.3)
    assert fit_classifier(features, labels, CLASSES).l2 < 0.03
    noise = np.random.default_rng(1).normal(size=(90, 400))
    assert fit_classifier(noise, labels, CLASSES).l2 == max(L2)


def test_answers_to_held_out_images_are_of_classifiers_that_had_not_seen_them() -> None:
    """Labels at random can be learnt by heart from 400 features; held out, nothing is right."""
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(120, 400)), rng.integers(CLASSES, size=120)
    found = fit_classifier(features, labels, CLASSES, l2=[1e-3])
    learnt = (features @ found.weight.T + found.bias).argmax(axis=1)
    assert (learnt == labels).all()
    assert (found.held_out.argmax(axis=1) == labels).mean() < 0.5
    np.testing.assert_allclose(np.exp(found.held_out).sum(axis=1), 1, atol=1e-5)


def test_probabilities_are_calibrated_on_held_out_images() -> None:
    """Too weak a penalty makes them too sure; the temperature takes that back."""
    features, labels = blobs(images=240, spread=4.0, width=60)
    found = fit_classifier(features, labels, CLASSES, l2=[3e-4])
    assert found.temperature > 1.3
    rows = np.arange(len(labels))
    sure = -(found.held_out * found.temperature)
    sure = -log_softmax(-sure)[rows, labels].mean()
    assert -found.held_out[rows, labels].mean() < sure - 0.1


def test_balanced_gives_a_rare_class_its_share() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1, 2], [150, 150, 10])
    features = rng.normal(size=(310, 3)) + 1.6 * np.eye(3)[labels]
    recalls = []
    for balanced in (False, True):
        found = fit_classifier(features, labels, 3, balanced=balanced, l2=[0.1])
        answers = (features @ found.weight.T + found.bias).argmax(axis=1)
        recalls.append((answers[labels == 2] == 2).mean())
    assert recalls[0] + 0.2 <= recalls[1]


def test_a_feature_that_never_varies_counts_for_nothing() -> None:
    features, labels = blobs()
    constant = np.hstack([features, np.full((len(features), 1), 7.0)])
    found = fit_classifier(constant, labels, CLASSES, l2=[0.1])
    assert (found.weight[:, -1] == 0).all()
    assert np.isfinite(found.weight).all()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x, y: (np.where(np.arange(len(x))[:, None] == 3, np.nan, x), y), "of 1 of 60 imag"),
        (lambda x, y: (x, y + 1), "labels 1 to 3 do not fit 3 classes"),
        (lambda x, y: (x, y * 0), "there is one class"),
        (lambda x, y: (x[:50], y), r"features \(50, 4\) and 60 labels"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(spoil, told: str) -> None:
    features, labels = spoil(*blobs())
    with pytest.raises(DataError, match=told):
        fit_classifier(features, labels, CLASSES)


def test_a_near_start_finds_the_same_minimum_in_fewer_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = blobs(width=40)
    asked: list[int] = []
    plain = logistic._logits
    monkeypatch.setattr(logistic, "_logits", lambda x, y: asked.append(len(x)) or plain(x, y))
    more, theirs = blobs(90, seed=1, width=40)
    both, all_labels = np.concatenate([features, more]), np.concatenate([labels, theirs])
    start = Standardised.fit(features, labels, CLASSES, l2=0.03)
    far = replace(start, solution=torch.zeros_like(start.solution))
    logits, steps = [], []
    for near in (far, start):
        asked.clear()
        found = Standardised.fit(both, all_labels, CLASSES, l2=0.03, start=near)
        steps.append(len(asked))
        logits.append(found.logits(both))
    centred = [one - one.mean(axis=1, keepdims=True) for one in logits]
    np.testing.assert_allclose(*centred, atol=0.01)  # both end at a slope of 1e-5
    assert steps[1] < steps[0]
