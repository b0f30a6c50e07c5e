"""``preprocess.json``: the values of the preprocessing, and its steps in words for others."""

from __future__ import annotations

from typing import Any

from hgnetv2_pipeline.data.depth import FULL, Depth
from hgnetv2_pipeline.data.preprocess import Preprocess

_TOLD = ("input", "steps", "transparency")
"""What the file says for readers, and said in earlier versions; the values say the same."""


def preprocess_file(preprocess: Preprocess) -> dict[str, Any]:
    """What ``preprocess.json`` holds: enough to write the preprocessing again from it alone."""
    height, width = preprocess.size
    return preprocess.to_dict() | {
        "input": {
            "name": "images", "dtype": "float32", "layout": "NCHW", "channels": "RGB",
            "height": height, "width": width,
        },
        "steps": {
            "decode": "the first picture of a file as red, green and blue with 8 bits each; grey "
            "is repeated in all three, CMYK and YCbCr become RGB without colour profiles",
            "depth": _depth(preprocess.depth),
            "transparency": _transparency(preprocess),
            "orientation": "turned upright by the EXIF orientation, where there is one",
            "resize": f"{_new_size(preprocess)}; by Pillow's {preprocess.interpolation} filter, "
            "which widens with the reduction (antialiasing), the result rounded to 0..255",
            "place": _place(preprocess),
            "scale": "(value / 255 - mean) / std in float32, channel by channel",
        },
    }  # fmt: skip


def told_values(said: dict[str, Any]) -> dict[str, Any]:
    """The values alone of what a ``preprocess.json`` holds."""
    return {name: value for name, value in said.items() if name not in _TOLD}


def _depth(depth: Depth) -> str:
    if depth == FULL:
        return "of 16 bits a channel the upper 8 are kept: value // 256"
    if isinstance(depth, int):
        return (
            f"files of 16 bits a channel use {depth} of them: min(value // {2 ** (depth - 8)}, 255)"
        )
    low, high = depth
    return (
        f"of 16 bits a channel a value, limited to {low}..{high}, becomes 255 * (value - {low}) / "
        f"{high - low}, a half rounded up"
    )


def _transparency(preprocess: Preprocess) -> str:
    if preprocess.background is None:
        return "dropped: the colours below transparent pixels are kept as they are in the file"
    return (
        "every pixel of a file with transparency (an alpha channel, a palette with alpha, or one "
        "transparent colour) becomes, in each channel, "
        "round((alpha * colour + (255 - alpha) * background) / 255), a whole number, before the "
        "orientation; alpha, colour and background go from 0 to 255, and colour is not "
        "premultiplied"
    )


def _new_size(preprocess: Preprocess) -> str:
    height, width = preprocess.size
    if preprocess.fit == "squash":
        return f"to width {width} and height {height}, whatever the proportions"
    if preprocess.fit == "crop" and height == width:
        short = preprocess.resize_short
        return (
            f"to width round(w * {short} / m) and height round(h * {short} / m) of an image w wide "
            "and h high, m the smaller of the two; a half is rounded to the even number"
        )
    tall, broad = preprocess.box
    if preprocess.fit == "crop":
        first = f"where w * {tall} >= h * {broad}"
    else:
        first = f"where w * {tall} < h * {broad}"
    return (
        f"of an image w wide and h high: {first}, to width round(w * {tall} / h), at least 1, and "
        f"height {tall}; else to width {broad} and height round(h * {broad} / w), at least 1; a "
        "half is rounded to the even number"
    )


def _place(preprocess: Preprocess) -> str:
    height, width = preprocess.size
    if preprocess.fit == "squash":
        return "the whole of it"
    if preprocess.fit == "crop":
        return (
            f"cut from the middle: {width} columns from (new width - {width}) // 2 and {height} "
            f"rows from (new height - {height}) // 2, counted from the left and the top"
        )
    return (
        f"laid on a picture {width} wide and {height} high that is pad_colour everywhere, its left "
        f"column at ({width} - new width) // 2 and its top row at ({height} - new height) // 2"
    )
