"""Loss functions on logits, each a mean over the batch.

``student_logits`` and ``teacher_logits`` are [N, C] float tensors; results are scalars. Formulas
are PaddleClas's (``ppcls/loss``), checked against values measured there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DML_EPSILON = 1e-12
_DIST_EPSILON = 1e-8


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``-sum_c softmax(t)_c log_softmax(s)_c``: DistillationCELoss, SSLD's loss as released."""
    target = teacher_logits.softmax(dim=1)
    return -(target * student_logits.log_softmax(dim=1)).sum(dim=1).mean()


def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """``T^2 KL(softmax(t/T) || softmax(s/T))`` (Hinton et al., 1503.02531)."""
    student = (student_logits / temperature).log_softmax(dim=1)
    teacher = (teacher_logits / temperature).log_softmax(dim=1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(dim=1).mean()


def symmetric_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``(KL(t||s) + KL(s||t)) / 2``: DistillationDMLLoss, which SSLD's text calls JS."""
    student, teacher = student_logits.softmax(dim=1), teacher_logits.softmax(dim=1)
    # (t - s) log(t/s) is both directions at once; the guard is the published one.
    log_ratio = ((teacher + _DML_EPSILON) / (student + _DML_EPSILON)).log()
    return ((teacher - student) * log_ratio).sum(dim=1).mean() / 2


def dist(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """DIST (2205.10536): ``1 - mean correlation`` over images plus the same over classes."""
    student, teacher = student_logits.softmax(dim=1), teacher_logits.softmax(dim=1)
    between_classes = 1 - _correlation(student, teacher).mean()
    within_class = 1 - _correlation(student.T, teacher.T).mean()
    return between_classes + within_class


def label_smoothing_cross_entropy(
    logits: Tensor, target: Tensor, epsilon: float, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with ``(1-eps) onehot + eps/C``; ``target`` is [N] int64.

    ``class_weights`` [C] multiply each image's loss by the weight of its class; the mean stays
    over images, so weights with a mean of 1 over the training list keep the scale of the loss.
    """
    if class_weights is None:
        return functional.cross_entropy(logits, target, label_smoothing=epsilon)
    each = functional.cross_entropy(logits, target, label_smoothing=epsilon, reduction="none")
    return (each * class_weights[target]).mean()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of matching rows, with PaddleClas's guard against a zero norm."""
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (norms + _DIST_EPSILON)
