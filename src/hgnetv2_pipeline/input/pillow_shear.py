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
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    # In Pillow's order of operations, for the last bits of the places count.
    places = x + (slope * y)[:, None]
    places += shift
    rows = (places[:, 0] - 0.5).clip(-width - 2, width + 2)
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
    low = total.sub_(_NEAR).clamp_(-1, 255).to(torch.int16)
    high = total.add_(2 * _NEAR).clamp_(-1, 255).to(torch.int16)
    outside = ((places < 0) | (places >= width)).view(np.uint8)
    doubtful = np.flatnonzero((low != high).numpy() & ~np.repeat(outside.view(bool), 3, axis=1))
    out = high.clamp_(0, 255).to(torch.uint8).numpy().reshape(-1)
    out[doubtful] = _exact(wide.reshape(-1), places, doubtful, margin)
    return np.asarray(_cv.copyTo(plain(height, width, fill), outside, out.reshape(pixels.shape)))


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
    places: npt.NDArray[np.float64],
    at: npt.NDArray[np.int64],
    margin: int,
) -> Pixels:
    """The values numbered ``at`` by Pillow's own formula, in its order of operations."""
    width = places.shape[1]
    pixel, channel = np.divmod(at, 3)
    place = places.reshape(-1)[pixel] - 0.5
    left = np.floor(place)
    d = place - left
    column = left.clip(1 - margin, width + margin - 3).astype(np.int64) + margin
    first = (pixel // width * (width + 2 * margin) + column - 1) * 3 + channel
    v1, v2, v3, v4 = (wide[first + 3 * tap].astype(np.int64) for tap in range(4))
    value = v2 + d * ((v3 - v1) + d * ((2 * (v1 - v2) + v3 - v4) + d * (v2 - v1 + v4 - v3)))
    return np.asarray(value.clip(0, 255).astype(np.uint8))
