"""Shears and shifts of an image along one axis: Pillow's cubic transform to the bit, in less time.

Pillow evaluates a cubic through four neighbours at every pixel in double precision and cuts the
fraction off. Along a row the four weights are the same but for the last bits, so that single
precision and one multiplication a neighbour do for most pixels; where the result lies so close to a
whole number that rounding could tip it, Pillow's own formula is evaluated. Needs torch and OpenCV.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Fill = tuple[int, int, int]

_cv: Any = cv2
# Four products of at most 255 x 1.2 and their sums err by less than 1.5e-4 in single precision.
_NEAR = 4e-4


def slide(
    image: Image.Image, slope: float, shift: float, fill: Fill, *, along_columns: bool = False
) -> Image.Image:
    """``image.transform`` with the matrix (1, slope, shift, 0, 1, 0), bicubic; mode RGB.

    With ``along_columns`` the matrix is (1, 0, 0, slope, 1, shift).
    """
    pixels = np.asarray(image)
    if not along_columns:
        return Image.fromarray(_slid(pixels, slope, shift, fill))
    return Image.fromarray(_cv.transpose(_slid(_cv.transpose(pixels), slope, shift, fill)))


def _slid(pixels: Pixels, slope: float, shift: float, fill: Fill) -> Pixels:
    height, width = pixels.shape[:2]
    rows = _place(np.zeros(height), np.arange(height), slope, shift)
    rows = (rows - 0.5).clip(-width - 2, width + 2)
    whole = np.floor(rows)
    margin = int(np.abs(whole[[0, -1]]).max()) + 3
    wide = _cv.copyMakeBorder(pixels, 0, 0, margin, margin, cv2.BORDER_REPLICATE)
    shape, line = (height, 6 * margin - 8, 3 * width + 9), 3 * (width + 2 * margin)
    runs: Pixels = np.ndarray(shape, np.uint8, wide, 0, (line, 1, 1))
    starts = 3 * (whole.astype(np.int64) - 1 + margin)
    near = torch.from_numpy(runs[np.arange(height), starts]).float()
    by = torch.from_numpy(_weights(rows - whole))
    total = near[:, : 3 * width] * by[:, :1]
    for tap in range(1, 4):
        total.addcmul_(near[:, 3 * tap : 3 * (width + tap)], by[:, tap : tap + 1])
    whole_levels = total.add_(_NEAR).floor()
    doubtful = _true(total.sub_(2 * _NEAR).lt_(whole_levels).to(torch.uint8).numpy())
    out = whole_levels.clamp_(0, 255).to(torch.uint8).numpy().reshape(-1)
    outside = _outside(height, width, slope, shift)
    doubtful = doubtful[outside.reshape(-1)[doubtful // 3] == 0]
    out[doubtful] = _exact(wide.reshape(-1), width, slope, shift, doubtful, margin)
    return np.asarray(_cv.copyTo(plain(height, width, fill), outside, out.reshape(pixels.shape)))


def _place(
    x: npt.NDArray[Any], y: npt.NDArray[Any], slope: float, shift: float
) -> npt.NDArray[np.float64]:
    """Places in the source of pixels, in Pillow's order of operations: the last bits count."""
    return np.asarray((x + 0.5) + slope * (y + 0.5) + shift, np.float64)


def _outside(height: int, width: int, slope: float, shift: float) -> Pixels:
    """uint8 [height, width]: 1 where the place of a pixel lies outside the image.

    Places grow along a row, so the first that is inside and the first behind are enough. They are
    estimated, and settled by the places themselves.
    """
    y = np.arange(height)
    bounds = []
    for edge in (0, width):
        about = np.ceil(edge - 0.5 - slope * (y + 0.5) - shift)
        tried = about[:, None] + (-2, -1, 0, 1)
        bounds.append(about - 2 + (_place(tried, y[:, None], slope, shift) < edge).sum(axis=1))
    first, last = (bound.clip(0, width).astype(np.int16)[:, None] for bound in bounds)
    x = np.arange(width, dtype=np.int16)
    return np.asarray((x < first) | (x >= last)).view(np.uint8)


def _true(mask: Pixels) -> npt.NDArray[np.int64]:
    """Where a mask is 1, few such: eight bytes are looked at together."""
    flat = mask.reshape(-1)
    even = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:even].view(np.uint64))
    found = (8 * words[:, None] + np.arange(8)).reshape(-1)
    rest = even + np.flatnonzero(flat[even:])
    return np.concatenate([found[flat[found] != 0], rest])


@functools.lru_cache(maxsize=4)
def plain(height: int, width: int, fill: Fill) -> Pixels:
    """uint8 [height, width, 3] of one colour; shared, so not to be written to."""
    return np.full((height, width, 3), fill, np.uint8)


def _weights(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """[N, 4]: of the neighbours -1, 0, 1 and 2 at fraction t, Pillow's cubic (a = -1)."""
    taps = [((2 - t) * t - 1) * t, (t - 2) * t * t + 1, ((1 - t) * t + 1) * t, (t - 1) * t * t]
    return np.stack(taps, axis=-1).astype(np.float32)


def _exact(
    wide: Pixels, width: int, slope: float, shift: float, at: npt.NDArray[np.int64], margin: int
) -> Pixels:
    """The values numbered ``at`` by Pillow's own formula, in its order of operations."""
    pixel, channel = np.divmod(at, 3)
    row, x = np.divmod(pixel, width)
    place = _place(x, row, slope, shift) - 0.5
    left = np.floor(place)
    d = place - left
    column = left.clip(1 - margin, width + margin - 3).astype(np.int64) + margin
    first = (row * (width + 2 * margin) + column - 1) * 3 + channel
    v1, v2, v3, v4 = (wide[first + 3 * tap].astype(np.int64) for tap in range(4))
    value = v2 + d * ((v3 - v1) + d * (2 * (v1 - v2) + v3 - v4 + d * (v2 - v1 + v4 - v3)))
    return np.asarray(value.clip(0, 255).astype(np.uint8))
