"""Shears and shifts of an image along one axis: Pillow's cubic transform to the bit, in less time.

Pillow evaluates a cubic through four neighbours at every pixel in double precision and cuts the
fraction off. Along a row the four weights are the same but for the last bits, so that single
precision and one multiplication per neighbour do for most pixels; where the result is so close to a
whole number that rounding could tip it, Pillow's own formula is evaluated. Needs torch and OpenCV.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]
Fill = tuple[int, int, int]

_cv: Any = cv2
# Four products of at most 255 x 1.2 and their sums err by less than 1.5e-4 in single precision.
_NEAR = 4e-4


def slide(
    pixels: Pixels, slope: float, shift: float, fill: Fill, *, along_columns: bool = False
) -> Pixels:
    """uint8 [H, W, 3]: Pillow's ``transform`` with the matrix (1, slope, shift, 0, 1, 0), bicubic.

    With ``along_columns`` the matrix is (1, 0, 0, slope, 1, shift).
    """
    if not along_columns:
        return _slid(pixels, slope, shift, fill)
    return np.asarray(_cv.transpose(_slid(_cv.transpose(pixels), slope, shift, fill)))


def _slid(pixels: Pixels, slope: float, shift: float, fill: Fill) -> Pixels:
    height, width = pixels.shape[:2]
    # Column 0 of each row is read at its first + 0.5.
    lines = slope * (np.arange(height, dtype=np.float64) + 0.5)
    rows = (lines + shift).clip(-width - 2, width + 2)
    whole = np.floor(rows)
    margin = int(np.abs(whole).max()) + 3
    wide = _cv.copyMakeBorder(pixels, 0, 0, margin, margin, cv2.BORDER_REPLICATE)
    shape, line = (height, 6 * margin - 8, 3 * width + 9), 3 * (width + 2 * margin)
    runs: Pixels = np.ndarray(shape, np.uint8, wide, 0, (line, 1, 1))
    starts = 3 * (whole.astype(np.int64) - 1 + margin)
    near = torch.from_numpy(runs[np.arange(height), starts]).float()
    by = torch.from_numpy(_weights(rows - whole))
    total = near[:, : 3 * width] * by[:, :1]
    for tap in range(1, 4):
        total.addcmul_(near[:, 3 * tap : 3 * (width + tap)], by[:, tap : tap + 1])
    # Nothing below a half, so that no number is negative once the half is gone that rounding adds.
    sums = _cv.max(total.numpy(), 0.5)
    outside = _outside(lines, shift, width).view(np.uint8)
    low, high = (
        _filled(_cv.convertScaleAbs(sums, beta=near - 0.5).reshape(pixels.shape), outside, fill)
        for near in (-_NEAR, _NEAR)
    )
    doubtful = np.flatnonzero(low != high)
    high.reshape(-1)[doubtful] = _exact(wide.reshape(-1), lines, shift, width, doubtful)
    return high


def _outside(lines: npt.NDArray[np.float64], shift: float, width: int) -> npt.NDArray[np.bool_]:
    """[H, W]: whether a place is left or right of the image."""
    x = np.arange(width, dtype=np.int16)
    first, after = (_first_at(lines, shift, edge).clip(0, width) for edge in (0, width))
    return (x < first.astype(np.int16)) | (x >= after.astype(np.int16))


def _first_at(lines: npt.NDArray[np.float64], shift: float, edge: int) -> npt.NDArray[np.float64]:
    """[H, 1]: the first column of each row whose place is at ``edge`` or beyond."""
    # Places grow along a row, whatever rounding does to them: those near the edge are looked at.
    near = np.ceil(edge - 0.5 - lines - shift)[:, None] + np.arange(-2, 2)
    before = _places(near, lines[:, None], shift) < edge
    return np.asarray(near[:, :1] + before.sum(axis=1, keepdims=True))


def _places(
    columns: npt.NDArray[Any], lines: npt.NDArray[np.float64], shift: float
) -> npt.NDArray[np.float64]:
    # In Pillow's order of operations, for the last bits count.
    return np.asarray(columns + 0.5 + lines + shift)


def _filled(pixels: Pixels, outside: npt.NDArray[np.uint8], fill: Fill) -> Pixels:
    height, width = pixels.shape[:2]
    return np.asarray(_cv.copyTo(plain(height, width, fill), outside, pixels))


@functools.lru_cache(maxsize=4)
def plain(height: int, width: int, fill: Fill) -> Pixels:
    """uint8 [height, width, 3] of one colour; shared, so not to be written to."""
    return np.full((height, width, 3), fill, np.uint8)


def _weights(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """[N, 4]: of the neighbours -1, 0, 1 and 2 at fraction t, Pillow's cubic (a = -1)."""
    taps = [((2 - t) * t - 1) * t, (t - 2) * t * t + 1, ((1 - t) * t + 1) * t, (t - 1) * t * t]
    return np.stack(taps, axis=-1).astype(np.float32)


def _exact(
    wide: Pixels,
    lines: npt.NDArray[np.float64],
    shift: float,
    width: int,
    at: npt.NDArray[np.int64],
) -> Pixels:
    """The values numbered ``at`` by Pillow's own formula, in its order of operations."""
    pixel, channel = np.divmod(at, 3)
    row, column = np.divmod(pixel, width)
    place = _places(column, lines[row], shift) - 0.5
    left = np.floor(place)
    d = place - left
    margin = (len(wide) // (3 * len(lines)) - width) // 2
    column = left.clip(1 - margin, width + margin - 3).astype(np.int64) + margin
    first = (row * (width + 2 * margin) + column - 1) * 3 + channel
    v1, v2, v3, v4 = (wide[first + 3 * tap].astype(np.int64) for tap in range(4))
    value = v2 + d * ((v3 - v1) + d * ((2 * (v1 - v2) + v3 - v4) + d * (v2 - v1 + v4 - v3)))
    return np.asarray(value.clip(0, 255).astype(np.uint8))
