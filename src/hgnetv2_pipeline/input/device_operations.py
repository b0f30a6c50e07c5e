"""RandAugment on uint8 batches with torch, on any device: a call a kind of operation, not an image.

Operations, levels and choices are those of ``randaugment``, and so is the arithmetic: Pillow's
formulas. Only geometry is blended in single precision, which may tip a pixel by a level.

On a GPU a launch costs more than the work on one image, and memory more than arithmetic: what is a
table is looked up at once for all images, what moves pixels along a line reads four neighbours
instead of sixteen, and a pixel is fetched as one 32-bit word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.input.lookup_tables import TABLES
from hgnetv2_pipeline.input.randaugment import TOP, Choice, Fill, strength, weakening

# (pixels [N, H, W, 3], what happens to each, colour of what is uncovered) -> pixels
Kind = Callable[[Tensor, list[Choice], Fill], Tensor]

# Neighbours that are fetched at once: about a gigabyte with what is computed of them.
_NEIGHBOURS = 32_000_000


def augment(images: Tensor, operations: Sequence[list[Choice]], fill: Fill) -> Tensor:
    """uint8 [N, 3, H, W], channels_last, after each image's operations in their order.

    The first operations of all images come first, then the second ones, sorted by kind.
    """
    pixels = images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    for turn in range(max(map(len, operations), default=0)):
        todo = [(chosen[turn], n) for n, chosen in enumerate(operations) if turn < len(chosen)]
        todo.sort(key=lambda one: (_KINDS[one[0][0]].__name__, one[0][0]))
        at = torch.tensor([n for _, n in todo], device=pixels.device)
        given, first = pixels[at], 0
        for kind, members in groupby(todo, key=lambda one: _KINDS[one[0][0]]):
            choices = [choice for choice, _ in members]
            last = first + len(choices)
            pixels.index_copy_(0, at[first:last], kind(given[first:last], choices, fill))
            first = last
    return pixels.permute(0, 3, 1, 2)


def _looked_up(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    """Each channel of each image through a table of its own."""
    n = len(pixels)
    levels = pixels + torch.arange(3, device=pixels.device) * 256
    tables = _tables(pixels, choices)
    return tables.view(n, -1).gather(1, levels.view(n, -1)).view(pixels.shape)


def _tables(pixels: Tensor, choices: list[Choice]) -> Tensor:
    """uint8 [N, 3, 256]: what becomes of each level of each channel."""
    known = np.zeros((len(choices), 1, 256), np.uint8)
    for n, (name, level, sign) in enumerate(choices):
        if name in TABLES:
            known[n] = TABLES[name](level, sign)
    tables = torch.from_numpy(known).to(pixels.device).repeat(1, 3, 1)
    first = 0
    for name, members in groupby(choices, key=lambda choice: choice[0]):
        last = first + len(list(members))
        if name in _BY_CONTENT:
            found = _BY_CONTENT[name](pixels[first:last], choices[first:last])
            tables[first:last] = found.to(torch.uint8)
        first = last
    return tables


def _factors(choices: list[Choice], pixels: Tensor) -> Tensor:
    """float32 [N, 1, 1, 1] of an enhancer."""
    values = [
        strength(level, sign) if name.endswith("Increasing") else weakening(level)
        for name, level, sign in choices
    ]
    return torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1, 1)


def _levels(pixels: Tensor) -> Tensor:
    return torch.arange(256, device=pixels.device)


def _stretching(pixels: Tensor, choices: list[Choice]) -> Tensor:
    low, high = (
        edge(pixels.flatten(1, 2), 1).double()[..., None] for edge in (torch.amin, torch.amax)
    )
    levels = _levels(pixels).double()
    # A number over a tensor would be 255 times the reciprocal, another last bit.
    scale = torch.full_like(low, 255.0) / (high - low)
    return torch.where(high > low, levels * scale - low * scale, levels).clamp(0, 255)


def _equalising(pixels: Tensor, choices: list[Choice]) -> Tensor:
    n = len(pixels)
    levels = pixels + torch.arange(3, device=pixels.device) * 256
    one = torch.ones((), dtype=torch.int64, device=pixels.device)
    counts = torch.zeros((n, 768), dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(1, levels.view(n, -1), one.expand(n, levels[0].numel()))
    counts = counts.view(n, 3, 256)
    top = pixels.flatten(1, 2).amax(1)[..., None].long()
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, top)) // 255
    some = step.clamp(min=1)
    tables = (step // 2 + counts.cumsum(dim=2) - counts) // some
    return torch.where(step > 0, tables, _levels(pixels)).clamp(0, 255)


def _contrasting(pixels: Tensor, choices: list[Choice]) -> Tensor:
    grey = _grey(pixels).flatten(1)
    mean = (grey.sum(1, dtype=torch.int64).double() / grey.shape[1] + 0.5).to(torch.int32)
    return _blended(mean.view(-1, 1, 1), _levels(pixels), _factors(choices, pixels)[..., 0])


_BY_CONTENT: dict[str, Callable[[Tensor, list[Choice]], Tensor]] = {
    "AutoContrast": _stretching,
    "Equalize": _equalising,
    "Contrast": _contrasting,
    "ContrastIncreasing": _contrasting,
}


def _grey(pixels: Tensor) -> Tensor:
    """int32 [N, H, W, 1]: Pillow's mode L."""
    parts = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=pixels.device)
    return ((pixels * parts).sum(3, keepdim=True, dtype=torch.int32) + 0x8000) >> 16


