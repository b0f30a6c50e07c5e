"""What one step minimises, as a swapped object: the loop does not know whether there is a teacher.

An objective is called with the student, a batch of uint8 images [N, 3, H, W], labels [N] (-1 =
unlabelled; [N, C] of 0 and 1 where an image may have several) and, where they are stored, the
teacher's answers; it returns the loss and sums to be logged, all on the device of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from hgnetv2_pipeline.input.loader import View
from hgnetv2_pipeline.teacher.teacher import Teacher
from hgnetv2_pipeline.training import losses
from hgnetv2_pipeline.training.mixing import Mixing

if TYPE_CHECKING:
    from hgnetv2_pipeline.input.batches import Answers
    from hgnetv2_pipeline.training.config import LossConfig


class Objective(Protocol):
    """One step's loss and what to log of it: a name -> a number of images out of the batch."""

    def __call__(
        self, student: nn.Module, images: Tensor, labels: Tensor, answers: Answers | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True)
class SupervisedObjective:
    """Cross-entropy or the focal loss against the labels; logs how many the student got right.

    With ``mixing`` an image has two labels, and right is the one with the larger share. ``gamma``
    is that of the focal loss; None: cross-entropy with label smoothing ``epsilon``.
    """

    view: View
    epsilon: float
    class_weights: Tensor | None = None
    mixing: Mixing | None = None
    gamma: float | None = None

    def __call__(
        self, student: nn.Module, images: Tensor, labels: Tensor, answers: Answers | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, share = self.view(images), 1.0
        if self.mixing is not None:
            x, share = self.mixing(x)
        logits = student(x)
        loss = self._loss(logits, labels)
        if share < 1:
            loss = share * loss + (1 - share) * self._loss(logits, labels.flip(0))
        larger = labels if share >= 0.5 else labels.flip(0)
        return loss, {"train_top1": (logits.detach().argmax(dim=1) == larger).sum()}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.gamma is not None:
            return losses.focal_loss(logits, labels, self.gamma, self.class_weights)
        return losses.label_smoothing_cross_entropy(
            logits, labels, self.epsilon, self.class_weights
        )


@dataclass(frozen=True)
class MultiLabelObjective:
    """A loss of each class by itself against labels [N, C] of 0 and 1.

    With ``mixing`` the target is the images' labels mixed as the images are.
    """

    view: View
    loss: LossConfig
    pos_weight: Tensor | None = None
    mixing: Mixing | None = None

    def __call__(
        self, student: nn.Module, images: Tensor, labels: Tensor, answers: Answers | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, target = self.view(images), labels.float()
        if self.mixing is not None:
            x, share = self.mixing(x)
            target = share * target + (1 - share) * target.flip(0)
        # In float32 also under autocast: bfloat16 has no number between 0.996 and 1.
        logits = student(x).float()
        if self.loss.asymmetric is not None:
            loss = losses.asymmetric_loss(logits, target, **vars(self.loss.asymmetric))
        else:
            loss = losses.binary_cross_entropy(
                logits, target, self.loss.label_smoothing, self.pos_weight
            )
        return loss, {}


# Mass that float16 may have rounded away from the classes that are not stored.
_LEAST_TAIL = 1e-6


def logits_of_answers(answers: Answers, classes: int) -> Tensor:
    """float32 [N, C]: logits whose softmax is what was stored of a teacher.

    The K best classes have their own probabilities, and what is left of 1 is spread evenly over the
    others (FKD's marginal smoothing, 2112.01528). With K = C nothing but rounding to float16 is
    lost. A loss that looks at the tail (dist, kl with a temperature) sees its mean there.
    """
    known = answers.logps.float()
    rest = classes - known.shape[1]
    if rest == 0:
        return torch.empty_like(known).scatter_(1, answers.ids, known)
    tail = (1 - known.exp().sum(dim=1, keepdim=True)).clamp_min(_LEAST_TAIL) / rest
    return tail.log().repeat(1, classes).scatter_(1, answers.ids, known)


@dataclass(frozen=True)
class DistillationObjective:
    """A distillation loss, optionally mixed with the labels'; logs agreement with the teacher.

    ``teacher`` None: its answers are stored and come with every batch. With ``gt_weight`` g the
    loss is ``(1 - g) distil + g label_smoothing`` over the labelled images of the batch; SSLD has
    g = 0 and never looks at a label.
    """

    view: View
    teacher: Teacher | None
    loss: LossConfig

    def __call__(
        self, student: nn.Module, images: Tensor, labels: Tensor, answers: Answers | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        online = None if self.teacher is None else self.teacher(images)
        logits = student(self.view(images))
        target = online
        if target is None:
            assert answers is not None, "without a teacher its answers are stored"  # noqa: S101
            target = logits_of_answers(answers, logits.shape[1])
        loss = self._distil(logits, target)
        labelled = labels >= 0
        if self.loss.gt_weight and labelled.any():
            truth = losses.label_smoothing_cross_entropy(
                logits[labelled], labels[labelled], self.loss.label_smoothing
            )
            loss = (1 - self.loss.gt_weight) * loss + self.loss.gt_weight * truth
        agree = logits.detach().argmax(dim=1) == target.argmax(dim=1)
        return loss, {"teacher_agreement": agree.sum()}

    def _distil(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.loss.name == "ce":
            return losses.soft_cross_entropy(logits, target)
        if self.loss.name == "skl":
            return losses.symmetric_kl(logits, target)
        if self.loss.name == "dist":
            return losses.dist(logits, target)
        # RunSpec never pairs label_smoothing with a teacher.
        assert self.loss.name == "kl", self.loss.name  # noqa: S101
        return losses.kl_divergence(logits, target, self.loss.temperature)
