"""Pillow's antialiased resize to the bit, in half its time, and the evaluation view made with it.

Pillow weighs the pixels under its filter in whole numbers of 22 bits, one axis after the other, and
rounds to levels in between. Here an axis is a few small products of matrices in single precision;
where a sum is so close to a half that their error could tip it, Pillow's own sum is evaluated.
Needs OpenCV.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.data.preprocess import RESAMPLING, Preprocess, vertical_first
from hgnetv2_pipeline.input.lazy_image import LazyImage

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

_cv: Any = cv2
_BITS = 22
_LINES = 16  # of the source per product, those aside that only the filter's reach adds


def _cubic(x: Numbers) -> Numbers:
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * -0.5, 0.0))


def _linear(x: Numbers) -> Numbers:
    return np.where(x < 1, 1.0 - x, 0.0)


def _lanczos(x: Numbers) -> Numbers:
    return np.where(x < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Numbers) -> Numbers:
    angle = np.where(x == 0, 1.0, x * np.pi)
    return np.where(x == 0, 1.0, np.sin(angle) / angle)


Span = tuple[float, float]
# The filter of distances from 0 up, and how far it reaches.
_FILTERS = {"bicubic": (_cubic, 2.0), "bilinear": (_linear, 1.0), "lanczos": (_lanczos, 3.0)}


@dataclass(frozen=True)
class _Axis:
    """How lines of a source are weighed.

    Attributes:
        seen: the lines of the source that count; what follows speaks of these alone.
        first: int64 [N, 1]: the first line that each line of the result sees.
        weights: int64 [N, taps]: of it and those after it, in 2**-22.
        bands: lines of the result, lines of the source, and their weights, float32.
        doubt: sums within this of a half may be rounded either way.
    """

    seen: slice
    first: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]
    bands: list[tuple[slice, slice, npt.NDArray[np.float32]]]
    doubt: float


@functools.lru_cache(maxsize=512)
def _axis(
    size: int, to: int, start: int, stop: int, interpolation: str, span: Span | None = None
) -> _Axis:
    """Lines ``start`` to ``stop`` of the ``to`` that ``size`` lines become, by Pillow's formulas in
    its order of operations; of ``span``, where the whole is not meant."""
    kernel, reach = _FILTERS[interpolation]
    low, high = span or (0, size)
    scale = (high - low) / to
    reach *= max(scale, 1.0)
    centre = low + (np.arange(start, stop)[:, None] + 0.5) * scale
    first = (centre - reach + 0.5).astype(np.int64).clip(0)
    taps = (centre + reach + 0.5).astype(np.int64).clip(max=size) - first
    steps = np.arange(taps.max())
    shares = kernel(np.abs((first + steps - centre + 0.5) * (1.0 / max(scale, 1.0))))
    shares *= steps < taps
    shares /= np.add.accumulate(shares, axis=1)[:, -1:]
    weights = np.trunc(shares * 2**_BITS + np.where(shares < 0, -0.5, 0.5)).astype(np.int64)
    seen = slice(int(first[0, 0]), int((first + taps).max()))
    first -= seen.start
    # Few lines share a product, for each is weighed with all lines of the source that any sees.
    count = int(min(max(_LINES / scale, 4), 32))
    starts = first[np.arange(len(first)) // count * count]
    places = first - starts + steps
    dense = np.zeros((len(first), places.max() + 1), np.float32)
    np.put_along_axis(dense, places, weights / np.float32(2**_BITS), axis=1)
    bands = []
    for at in range(0, len(first), count):
        low = int(starts[at, 0])
        lines = slice(low, min(low + dense.shape[1], seen.stop - seen.start))
        band = slice(at, min(at + count, len(first)))
        bands.append((band, lines, dense[band, : lines.stop - low]))
    # Each product and each sum is rounded once, and what is compared with a half once more.
    most = np.float32(255 * np.abs(shares).sum(axis=1).max())
    return _Axis(seen, first, weights, bands, float(np.spacing(most)) * (len(steps) + 1.5))


def resize_exactly(pixels: Pixels, width: int, height: int, interpolation: str) -> Pixels:
    """uint8 [height, width, 3] of uint8 [H, W, 3]; ``interpolation`` as in ``Preprocess``."""
    if interpolation not in _FILTERS:
        return np.asarray(
            Image.fromarray(pixels).resize((width, height), RESAMPLING[interpolation])
        )
    across = _axis(pixels.shape[1], width, 0, width, interpolation)
    down = _axis(pixels.shape[0], height, 0, height, interpolation)
    upright = vertical_first(pixels.shape[1], pixels.shape[0], width, height)
    return _resized(pixels, across, down, upright)


def resize_span(
    pixels: Pixels, across: Span, down: Span, width: int, height: int, interpolation: str
) -> Pixels:
    """uint8 [height, width, 3]: a piece whose edges are between pixels, resized.

    ``across`` and ``down``: from where to where, in pixels; ``interpolation`` is none of nearest.
    """
    axes = []
    for size, to, (low, high) in (
        (pixels.shape[1], width, across), (pixels.shape[0], height, down)
    ):  # fmt: skip
        # Nothing outside the piece is seen, but for the rest of a pixel that is partly inside.
        first, last = math.floor(low), min(math.ceil(high), size)
        axis = _axis(last - first, to, 0, to, interpolation, (low - first, high - first))
        axes.append((axis, slice(first + axis.seen.start, first + axis.seen.stop)))
    seen = pixels[axes[1][1], axes[0][1]]
    return _resized(seen, axes[0][0], axes[1][0], upright=False)


def exact_view(preprocess: Preprocess, picture: LazyImage) -> Pixels:
    """uint8 [height, width, 3]: ``Preprocess.image`` of a picture.

    What the centre crop does not see is not resized, and what is below it not decoded.
    """
    width, height = picture.size
    wide, high, left, top = preprocess.geometry(width, height)
    if preprocess.interpolation not in _FILTERS or wide * high > preprocess.max_pixels:
        return preprocess.cut(picture.pixels())
    tall, broad = preprocess.size
    across = _axis(width, wide, max(left, 0), min(left + broad, wide), preprocess.interpolation)
    down = _axis(height, high, max(top, 0), min(top + tall, high), preprocess.interpolation)
    seen = picture.crop(0, 0, width, down.seen.stop)[down.seen, across.seen]
    resized = _resized(seen, across, down, vertical_first(width, height, wide, high))
    return preprocess.framed(resized, left, top)


def _resized(pixels: Pixels, across: _Axis, down: _Axis, upright: bool) -> Pixels:
    """``upright``: first down, then across; levels are rounded in between."""
    if upright:
        tall = _weighed(np.ascontiguousarray(pixels), down)
        return _transposed(_weighed(_transposed(tall), across))
    return _weighed(_transposed(_weighed(_transposed(pixels), across)), down)


def _transposed(pixels: Pixels) -> Pixels:
    return np.asarray(_cv.transpose(pixels))


def _weighed(pixels: Pixels, axis: _Axis) -> Pixels:
    """The first axis of uint8 [H, W, 3] resized."""
    source = pixels.reshape(len(pixels), -1)
    sums = np.empty((len(axis.first), source.shape[1]), np.float32)
    for band, lines, weights in axis.bands:
        np.matmul(weights, source[lines].astype(np.float32), out=sums[band])
    _cv.threshold(sums, 0, 0, cv2.THRESH_TOZERO, dst=sums)
    found: Pixels = _cv.convertScaleAbs(sums, beta=axis.doubt)
    doubtful = np.flatnonzero(found != _cv.convertScaleAbs(sums, beta=-axis.doubt))
    found.reshape(-1)[doubtful] = _exact(source, axis, *np.divmod(doubtful, source.shape[1]))
    return found.reshape(-1, *pixels.shape[1:])


def _exact(
    source: Pixels, axis: _Axis, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> Pixels:
    """The levels in ``rows`` and ``columns`` by Pillow's own sum."""
    lines = axis.first[rows] + np.arange(axis.weights.shape[1])
    seen = source[lines.clip(max=len(source) - 1), columns[:, None]]
    sums = (seen * axis.weights[rows]).sum(axis=1) + 2 ** (_BITS - 1)
    return np.asarray((sums >> _BITS).clip(0, 255).astype(np.uint8))
