"""RandAugment on uint8 arrays, with Pillow's pixels to the bit and less work around them.

The twins of ``randaugment``'s operations by the names that they have there. Whatever maps single
levels is a table; blends are Pillow's own arithmetic in single precision; shears and shifts are
``pillow_shear``'s. Only the rotation is left to Pillow. Needs torch and OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.input.lookup_tables import LEVELS, TABLES, Table, blend_table
from hgnetv2_pipeline.input.pillow_shear import slide
from hgnetv2_pipeline.input.randaugment import PLAIN, TOP, Fill, strength, weakening

Pixels = npt.NDArray[np.uint8]
# (pixels [H, W, 3], level 0..10, sign +1 or -1, fill colour) -> pixels of the same shape
Operation = Callable[[Pixels, float, float, Fill], Pixels]

# OpenCV's type stubs know arrays of any kind only.
_cv: Any = cv2
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
# Pillow's share of red, green and blue in grey, and the half that rounds it: numbers of 16 bits
# behind the point, whose sums are exact in single precision.
_GREY = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536


def mirror(pixels: Pixels) -> Pixels:
    """Left and right exchanged."""
    return np.asarray(_cv.flip(pixels, 1))


def _through(pixels: Pixels, table: Table) -> Pixels:
    return np.asarray(_cv.LUT(pixels, table))


def _tabled(table: Callable[[float, float], Table]) -> Operation:
    return lambda pixels, level, sign, fill: _through(pixels, table(level, sign))


def _through_each(pixels: Pixels, tables: list[npt.NDArray[Any]]) -> Pixels:
    return np.asarray(_cv.LUT(pixels, np.stack(tables, axis=-1)[None].astype(np.uint8)))


def _histograms(pixels: Pixels) -> list[npt.NDArray[np.int64]]:
    counts = [_cv.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    return [count.ravel().astype(np.int64) for count in counts]


def _auto_contrast(pixels: Pixels) -> Pixels:
    return _through_each(pixels, [_stretched(counts) for counts in _histograms(pixels)])


def _stretched(counts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    seen = np.flatnonzero(counts)
    low, high = int(seen[0]), int(seen[-1])
    if high <= low:
        return LEVELS
    scale = 255.0 / (high - low)
    return (LEVELS * scale - low * scale).clip(0, 255)


def _equalize(pixels: Pixels) -> Pixels:
    return _through_each(pixels, [_equalised(counts) for counts in _histograms(pixels)])


def _equalised(counts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    step = int(counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if not step:
        return LEVELS
    return ((step // 2 + np.cumsum(counts) - counts) // step).clip(0, 255)


def _grey(pixels: Pixels) -> Pixels:
    """[H, W]: Pillow's grey levels."""
    grey: Pixels = _cv.transform(pixels.astype(np.float32), _GREY).astype(np.uint8)
    return grey


def _blend(pixels: Pixels, other: Pixels, factor: float) -> Pixels:
    """``factor`` of the way from ``other`` to ``pixels``, and beyond."""
    # A product and a sum that are rounded each, as in Pillow: no fused operation may do them.
    mixed, start = pixels.astype(np.float32), other.astype(np.float32)
    mixed -= start
    mixed *= np.float32(factor)
    mixed += start
    _cv.threshold(mixed, 0, 0, cv2.THRESH_TOZERO, dst=mixed)
    _cv.threshold(mixed, 255, 0, cv2.THRESH_TRUNC, dst=mixed)
    return mixed.astype(np.uint8)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    grey = _grey(pixels)
    return _through(pixels, blend_table(int(grey.mean() + 0.5), factor))


def _color(pixels: Pixels, factor: float) -> Pixels:
    return _blend(pixels, _cv.merge([_grey(pixels)] * 3), factor)


def _sharpness(pixels: Pixels, factor: float) -> Pixels:
    # Thirteenths are never so near a half that an error of single precision could tip them.
    smooth = _cv.filter2D(pixels, -1, _SMOOTH)
    # Pillow's filter leaves the border as it is.
    smooth[0], smooth[-1] = pixels[0], pixels[-1]
    smooth[:, 0], smooth[:, -1] = pixels[:, 0], pixels[:, -1]
    return _blend(pixels, smooth, factor)


def _shear_x(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return slide(pixels, sign * (level / TOP) * 0.3, 0, fill)


def _shear_y(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return slide(pixels, sign * (level / TOP) * 0.3, 0, fill, along_columns=True)


def _translate_x(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return slide(pixels, 0, sign * (level / TOP) * 0.45 * pixels.shape[1], fill)


def _translate_y(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    shift = sign * (level / TOP) * 0.45 * pixels.shape[0]
    return slide(pixels, 0, shift, fill, along_columns=True)


def _rotate(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return np.asarray(PLAIN["Rotate"](Image.fromarray(pixels), level, sign, fill))


def _quarter_turned(pixels: Pixels, level: float) -> Pixels:
    return np.ascontiguousarray(np.rot90(pixels, int(level)))


# Every operation that ``randaugment`` knows, by the name that it has there.
EXACT_OPERATIONS: dict[str, Operation] = {
    **{name: _tabled(table) for name, table in TABLES.items()},
    "AutoContrast": lambda pixels, level, sign, fill: _auto_contrast(pixels),
    "Equalize": lambda pixels, level, sign, fill: _equalize(pixels),
    "Invert": lambda pixels, level, sign, fill: np.asarray(_cv.bitwise_not(pixels)),
    "QuarterTurn": lambda pixels, level, sign, fill: _quarter_turned(pixels, level),
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
    "ColorIncreasing": lambda pixels, level, sign, fill: _color(pixels, strength(level, sign)),
    "Color": lambda pixels, level, sign, fill: _color(pixels, weakening(level)),
    "ContrastIncreasing": lambda pixels, level, sign, fill: _contrast(
        pixels, strength(level, sign)
    ),
    "Contrast": lambda pixels, level, sign, fill: _contrast(pixels, weakening(level)),
    "SharpnessIncreasing": lambda pixels, level, sign, fill: _sharpness(
        pixels, strength(level, sign)
    ),
    "Sharpness": lambda pixels, level, sign, fill: _sharpness(pixels, weakening(level)),
}
