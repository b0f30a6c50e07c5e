"""Loss functions on logits, each a mean over the batch (of several labels: of sums over classes).

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


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """``-(1-p)^gamma log(p)`` of the true class's probability p (Lin et al., ICCV 2017, 1708.02002,
    with softmax in place of its sigmoids); ``target`` is [N] int64.

    ``class_weights`` [C] are the paper's alpha, used as in ``label_smoothing_cross_entropy``.
    """
    log_p = logits.log_softmax(dim=1).gather(1, target[:, None])[:, 0]
    # A power below 1 has no gradient at 0; what it is multiplied by is 0 there.
    missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    each = -(missing**gamma) * log_p
    return (each if class_weights is None else each * class_weights[target]).mean()


def binary_cross_entropy(
    logits: Tensor, target: Tensor, epsilon: float = 0.0, pos_weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of each class, summed over the classes.

    ``target`` is [N, C] in 0..1. Label smoothing makes it ``(1-eps) y + eps/C``. This is
    MultiLabelLoss with ``size_sum``; ``pos_weight`` [C] multiplies the part of the positives.
    """
    if epsilon:
        target = (1 - epsilon) * target + epsilon / target.shape[1]
    each = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight, reduction="none"
    )
    return each.sum(dim=1).mean()


def asymmetric_loss(
    logits: Tensor, target: Tensor, gamma_neg: float, gamma_pos: float, clip: float
) -> Tensor:
    """ASL (Ridnik et al., ICCV 2021, 2009.14119), summed over the classes.

    With ``p = sigmoid(x)`` and ``q = max(p - clip, 0)``: ``y (1-p)^gamma_pos log(p) + (1-y)
    q^gamma_neg log(1-q)``, negated. As in the authors' code and in PaddleClas the two powers are
    constants to the gradient. ``target`` is [N, C] in 0..1; in between (Mixup) both parts count by
    their share, which leaves the loss of two mixed images the mixture of their losses.
    """
    probability = logits.sigmoid()
    shifted = (probability - clip).clamp_min(0)
    weights = torch.stack([1 - probability, shifted]).detach()
    positive = weights[0] ** gamma_pos * functional.logsigmoid(logits)
    absent = functional.logsigmoid(-logits) if clip == 0 else torch.log1p(-shifted)
    negative = weights[1] ** gamma_neg * absent
    return -(target * positive + (1 - target) * negative).sum(dim=1).mean()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of matching rows, with PaddleClas's guard against a zero norm."""
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (norms + _DIST_EPSILON)
