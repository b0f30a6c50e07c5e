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
    stays as it is. Random numbers are torch's own, which the training step seeds by its number: the
    rectangles are the same on every device, the noise is drawn where it is used.
    """
    count, channels, height, width = images.shape
    places = _rectangles(count, height, width, probability)
    if not places:
        return images.clone()
    drawn = torch.tensor(places)
    if images.is_cuda:
        # From ordinary memory the copy would wait until all before it is done.
        drawn = drawn.pin_memory().to(images.device, non_blocking=True)
    at, top, left, bottom, right = drawn.T[..., None, None]
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    # For all of them at once: a copy and a launch for each image cost a GPU more than its step.
    shape = (len(places), channels, height, width)
    noise = torch.randn(shape, dtype=images.dtype, device=images.device)
    erased = images.clone()
    erased[at.flatten()] = torch.where(inside[:, None], noise, images[at.flatten()])
    return erased


def _rectangles(count: int, height: int, width: int, probability: float) -> list[tuple[int, ...]]:
    """Image, top, left, bottom and right of each rectangle."""
    places: list[tuple[int, ...]] = []
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
                places.append((index, y, x, y + h, x + w))
                break
    return places
