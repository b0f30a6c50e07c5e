"""Resizing and RandAugment on uint8 arrays: the fast path's twins of the Pillow operations.

The operations, levels and random choices are those of ``randaugment``. Whatever maps single levels
is a table with Pillow's very pixels, shears and shifts are whole-number filters along a line (at
most 2 levels off), and only the rotation has another kernel; ``docs/results/input.md`` lists the
differences. Needs torch and OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from hgnetv2_pipeline.data.preprocess import Preprocess, vertical_first
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.lookup_tables import LEVELS, TABLES, Table, blend_table
from hgnetv2_pipeline.input.pillow_shear import plain
from hgnetv2_pipeline.input.randaugment import TOP, Fill, strength, weakening

Pixels = npt.NDArray[np.uint8]
# (pixels [H, W, 3], level 0..10, sign +1 or -1, fill colour) -> pixels of the same shape
Operation = Callable[[Pixels, float, float, Fill], Pixels]

# OpenCV's type stubs know arrays of any kind only.
_cv: Any = cv2
_KERNELS: dict[str, Any] = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.default,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.default,
}
INTERPOLATIONS = tuple(_KERNELS)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
# Pillow cuts the fraction off where OpenCV rounds; not quite a half, so that whole numbers stay.
_CUT = -0.498


def resize(pixels: Pixels, width: int, height: int, interpolation: str) -> Pixels:
    """uint8 [height, width, 3]: antialiased like Pillow's, with coarser fixed-point weights.

    ``interpolation`` is one of ``INTERPOLATIONS``.
    """
    upright = vertical_first(pixels.shape[1], pixels.shape[0], width, height)
    return _resize(pixels, width, height, interpolation, (None, None), upright)


def _resize(
    pixels: Pixels,
    width: int,
    height: int,
    interpolation: str,
    factors: tuple[float | None, float | None],
    upright: bool,
) -> Pixels:
    """``factors``: result over source, across and down; None: by the sizes. ``upright``: first
    down, then across."""
    if upright:
        turned = _resize(
            _transposed(pixels), height, width, interpolation, factors[::-1], upright=False
        )
        return _transposed(turned)
    # Channels last, as it is in memory, has a vectorised kernel in torch. The axis of one image
    # comes first: added last, its stride would hide the layout.
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    across, down = factors
    # functional.interpolate calls the same, but takes sizes or factors, never both.
    with torch.inference_mode():
        out = _KERNELS[interpolation](image, (height, width), False, down, across)
    resized: Pixels = out[0].permute(1, 2, 0).contiguous().numpy()
    return resized


def evaluation_view(preprocess: Preprocess, picture: LazyImage) -> Pixels:
    """``Preprocess.image`` of a picture with the resizing of this module.

    uint8 [height, width, 3]; other interpolations, and slivers that would grow beyond
    ``max_pixels``, are Pillow's. What is below the centre crop is neither decoded nor resized.
    """
    width, height = picture.size
    wide, high, left, top = preprocess.geometry(width, height)
    if preprocess.interpolation not in INTERPOLATIONS or wide * high > preprocess.max_pixels:
        return preprocess.cut(picture.pixels())
    tall, broad = preprocess.size
    bottom = min(top + tall, high)
    # The cubic filter reaches two pixels of the result, or of the source where those are larger.
    scale = height / high
    rows = min(height, math.ceil(bottom * scale + 2 * max(scale, 1)) + 1)
    resized = _resize(
        picture.crop(0, 0, width, rows), wide, bottom, preprocess.interpolation,
        (wide / width, high / height), vertical_first(width, height, wide, high),
    )  # fmt: skip
    if preprocess.fit != "crop":
        return preprocess.framed(resized, left, top)
    return resized[top:, left : left + broad]


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


def _blend(pixels: Pixels, other: Pixels, factor: float) -> Pixels:
    return np.asarray(_cv.addWeighted(pixels, factor, other, 1 - factor, _CUT))


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    mean = int(_cv.mean(_cv.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _through(pixels, blend_table(mean, factor))


def _color(pixels: Pixels, factor: float) -> Pixels:
    grey = _cv.cvtColor(_cv.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(pixels, grey, factor)


def _sharpness(pixels: Pixels, factor: float) -> Pixels:
    smooth = _cv.filter2D(pixels, -1, _SMOOTH)
    # Pillow's filter leaves the border as it is.
    smooth[0], smooth[-1] = pixels[0], pixels[-1]
    smooth[:, 0], smooth[:, -1] = pixels[:, 0], pixels[:, -1]
    return _blend(pixels, smooth, factor)


def _weights(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[N, 4]: weights of the neighbours -1, 0, 1 and 2 at fraction t; Pillow's cubic, a = -1."""
    taps = [((2 - t) * t - 1) * t, (t - 2) * t * t + 1, ((1 - t) * t + 1) * t, (t - 1) * t * t]
    return np.stack(taps, axis=-1)


