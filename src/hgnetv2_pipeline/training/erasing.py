"""Random erasing: a rectangle of noise over part of a normalised image, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AREA = (0.02, 1 / 3)
ASPECT = 0.3
ATTEMPTS = 10


def random_erasing(images: Tensor, probability: float) -> Tensor:
    """``images`` [N, C, H, W], normalised, with a rectangle of each replaced by N(0, 1) noise.

    PaddleClas's ``RandomErasing`` in pixel mode: with ``probability`` an image loses 2 % to a third
    of its area, aspect ratio log-uniform in 0.3 to 1/0.3; after ten rectangles that do not fit it
    stays as it is. Random numbers are torch's own, which the training step seeds by its number.
    """
    erased = images.clone()
    count, channels, height, width = images.shape
    # All draws at once and on the CPU: one transfer a batch, the same numbers on every device.
    draws = torch.rand(count, 1 + 4 * ATTEMPTS, dtype=torch.float64).tolist()
    for index, (chance, *numbers) in enumerate(draws):
        if chance >= probability:
            continue
        for attempt in range(ATTEMPTS):
            size, shape, top, left = numbers[4 * attempt : 4 * attempt + 4]
            area = (AREA[0] + size * (AREA[1] - AREA[0])) * height * width
            aspect = math.exp(math.log(ASPECT) * (1 - 2 * shape))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
                erased[index, :, y : y + h, x : x + w] = torch.randn(
                    channels, h, w, dtype=images.dtype
                ).to(images.device)
                break
    return erased
