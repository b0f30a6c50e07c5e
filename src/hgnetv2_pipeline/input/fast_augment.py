"""Resizing and RandAugment on uint8 arrays: the fast path's twins of the Pillow operations.

The operations, levels and random choices are those of ``randaugment``, and most are the exact ones
of ``array_operations``. Shears and shifts are whole-number filters along a line (at most 2 levels
off), and only the rotation has another kernel; ``docs/results/input.md`` lists the differences.
Needs torch and OpenCV.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from hgnetv2_pipeline.data.preprocess import Preprocess, vertical_first
from hgnetv2_pipeline.input.array_operations import EXACT_OPERATIONS, Operation, Pixels
from hgnetv2_pipeline.input.lazy_image import Box, LazyImage
from hgnetv2_pipeline.input.pillow_resize import resize_span
from hgnetv2_pipeline.input.pillow_shear import plain
from hgnetv2_pipeline.input.randaugment import TOP, Fill

# OpenCV's type stubs know arrays of any kind only.
_cv: Any = cv2
_KERNELS: dict[str, Any] = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.default,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.default,
}
INTERPOLATIONS = tuple(_KERNELS)
# A picture that is decoded smaller stays this many times as large as the view that is made of it.
GAP = 2.0
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


def resize_crop(
    picture: LazyImage, box: Box, width: int, height: int, interpolation: str
) -> Pixels:
    """uint8 [height, width, 3]: the crop ``box`` of ``picture`` (left, top, width, height) resized.

    A JPEG file whose crop is at least ``2 * GAP`` times as large as the result is decoded at a
    half, a quarter or an eighth.
    """
    left, top, across, down = box
    factor = _factor(across / width, down / height)
    reduced = None if factor == 1 else picture.reduced(factor, top + down)
    if reduced is None:
        return resize(picture.crop(*box), width, height, interpolation)
    return resize_span(
        reduced, (left / factor, (left + across) / factor), (top / factor, (top + down) / factor),
        width, height, interpolation,
    )  # fmt: skip


def _factor(across: float, down: float) -> int:
    """By how much a picture may be reduced before it is resized by ``across`` and ``down``."""
    most = min(across, down) / GAP
    return next((factor for factor in (8, 4, 2) if factor <= most), 1)


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


def _inside(
    slope: float, shifts: npt.NDArray[np.float64], reach: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest and highest x of each row with ``-reach <= slope x + shift <= reach``."""
    ends = (-reach - shifts) / slope, (reach - shifts) / slope
    return ends if slope > 0 else ends[::-1]


# Every operation that ``randaugment`` knows: the exact ones where there is no faster way.
OPERATIONS: dict[str, Operation] = {
    **EXACT_OPERATIONS,
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}
