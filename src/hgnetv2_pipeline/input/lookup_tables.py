"""RandAugment's operations that map single levels, as tables uint8 [256] with Pillow's numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.input.randaugment import TOP, strength, weakening

Table = npt.NDArray[np.uint8]

LEVELS = np.arange(256)


def blend_table(constant: int, factor: float) -> Table:
    """Pillow's blend of each level with a constant, in float32 as there."""
    away = (LEVELS - constant).astype(np.float32)
    return (np.float32(constant) + np.float32(factor) * away).clip(0, 255).astype(np.uint8)


def _posterize(bits: int) -> Table:
    kept: Table = (LEVELS - LEVELS % 2 ** (8 - bits)).astype(np.uint8)
    return kept


def _solarize(threshold: int) -> Table:
    return np.where(threshold > LEVELS, LEVELS, 255 - LEVELS).astype(np.uint8)


def _solarize_add(add: int) -> Table:
    return np.where(LEVELS < 128, np.minimum(LEVELS + add, 255), LEVELS).astype(np.uint8)


# By level 0..10 and sign.
TABLES: dict[str, Callable[[float, float], Table]] = {
    "Invert": lambda level, sign: (255 - LEVELS).astype(np.uint8),
    "SolarizeAdd": lambda level, sign: _solarize_add(min(128, int(level / TOP * 110))),
    "PosterizeIncreasing": lambda level, sign: _posterize(4 - int(level / TOP * 4)),
    "Posterize": lambda level, sign: _posterize(int(level / TOP * 4)),
    "SolarizeIncreasing": lambda level, sign: _solarize(256 - min(256, int(level / TOP * 256))),
    "Solarize": lambda level, sign: _solarize(min(256, int(level / TOP * 256))),
    "BrightnessIncreasing": lambda level, sign: blend_table(0, strength(level, sign)),
    "Brightness": lambda level, sign: blend_table(0, weakening(level)),
}
