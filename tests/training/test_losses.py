"""Losses against values measured on PaddleClas, and with their gradients against NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hgnetv2_pipeline.training import losses

GOLDEN = Path(__file__).parents[1] / "golden" / "paddle_training.json"
RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(0, 3, (5, 7)), RNG.normal(0, 3, (5, 7))
LABELS = np.array([0, 6, 2, 2, 5])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def np_soft_ce(s: np.ndarray, t: np.ndarray) -> float:
    return float(-(softmax(t) * np.log(softmax(s))).sum(1).mean())


def np_kl(s: np.ndarray, t: np.ndarray, temperature: float = 1.0) -> float:
    p, q = softmax(t / temperature), softmax(s / temperature)
    return float(temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean())


def np_symmetric(s: np.ndarray, t: np.ndarray) -> float:
    p, q, guard = softmax(t), softmax(s), 1e-12
    forward = (p * np.log((p + guard) / (q + guard))).sum(1).mean()
    backward = (q * np.log((q + guard) / (p + guard))).sum(1).mean()
    return float((forward + backward) / 2)


def np_dist(s: np.ndarray, t: np.ndarray) -> float:
    def apart(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        norms = np.sqrt((a**2).sum(1)) * np.sqrt((b**2).sum(1))
        return float(1 - ((a * b).sum(1) / (norms + 1e-8)).mean())

    p, q = softmax(s), softmax(t)
    return apart(p, q) + apart(p.T, q.T)


def np_smoothing(s: np.ndarray, epsilon: float, weights: np.ndarray | None = None) -> float:
    target = np.eye(7)[LABELS] * (1 - epsilon) + epsilon / 7
    each = -(target * np.log(softmax(s))).sum(1)
    return float((each if weights is None else each * weights[LABELS]).mean())


def np_focal(s: np.ndarray, gamma: float, weights: np.ndarray) -> float:
    p = softmax(s)[np.arange(len(LABELS)), LABELS]
    return float((weights[LABELS] * (1 - p) ** gamma * -np.log(p)).mean())


def np_bce(s: np.ndarray, y: np.ndarray, epsilon: float, weights: np.ndarray) -> float:
    p, y = 1 / (1 + np.exp(-s)), (1 - epsilon) * y + epsilon / s.shape[1]
    return float(-(weights * y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1).mean())


# Where the paper's two powers are constants to the gradient, this is where they are taken.
def np_asymmetric(
    s: np.ndarray, y: np.ndarray, neg: float, pos: float, clip: float, at: np.ndarray
) -> float:
    p, fixed = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-at))
    shifted, held = np.maximum(p - clip, 0), np.maximum(fixed - clip, 0)
    positive = (1 - fixed) ** pos * np.log(p)
    negative = held**neg * np.log(1 - shifted)
    return float(-(y * positive + (1 - y) * negative).sum(1).mean())


WEIGHTS = np.array([1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25])
SEVERAL = (RNG.random((5, 7)) < 0.4).astype(float)
MIXED = 0.3 * SEVERAL + 0.7 * SEVERAL[::-1]
CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[np.ndarray], float]]] = {
    "soft_cross_entropy": (
        lambda s: losses.soft_cross_entropy(s, torch.tensor(TEACHER)),
        lambda s: np_soft_ce(s, TEACHER),
    ),
    "kl_divergence": (
        lambda s: losses.kl_divergence(s, torch.tensor(TEACHER), temperature=4.0),
        lambda s: np_kl(s, TEACHER, 4.0),
    ),
    "symmetric_kl": (
        lambda s: losses.symmetric_kl(s, torch.tensor(TEACHER)),
        lambda s: np_symmetric(s, TEACHER),
    ),
    "dist": (lambda s: losses.dist(s, torch.tensor(TEACHER)), lambda s: np_dist(s, TEACHER)),
    "label_smoothing": (
        lambda s: losses.label_smoothing_cross_entropy(s, torch.tensor(LABELS), 0.1),
        lambda s: np_smoothing(s, 0.1),
    ),
    "class_weights": (
        lambda s: losses.label_smoothing_cross_entropy(
            s, torch.tensor(LABELS), 0.1, torch.tensor(WEIGHTS)
        ),
        lambda s: np_smoothing(s, 0.1, WEIGHTS),
    ),
    "focal": (
        lambda s: losses.focal_loss(s, torch.tensor(LABELS), 2.0),
        lambda s: np_focal(s, 2.0, np.ones(7)),
    ),
    "focal_weighted": (
        lambda s: losses.focal_loss(s, torch.tensor(LABELS), 0.5, torch.tensor(WEIGHTS)),
        lambda s: np_focal(s, 0.5, WEIGHTS),
    ),
    "bce": (
        lambda s: losses.binary_cross_entropy(s, torch.tensor(SEVERAL)),
        lambda s: np_bce(s, SEVERAL, 0.0, np.ones(7)),
    ),
    "bce_smoothed_weighted_mixed": (
        lambda s: losses.binary_cross_entropy(s, torch.tensor(MIXED), 0.1, torch.tensor(WEIGHTS)),
        lambda s: np_bce(s, MIXED, 0.1, WEIGHTS),
    ),
    "asymmetric": (
        lambda s: losses.asymmetric_loss(s, torch.tensor(SEVERAL), 4.0, 1.0, 0.05),
        lambda s: np_asymmetric(s, SEVERAL, 4.0, 1.0, 0.05, STUDENT),
    ),
    "asymmetric_unclipped_mixed": (
        lambda s: losses.asymmetric_loss(s, torch.tensor(MIXED), 2.0, 0.0, 0.0),
        lambda s: np_asymmetric(s, MIXED, 2.0, 0.0, 0.0, STUDENT),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_a_numpy_transcription(name: str) -> None:
    ours, theirs = CASES[name]
    student = torch.tensor(STUDENT, requires_grad=True)
    value = ours(student)
    value.backward()
    assert value.item() == pytest.approx(theirs(STUDENT), abs=1e-9)

    numeric = np.zeros_like(STUDENT)
    for index in np.ndindex(*STUDENT.shape):
        up, down = STUDENT.copy(), STUDENT.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        numeric[index] = (theirs(up) - theirs(down)) / 2e-5
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), numeric, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("soft_cross_entropy", losses.soft_cross_entropy),
        ("symmetric_kl_sum_over_classes", losses.symmetric_kl),
        ("dist_loss", losses.dist),
    ],
)
def test_loss_equals_paddleclas(name: str, loss: Callable[..., torch.Tensor]) -> None:
    golden = json.loads(GOLDEN.read_text())["losses"]
    student, teacher = (
        torch.tensor(golden[k], dtype=torch.float64) for k in ("student", "teacher")
    )
    assert loss(student, teacher).item() == pytest.approx(golden[name], abs=1e-9)


def test_without_focus_the_focal_loss_is_cross_entropy() -> None:
    student, target = torch.tensor(STUDENT), torch.tensor(LABELS)
    found = losses.focal_loss(student, target, 0.0)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(student, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_stays_finite_where_the_answer_is_certain(gamma: float) -> None:
    student = torch.tensor([[300.0, 0.0], [-300.0, 0.0]], requires_grad=True)
    loss = losses.focal_loss(student, torch.tensor([0, 0]), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(150) and student.grad is not None
    assert torch.isfinite(student.grad).all() and not student.grad[0].any()


def test_without_focus_and_clip_the_asymmetric_loss_is_bce() -> None:
    student, target = torch.tensor(STUDENT), torch.tensor(SEVERAL)
    found = losses.asymmetric_loss(student, target, 0.0, 0.0, 0.0)
    torch.testing.assert_close(found, losses.binary_cross_entropy(student, target))


@pytest.mark.parametrize("logit", [-200.0, 200.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_losses_of_several_labels_stay_finite_far_out(logit: float, clip: float) -> None:
    student = torch.full((2, 3), logit, requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.5]] * 2)
    loss = losses.asymmetric_loss(student, target, 4.0, 1.0, clip)
    (loss + losses.binary_cross_entropy(student, target)).backward()
    assert student.grad is not None
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_gradient_of_soft_cross_entropy_is_that_of_kl() -> None:
    gradients = []
    for loss in (losses.soft_cross_entropy, losses.kl_divergence):
        student = torch.tensor(STUDENT, requires_grad=True)
        loss(student, torch.tensor(TEACHER)).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


def test_a_student_that_equals_the_teacher_has_no_divergence() -> None:
    z = torch.tensor(TEACHER)
    for value in (losses.kl_divergence(z, z, 4.0), losses.symmetric_kl(z, z), losses.dist(z, z)):
        assert abs(value.item()) < 1e-4