def _blended(other: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    """``other + factor (pixels - other)`` in single precision, cut to uint8 as Pillow does."""
    away = factors * (pixels - other).float()
    return away.add_(other).clamp_(0, 255).to(torch.uint8)


def _coloured(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    return _blended(_grey(pixels), pixels, _factors(choices, pixels))


def _sharpened(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    whole = pixels.to(torch.int32)
    across = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    total = across[:, :-2] + across[:, 1:-1] + across[:, 2:]
    # The kernel is 1 everywhere and 5 in the middle, over 13; the border stays as it is.
    smooth = whole.clone()
    smooth[:, 1:-1, 1:-1] = (2 * (total + 4 * whole[:, 1:-1, 1:-1]) + 13) // 26
    return _blended(smooth, pixels, _factors(choices, pixels))


Matrix = tuple[float, float, float, float, float, float]


def _turned(size: tuple[int, int], choice: Choice) -> Matrix:
    _, level, sign = choice
    angle = -math.radians(sign * (level / TOP) * 30.0)
    # Rounded as in Image.rotate.
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    y, x = size[0] / 2, size[1] / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _slid(size: tuple[int, int], choice: Choice) -> Matrix:
    name, level, sign = choice
    slope, share = sign * (level / TOP) * 0.3, sign * (level / TOP) * 0.45
    moves: dict[str, Matrix] = {
        "ShearX": (1, slope, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, slope, 1, 0),
        "TranslateXRel": (1, 0, share * size[1], 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, share * size[0]),
    }
    return moves[name]


def _rotated(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    size = (pixels.shape[1], pixels.shape[2])
    return _moved(pixels, [_turned(size, choice) for choice in choices], fill, _FOUR, _FOUR)


def _quarter_turned(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    """By so many quarters against the clock as the level says; the images are square."""
    turned = pixels.clone()
    for quarters in (1, 2, 3):
        at = [n for n, (_, level, _) in enumerate(choices) if int(level) == quarters]
        if at:
            turned[at] = pixels[at].rot90(quarters, (1, 2))
    return turned


def _along_rows(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    size = (pixels.shape[1], pixels.shape[2])
    return _moved(pixels, [_slid(size, choice) for choice in choices], fill, _ONE, _FOUR)


def _along_columns(pixels: Tensor, choices: list[Choice], fill: Fill) -> Tensor:
    size = (pixels.shape[1], pixels.shape[2])
    return _moved(pixels, [_slid(size, choice) for choice in choices], fill, _FOUR, _ONE)


# Neighbours that count, by their distance from the pixel at or before the place.
_ONE, _FOUR = (0,), (-1, 0, 1, 2)
# Their weights at fraction t: what t^3, t^2, t and 1 are multiplied by.
_CUBIC = (
    (-1.0, 1.0, -1.0, 1.0),
    (2.0, -2.0, 1.0, -1.0),
    (-1.0, 0.0, 1.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
)


def _moved(
    pixels: Tensor,
    matrices: list[Matrix],
    fill: Fill,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
) -> Tensor:
    """Pillow's bicubic transform, a = -1, the edge repeated; ``matrices`` lead to the source.

    Where all places are in the middle of a row, that row alone counts; likewise of columns.
    """
    _, height, width, _ = pixels.shape
    together = max(1, _NEIGHBOURS // (len(rows) * len(columns) * height * width))
    if len(pixels) > together:
        parts = zip(
            pixels.split(together),
            [matrices[n : n + together] for n in range(0, len(matrices), together)],
            strict=True,
        )
        return torch.cat([_moved(part, its, fill, rows, columns) for part, its in parts])
    device = pixels.device
    # Places in double precision: a fraction of exactly 0 must stay that.
    matrix = torch.tensor(matrices, dtype=torch.float64, device=device).T[..., None, None]
    x = torch.arange(width, dtype=torch.float64, device=device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None] + 0.5
    across = matrix[0] * x + matrix[1] * y + matrix[2]
    down = matrix[3] * x + matrix[4] * y + matrix[5]
    outside = (across < 0) | (across >= width) | (down < 0) | (down >= height)
    of_row, by_row = _neighbours(down, height, rows)
    of_column, by_column = _neighbours(across, width, columns)
    place = of_row[:, :, None] * width + of_column[:, None]
    weight = (by_row[:, :, None] * by_column[:, None]).flatten(1, 2)[..., None]
    near = _fetched(pixels, place.flatten(1, 2))
    # Distances from one of them: of equal neighbours the sum is exactly that one.
    centre = near[:, rows.index(0) * len(columns) + columns.index(0)].float()
    values = (near - centre[:, None]).mul_(weight).sum(1).add_(centre)
    moved = values.clamp_(0, 255).to(torch.uint8)
    colour = torch.tensor(fill, dtype=torch.uint8, device=device)
    return torch.where(outside[..., None], colour, moved)


def _fetched(pixels: Tensor, places: Tensor) -> Tensor:
    """uint8 [N, K, H, W, 3]: the pixels at ``places`` [N, K, H, W], counted row by row."""
    words = pixels.new_empty((*pixels.shape[:3], 4))
    words[..., :3] = pixels
    flat = words.view(torch.int32).flatten(1)
    found = flat.gather(1, places.flatten(1)).view(torch.uint8)
    return found.view(*places.shape, 4)[..., :3]


def _neighbours(places: Tensor, size: int, steps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """int64 and float32 [N, K, H, W]: which pixels are around each place, and their weights."""
    places = (places - 0.5)[:, None]
    whole = places.floor()
    step = torch.tensor(steps, device=places.device).view(-1, 1, 1)
    found = (whole.long() + step).clamp_(0, size - 1)
    if steps == _ONE:
        return found, torch.ones((), device=places.device).expand(found.shape)
    t = (places - whole).float()
    cubes, squares, lines, ones = torch.tensor(_CUBIC, device=t.device).view(4, 4, 1, 1)
    return found, torch.addcmul(ones, t, torch.addcmul(lines, t, torch.addcmul(squares, t, cubes)))


_KINDS: dict[str, Kind] = {
    **dict.fromkeys((*TABLES, *_BY_CONTENT), _looked_up),
    **dict.fromkeys(("Color", "ColorIncreasing"), _coloured),
    **dict.fromkeys(("Sharpness", "SharpnessIncreasing"), _sharpened),
    **dict.fromkeys(("ShearX", "TranslateXRel"), _along_rows),
    **dict.fromkeys(("ShearY", "TranslateYRel"), _along_columns),
    "QuarterTurn": _quarter_turned,
    "Rotate": _rotated,
}
