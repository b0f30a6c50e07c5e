"""RandAugment on uint8 batches with torch, on any device: one call an operation, not an image.

Operations, levels and choices are those of ``randaugment``, and so is the arithmetic: what maps
single levels takes its table from the Pillow operation itself, the rest is Pillow's formula. Only
geometry is blended in single precision, which may tip a pixel by a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hgnetv2_pipeline.data.randaugment import (
    INCREASING,
    PLAIN,
    TOP,
    Choice,
    Fill,
    strength,
    weakening,
)

_ALL = {**INCREASING, **PLAIN}
_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))


def augment(images: Tensor, operations: Sequence[list[Choice]], fill: Fill) -> Tensor:
    """uint8 [N, 3, H, W] after each image's operations in their order.

    The first operations of all images come first, then the second ones, grouped by name.
    """
    images = images.clone()
    for turn in range(max(map(len, operations), default=0)):
        groups: dict[str, list[int]] = {}
        for n, chosen in enumerate(operations):
            if turn < len(chosen):
                groups.setdefault(chosen[turn][0], []).append(n)
        for name, members in groups.items():
            at = torch.tensor(members, device=images.device)
            choices = [operations[n][turn] for n in members]
            images[at] = _operate(name, images[at], choices, fill)
    return images


def _operate(name: str, images: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    if name in _MATRICES:
        return _moved(
            images, [_MATRICES[name](images, level, sign) for _, level, sign in choices], fill
        )
    if name in _ENHANCERS:
        factors = [
            strength(level, sign) if name.endswith("Increasing") else weakening(level)
            for _, level, sign in choices
        ]
        return _ENHANCERS[name](images, _column(factors, images))
    if name in _BY_CONTENT:
        return _through(images, _BY_CONTENT[name](images))
    tables = np.stack([_table(name, level, sign) for _, level, sign in choices])
    return _through(images, torch.from_numpy(tables).to(images.device)[:, None].expand(-1, 3, -1))


def _table(name: str, level: float, sign: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [256]: what the Pillow operation makes of each level."""
    return np.asarray(_ALL[name](_RAMP, level, sign, (0, 0, 0)))[0, :, 0]


def _through(images: Tensor, tables: Tensor) -> Tensor:
    """Each channel through its own table; ``tables`` is [N, 3, 256] of any type, cut to uint8."""
    levels = images.flatten(2).long()
    return tables.to(torch.uint8).gather(2, levels).view(images.shape)


def _column(values: list[float], images: Tensor) -> Tensor:
    """float32 [N, 1, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32, device=images.device).view(-1, 1, 1, 1)


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device)


def _stretching(images: Tensor) -> Tensor:
    low, high = (edge.double()[..., None] for edge in images.flatten(2).aminmax(dim=2))
    levels = _levels(images).double()
    # A number over a tensor would be 255 times the reciprocal, another last bit.
    scale = torch.full_like(low, 255.0) / (high - low)
    return torch.where(high > low, levels * scale - low * scale, levels).clamp(0, 255)


def _equalising(images: Tensor) -> Tensor:
    n = len(images)
    first = torch.arange(3 * n, device=images.device).view(n, 3, 1) * 256
    counts = (images.flatten(2).long() + first).flatten().bincount(minlength=3 * n * 256)
    counts = counts.view(n, 3, 256)
    top = images.flatten(2).amax(dim=2, keepdim=True).long()
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, top)) // 255
    some = step.clamp(min=1)
    tables = (step // 2 + counts.cumsum(dim=2) - counts) // some
    return torch.where(step > 0, tables, _levels(images)).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    """int32 [N, 1, H, W]: Pillow's mode L."""
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blended(other: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """``other + factor (images - other)`` in single precision, cut to uint8 as Pillow does."""
    away = factors * (images.to(torch.int32) - other).float()
    return away.add_(other).clamp_(0, 255).to(torch.uint8)


def _color(images: Tensor, factors: Tensor) -> Tensor:
    return _blended(_grey(images), images, factors)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    grey = _grey(images).flatten(1)
    mean = (grey.double().mean(dim=1) + 0.5).to(torch.int32)
    return _blended(mean.view(-1, 1, 1, 1), images, factors)


def _sharpness(images: Tensor, factors: Tensor) -> Tensor:
    whole = images.to(torch.int32)
    across = whole[..., :-2] + whole[..., 1:-1] + whole[..., 2:]
    total = across[:, :, :-2] + across[:, :, 1:-1] + across[:, :, 2:]
    # The kernel is 1 everywhere and 5 in the middle, over 13; the border stays as it is.
    smooth = whole.clone()
    inner = whole[:, :, 1:-1, 1:-1]
    smooth[:, :, 1:-1, 1:-1] = (2 * (total + 4 * inner) + 13) // 26
    return _blended(smooth, images, factors)


_BY_CONTENT: dict[str, Callable[[Tensor], Tensor]] = {
    "AutoContrast": _stretching,
    "Equalize": _equalising,
}
_ENHANCERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    f"{name}{kind}": enhance
    for name, enhance in (("Color", _color), ("Contrast", _contrast), ("Sharpness", _sharpness))
    for kind in ("", "Increasing")
}

