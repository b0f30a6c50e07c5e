"""Mixup and CutMix: two images and their labels in one, a whole batch with one share.

timm's batch mode (``timm.data.Mixup``): every image is mixed with its mirror place in the batch,
the first with the last. The target is ``share`` of an image's own label and the rest of its
partner's; cross-entropy is linear in the target, so the loss is mixed in place of the target, and
label smoothing and class weights are inside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed.

    Attributes:
        mixup: alpha of the Beta distribution that Mixup's share is drawn from; 0 = no Mixup.
        cutmix: the same of CutMix.
        probability: chance of a batch to be mixed at all.
        switch: chance of CutMix where both are on.
    """

    mixup: float
    cutmix: float
    probability: float
    switch: float

    def __call__(self, images: Tensor) -> tuple[Tensor, float]:
        """``images`` [N, C, H, W] mixed, and the share of each image's own label.

        Random numbers are torch's own on the CPU, which the training step seeds by its number: the
        same ones on every device and after a resume.
        """
        chance, kind, across, down = torch.rand(4, dtype=torch.float64).tolist()
        if chance >= self.probability:
            return images, 1.0
        cut = self.cutmix > 0 and (self.mixup == 0 or kind < self.switch)
        alpha = self.cutmix if cut else self.mixup
        share = _beta(alpha)
        if not cut:
            return images * share + images.flip(0) * (1 - share), share
        height, width = images.shape[-2:]
        top, bottom, left, right = _cut_out(height, width, share, down, across)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        # The border of the image may have taken some of the rectangle.
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _beta(alpha: float) -> float:
    concentration = torch.tensor([alpha, alpha], dtype=torch.float64)
    return float(torch.distributions.Dirichlet(concentration).sample()[0])


def _cut_out(
    height: int, width: int, share: float, down: float, across: float
) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of ``1 - share`` of the area around a random place."""
    side = math.sqrt(1 - share)
    high, wide = int(height * side), int(width * side)
    y, x = int(down * height), int(across * width)
    top, bottom = max(y - high // 2, 0), min(y + (high + 1) // 2, height)
    left, right = max(x - wide // 2, 0), min(x + (wide + 1) // 2, width)
    return top, bottom, left, right
