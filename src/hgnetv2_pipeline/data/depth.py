"""Pixels of 16 bits a channel: which part of that range becomes the 8 bits that networks see.

Cameras store 10, 12 or 14 bits in files of 16, so that the upper 8 bits of a pixel would be all but
black. One rule holds for all images of a data set, and travels with its models: the bits that are
used, of which the upper 8 are kept, or the lowest and highest level, between which levels are
scaled. Files of 8 bits are as they are.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hgnetv2_pipeline.errors import ParameterError

Depth = int | tuple[int, int]
"""Bits that are used, 8 to 16, or the levels that become 0 and 255."""
FULL: Depth = 16
_MOST = 65535
# Pillow keeps one byte of each pair. Told the other order of bytes it keeps the other one.
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_COLOURS = ("RGB", "RGBA", "RGBX")


def check_depth(value: Any, where: str) -> Depth:
    """``value`` as a depth; ParameterError naming ``where`` unless it is one."""
    if type(value) is int and 8 <= value <= 16:
        return value
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = value
        if type(low) is int and type(high) is int and 0 <= low < high <= _MOST:
            return low, high
    raise ParameterError(
        f"depth {value!r:.100}: bits from 8 to 16, or [lowest, highest] of the levels 0 to {_MOST} "
        f"({where})"
    )


def narrow(values: npt.NDArray[np.uint16], depth: Depth) -> npt.NDArray[np.uint8]:
    """``values`` in 8 bits; what is outside the range of ``depth`` becomes 0 or 255.

    Bits: ``value >> (bits - 8)``. Levels: ``255 * (value - low) / (high - low)``, a half rounded
    up.
    """
    if isinstance(depth, int):
        kept: npt.NDArray[np.uint16] = np.minimum(values >> (depth - 8), 255)
        return kept.astype(np.uint8)
    low, high = depth
    above = np.clip(values, low, high).astype(np.int64) - low
    scaled: npt.NDArray[np.int64] = (2 * 255 * above + (high - low)) // (2 * (high - low))
    return scaled.astype(np.uint8)


def used_depth(highest: int) -> Depth:
    """The bits that levels up to ``highest`` use, 8 at least; all 16 where all is black."""
    return max(8, highest.bit_length()) if highest else FULL


def lower_bytes(image: Any) -> Image.Image | None:
    """The lower bytes of a colour file of 16 bits as an image of their own; None of other files.

    ``image`` is one whose pixels are not loaded yet, over bytes in memory.
    """
    modes = [_raw_mode(tile) for tile in image.tile]
    kinds = {mode.partition(";16")[::2] for mode in modes if mode is not None}
    if len(kinds) != 1 or None in modes:
        return None
    name, order = kinds.pop()
    if name not in _COLOURS or order not in _OTHER_BYTE:
        return None
    content = image.fp.getvalue()
    other: Any = Image.open(io.BytesIO(content), formats=[str(image.format)])
    other.tile = [_with_raw_mode(tile, f"{name};16{_OTHER_BYTE[order]}") for tile in other.tile]
    found: Image.Image = other
    return found


def deep_levels(image: Image.Image, lower: Image.Image | None) -> npt.NDArray[np.uint16] | None:
    """uint16 [H, W] or [H, W, 3] of a loaded image of 16 bits, with its ``lower_bytes``; None of
    other images.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if lower is None:
        return None
    levels: npt.NDArray[np.uint16] = np.asarray(image.convert("RGB")).astype(np.uint16)
    levels *= 256
    levels += np.asarray(lower.convert("RGB"))
    return levels


def _raw_mode(tile: Any) -> str | None:
    """How the bytes of a tile are laid out, as Pillow's decoders are told; the first argument."""
    given = tile[3] if isinstance(tile[3], str) else next(iter(tile[3] or ()), None)
    return given if isinstance(given, str) else None


def _with_raw_mode(tile: Any, mode: str) -> Any:
    given = mode if isinstance(tile[3], str) else (mode, *tile[3][1:])
    return tile._replace(args=given)
