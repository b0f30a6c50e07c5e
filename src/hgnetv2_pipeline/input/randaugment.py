"""RandAugment with timm's operations, driven by a generator that is handed in.

timm draws from the global ``random`` and ``numpy.random``, which ties an image's view to the worker
that happened to load it. Here every draw comes from the sample's own generator; operations, levels
and chances are those of timm's ``rand_augment_transform`` (tests compare each with timm's).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hgnetv2_pipeline.errors import ParameterError

TOP = 10.0  # the level that counts as full strength
_MOST = 30.0  # a magnitude above it is a slip of the finger; PPHGNet_base has 15
_RESAMPLE = Image.Resampling.BICUBIC

Fill = tuple[int, int, int]
# Name of an operation, level 0..10, sign +1 or -1.
Choice = tuple[str, float, float]
# (image, level 0..10, sign +1 or -1, fill colour) -> image
Operation = Callable[[Image.Image, float, float, Fill], Image.Image]


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=_RESAMPLE, fillcolor=fill
    )


def strength(level: float, sign: float) -> float:
    """Factor of a Pillow enhancer that moves away from 1 (no change) as the level grows."""
    return max(0.1, 1.0 + sign * (level / TOP) * 0.9)


def weakening(level: float) -> float:
    """The factor of the set without ``inc1``: 0.1 at level 0, 1.9 at full level."""
    return (level / TOP) * 1.8 + 0.1


def level_of_factor(factor: float) -> float:
    """The level at which ``weakening`` gives ``factor``; below 0 or above 10 beyond its range."""
    return (factor - 0.1) / 1.8 * TOP


def level_of_turn(degrees: float) -> float:
    """The level at which Rotate turns by ``degrees``."""
    return degrees / 30.0 * TOP


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    if bits >= 8:
        return image
    if bits == 0:
        # Full level keeps no bit at all; Pillow 13 no longer takes a 0.
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _slide(
    image: Image.Image, slope: float, shift: float, fill: Fill, along_columns: bool
) -> Image.Image:
    matrix = (1, 0, 0, slope, 1, shift) if along_columns else (1, slope, shift, 0, 1, 0)
    return _affine(image, matrix, fill)


def _shear_x(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return _slide(image, sign * (level / TOP) * 0.3, 0, fill, along_columns=False)


def _shear_y(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return _slide(image, sign * (level / TOP) * 0.3, 0, fill, along_columns=True)


def _translate_x(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return _slide(image, 0, sign * (level / TOP) * 0.45 * image.width, fill, along_columns=False)


def _translate_y(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return _slide(image, 0, sign * (level / TOP) * 0.45 * image.height, fill, along_columns=True)


def _rotate(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return image.rotate(sign * (level / TOP) * 30.0, resample=_RESAMPLE, fillcolor=fill)


_SHARED: dict[str, Operation] = {
    "AutoContrast": lambda image, level, sign, fill: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign, fill: ImageOps.equalize(image),
    "Invert": lambda image, level, sign, fill: ImageOps.invert(image),
    "Rotate": _rotate,
    "SolarizeAdd": lambda image, level, sign, fill: _solarize_add(
        image, min(128, int(level / TOP * 110))
    ),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}

# The set of ``inc1``: every operation gets stronger with the level.
INCREASING: dict[str, Operation] = {
    **_SHARED,
    "PosterizeIncreasing": lambda image, level, sign, fill: _posterize(
        image, 4 - int(level / TOP * 4)
    ),
    "SolarizeIncreasing": lambda image, level, sign, fill: ImageOps.solarize(
        image, 256 - min(256, int(level / TOP * 256))
    ),
    "ColorIncreasing": lambda image, level, sign, fill: ImageEnhance.Color(image).enhance(
        strength(level, sign)
    ),
    "ContrastIncreasing": lambda image, level, sign, fill: ImageEnhance.Contrast(image).enhance(
        strength(level, sign)
    ),
    "BrightnessIncreasing": lambda image, level, sign, fill: ImageEnhance.Brightness(image).enhance(
        strength(level, sign)
    ),
    "SharpnessIncreasing": lambda image, level, sign, fill: ImageEnhance.Sharpness(image).enhance(
        strength(level, sign)
    ),
}

_QUARTERS = (
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
)
# No part of RandAugment: the level is the number of quarter turns against the clock.
FURTHER: dict[str, Operation] = {
    "QuarterTurn": lambda image, level, sign, fill: image.transpose(_QUARTERS[int(level) - 1]),
}

# timm's older set, without ``inc1``.
PLAIN: dict[str, Operation] = {
    **_SHARED,
    "Posterize": lambda image, level, sign, fill: _posterize(image, int(level / TOP * 4)),
    "Solarize": lambda image, level, sign, fill: ImageOps.solarize(
        image, min(256, int(level / TOP * 256))
    ),
    "Color": lambda image, level, sign, fill: ImageEnhance.Color(image).enhance(weakening(level)),
    "Contrast": lambda image, level, sign, fill: ImageEnhance.Contrast(image).enhance(
        weakening(level)
    ),
    "Brightness": lambda image, level, sign, fill: ImageEnhance.Brightness(image).enhance(
        weakening(level)
    ),
    "Sharpness": lambda image, level, sign, fill: ImageEnhance.Sharpness(image).enhance(
        weakening(level)
    ),
}


def operate(image: Image.Image, operations: list[Choice], fill: Fill) -> Image.Image:
    """``image`` after ``operations``, in their order; ``fill`` is what geometry uncovers."""
    for name, level, sign in operations:
        table = next(known for known in (INCREASING, PLAIN, FURTHER) if name in known)
        image = table[name](image, level, sign, fill)
    return image


@dataclass(frozen=True)
class RandAugment:
    """timm's RandAugment: ``layers`` operations, each applied with chance ``probability``.

    Attributes:
        magnitude: mean level; ``magnitude_std`` its spread; the level is clipped to 0..10.
        increasing: the ``inc1`` set of operations.
        fill: colour of the corners that geometric operations uncover.
    """

    magnitude: float
    magnitude_std: float
    layers: int
    probability: float
    increasing: bool
    fill: Fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return operate(image, self.choices(rng), self.fill)

    def choices(self, rng: np.random.Generator) -> list[Choice]:
        """What happens to one image: name of the operation, level and sign of each, in order."""
        names = list(INCREASING if self.increasing else PLAIN)
        chosen = []
        for pick in [int(rng.random() * len(names)) for _ in range(self.layers)]:
            if rng.random() > self.probability:
                continue
            level = self.magnitude + self.magnitude_std * rng.standard_normal()
            sign = -1.0 if rng.random() > 0.5 else 1.0
            chosen.append((names[pick], max(0.0, min(level, TOP)), sign))
        return chosen


def parse_randaugment(text: str, fill: Fill) -> RandAugment:
    """Read timm's notation, such as ``rand-m7-mstd0.5-inc1``.

    Parts: ``m`` magnitude (10), ``n`` operations an image (2), ``p`` chance of each (0.5), ``mstd``
    spread of the magnitude (0), ``inc`` 0 or 1 (0). Levels are cut to 0..10 once they are drawn: as
    with timm ``m15`` is ``m10`` but for what a spread would take below 10.

    Raises:
        ParameterError: a part is not of this form.
    """
    numbers = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
    name, *parts = text.split("-")
    for part in parts:
        found = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if found is None:
            name = ""
            break
        numbers[found[1]] = float(found[2])
    good = name == "rand" and numbers["m"] <= _MOST and numbers["p"] <= 1
    if not good or numbers["n"] % 1 or numbers["inc"] not in (0.0, 1.0):
        raise ParameterError(
            f"RandAugment {text!r} is not understood; write it as timm does, such as "
            "'rand-m7-mstd0.5-inc1': m 0-30, n whole, p 0-1, mstd, inc 0 or 1 "
            "(augment.randaugment)"
        )
    return RandAugment(
        magnitude=numbers["m"],
        magnitude_std=numbers["mstd"],
        layers=int(numbers["n"]),
        probability=numbers["p"],
        increasing=bool(numbers["inc"]),
        fill=fill,
    )