def _in_128ths(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    whole = np.rint(weights * 128).astype(np.int16)
    whole[:, 1] += 128 - whole.sum(axis=1, dtype=np.int16)
    return whole


_STEPS = 512
_TABLE = _in_128ths(_weights((np.arange(_STEPS) + 0.5) / _STEPS))


@torch.inference_mode()
def _shear_x(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    """Row y, read at x + shift(y): four taps in whole numbers, other ones in each row."""
    height, width = pixels.shape[:2]
    shifts = sign * (level / TOP) * 0.3 * (np.arange(height) + 0.5)
    steps = np.floor(shifts * _STEPS).astype(np.int64)
    whole = steps // _STEPS
    margin = int(np.abs(whole[[0, -1]]).max()) + 3
    wide = _cv.copyMakeBorder(pixels, 0, 0, margin, margin, cv2.BORDER_REPLICATE)
    line = 3 * (width + 2 * margin)
    shape = (height, 6 * margin - 8, 3 * width + 9)
    runs: Pixels = np.ndarray(shape, np.uint8, wide, 0, (line, 1, 1))
    near = torch.from_numpy(runs[np.arange(height), 3 * (whole - 1 + margin)]).to(torch.int16)
    # Numbers around 0 keep the sums of products within 16 bits.
    near.sub_(128)
    by = torch.from_numpy(_TABLE[steps % _STEPS])
    total = near[:, : 3 * width] * by[:, :1]
    for tap in range(1, 4):
        total.addcmul_(near[:, 3 * tap : 3 * (width + tap)], by[:, tap : tap + 1])
    moved = total.bitwise_right_shift_(7).add_(128).clamp_(0, 255).to(torch.uint8).numpy()
    x = np.arange(width, dtype=np.int16)
    first = np.ceil(-0.5 - shifts).astype(np.int16)[:, None]
    outside = (x < first) | (x >= first + np.int16(width))
    return _filled(moved.reshape(pixels.shape), outside, fill)


def _shear_y(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return _transposed(_shear_x(_transposed(pixels), level, sign, fill))


def _translate(pixels: Pixels, shift: float, axis: int, fill: Fill) -> Pixels:
    """Read at place + shift along ``axis``."""
    size = pixels.shape[axis]
    whole = math.floor(shift)
    kernel = _weights(np.array([shift - whole])).astype(np.float32)
    kernel, anchor = (kernel, (1, 0)) if axis else (kernel.T, (0, 1))
    # Places up to half a pixel before the edge count as inside: one line more at the start.
    wider = _cv.copyMakeBorder(pixels, 1 - axis, 0, axis, 0, cv2.BORDER_REPLICATE)
    between = _cv.filter2D(
        wider, -1, kernel, anchor=anchor, delta=_CUT, borderType=cv2.BORDER_REPLICATE
    )
    first = math.ceil(-0.5 - shift)
    start, stop = max(first, 0), min(first + size, size)
    out = plain(*pixels.shape[:2], fill).copy()
    if start < stop:
        to, source = slice(start, stop), slice(start + whole + 1, stop + whole + 1)
        if axis:
            out[:, to] = between[:, source]
        else:
            out[to] = between[source]
    return out


def _translate_x(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return _translate(pixels, sign * (level / TOP) * 0.45 * pixels.shape[1], 1, fill)


def _translate_y(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    return _translate(pixels, sign * (level / TOP) * 0.45 * pixels.shape[0], 0, fill)


def _filled(pixels: Pixels, outside: npt.NDArray[np.bool_], fill: Fill) -> Pixels:
    height, width = pixels.shape[:2]
    return np.asarray(_cv.copyTo(plain(height, width, fill), outside.view(np.uint8), pixels))


def _transposed(pixels: Pixels) -> Pixels:
    return np.asarray(_cv.transpose(pixels))


def _rotate(pixels: Pixels, level: float, sign: float, fill: Fill) -> Pixels:
    height, width = pixels.shape[:2]
    angle = -math.radians(sign * (level / TOP) * 30.0)
    cosine, sine = math.cos(angle), math.sin(angle)
    # The centre of pixel (x, y), counted from the middle of the image, is read at
    # (cosine x + sine y, cosine y - sine x).
    left, top = 0.5 - width / 2, 0.5 - height / 2
    y = np.arange(height) + top
    first, last = _inside(cosine, sine * y, width / 2)
    if sine:
        first_down, last_down = _inside(-sine, cosine * y, height / 2)
        first, last = np.maximum(first, first_down), np.minimum(last, last_down)
    x = np.arange(width, dtype=np.int16)
    # Clipped, so that 16 bits hold whatever a small sine divides by.
    first = np.ceil(first - left).clip(0, width).astype(np.int16)[:, None]
    last = np.floor(last - left).clip(-1, width).astype(np.int16)[:, None]
    outside = (x < first) | (x > last)
    matrix = np.array(
        [
            [cosine, sine, cosine * left + sine * top - left],
            [-sine, cosine, cosine * top - sine * left - top],
        ]
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    turned = _cv.warpAffine(
        pixels, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return _filled(turned, outside, fill)


def _quarter_turned(pixels: Pixels, level: float) -> Pixels:
    return np.ascontiguousarray(np.rot90(pixels, int(level)))


def _inside(
    slope: float, shifts: npt.NDArray[np.float64], reach: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest x of each row with ``-reach <= slope x + shift <= reach``."""
    ends = (-reach - shifts) / slope, (reach - shifts) / slope
    return ends if slope > 0 else ends[::-1]


# Every operation that ``randaugment`` knows, by the name that it has there.
OPERATIONS: dict[str, Operation] = {
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
