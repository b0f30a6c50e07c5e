"""Numbers as a reader wants them, always the same for the same value."""

from __future__ import annotations

import math
from typing import Any

from hgnetv2_pipeline.variants import read_image_size, size_in_words

NOTHING = "–"


def number(value: Any) -> float | None:
    """``value`` as a finite float, or None where there is none (absent, text, NaN)."""
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def count(value: Any) -> str:
    """12345 -> '12,345'."""
    given = number(value)
    return NOTHING if given is None else f"{round(given):,}"


def pixels(size: Any) -> str:
    """The size of a network's input: 224 -> '224', [64, 192] -> '64x192'."""
    known = read_image_size(size, 1, 10**6)
    return NOTHING if known is None else size_in_words(known)


def decimals_for(images: int) -> int:
    """How many decimals of a per cent figure mean something for so many images."""
    return 2 if images >= 10_000 else 1


def percent(ratio: float | None, images: int = 0) -> str:
    """0.883 -> '88.3', with a second decimal from 10,000 images on."""
    return NOTHING if ratio is None else f"{100 * ratio:.{decimals_for(images)}f}"


def points(ratio: float | None, images: int = 0) -> str:
    """A difference of two ratios in percentage points, always signed: '+8.6', '-0.1', '0.0'."""
    if ratio is None:
        return NOTHING
    digits = decimals_for(images)
    rounded = round(100 * ratio, digits)
    if rounded == 0:
        return f"{0:.{digits}f}"
    return f"{rounded:+.{digits}f}".replace("-", "−")


def significant(value: Any, digits: int = 3) -> str:
    """A measured value: fixed notation where that is readable, else a power of ten."""
    given = number(value)
    if given is None:
        return NOTHING
    if given == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(given)))
    if magnitude < -3:
        mantissa, _, exponent = f"{given:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if magnitude >= digits:
        return f"{given:,.0f}"
    return f"{given:.{max(0, digits - 1 - magnitude)}f}"


def size(n_bytes: Any) -> str:
    """Bytes as '24.1 MB' (decimal units)."""
    given = number(n_bytes)
    if given is None:
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if given < 1000:
            return f"{given:.0f} {unit}" if unit == "B" else f"{given:.1f} {unit}"
        given /= 1000
    return f"{given:.1f} GB"


def words(value: Any) -> str:
    """Anything as a cell; None is a dash."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, int):
        return count(value)
    if isinstance(value, list | tuple):
        return ", ".join(words(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(value[key])}" for key in sorted(value))
    return str(value)