Matrix = tuple[float, float, float, float, float, float]


def _turned(images: Tensor, level: float, sign: float) -> Matrix:
    angle = -math.radians(sign * (level / TOP) * 30.0)
    # Rounded as in Image.rotate.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    y, x = images.shape[2] / 2, images.shape[3] / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _slope(level: float, sign: float) -> float:
    return sign * (level / TOP) * 0.3


def _shift(level: float, sign: float, size: int) -> float:
    return sign * (level / TOP) * 0.45 * size


# From pixels of the result to places in the source.
_MATRICES: dict[str, Callable[[Tensor, float, float], Matrix]] = {
    "Rotate": _turned,
    "ShearX": lambda images, level, sign: (1, _slope(level, sign), 0, 0, 1, 0),
    "ShearY": lambda images, level, sign: (1, 0, 0, _slope(level, sign), 1, 0),
    "TranslateXRel": lambda images, level, sign: (
        (1, 0, _shift(level, sign, images.shape[3]), 0, 1, 0)
    ),
    "TranslateYRel": lambda images, level, sign: (
        (1, 0, 0, 0, 1, _shift(level, sign, images.shape[2]))
    ),
}


def _moved(images: Tensor, matrices: list[Matrix], fill: Fill) -> Tensor:
    """Pillow's bicubic transform: four neighbours of four rows, a = -1, the edge repeated."""
    n, _, height, width = images.shape
    device = images.device
    # Places in double precision: a fraction of exactly 0 must stay that.
    matrix = torch.tensor(matrices, dtype=torch.float64, device=device).T[..., None, None]
    x = torch.arange(width, dtype=torch.float64, device=device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None] + 0.5
    across = matrix[0] * x + matrix[1] * y + matrix[2]
    down = matrix[3] * x + matrix[4] * y + matrix[5]
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    columns, right = _neighbours(across, width)
    rows, below = _neighbours(down, height)
    flat = images.flatten(2)

    def line(row: Tensor) -> Tensor:
        taps = [
            flat.gather(2, (row * width + column).view(n, 1, -1).expand(-1, 3, -1)).float()
            for column in columns
        ]
        return _cubic(taps, right.view(n, 1, -1))

    values = _cubic([line(row) for row in rows], below.view(n, 1, -1))
    moved = values.clamp_(0, 255).to(torch.uint8).view(images.shape)
    colour = torch.tensor(fill, dtype=torch.uint8, device=device).view(1, 3, 1, 1)
    return torch.where(outside[:, None], colour, moved)


def _neighbours(places: Tensor, size: int) -> tuple[list[Tensor], Tensor]:
    """Numbers of the four pixels around each place, and the place between the middle two."""
    places = places - 0.5
    whole = places.floor()
    first = whole.long() - 1
    return [(first + tap).clamp_(0, size - 1) for tap in range(4)], (places - whole).float()


def _cubic(taps: list[Tensor], t: Tensor) -> Tensor:
    v1, v2, v3, v4 = taps
    return v2 + t * (v3 - v1 + t * (2 * (v1 - v2) + v3 - v4 + t * (v2 - v1 + v4 - v3)))
