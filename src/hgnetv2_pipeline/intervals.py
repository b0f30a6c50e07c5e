"""How sure a counted share is: its interval, its standard error, and the spread of several."""

from __future__ import annotations

import math

from hgnetv2_pipeline.errors import ParameterError


def wilson_interval(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of the share ``hits / n`` (95 % for the default ``z``).

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927). ParameterError unless
    0 <= ``hits`` <= ``n``.
    """
    if not 0 <= hits <= n or n < 1:
        raise ParameterError(f"{hits} of {n} is no share")
    share, square = hits / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    # At 0 and n hits the bound is exactly the end; rounding must not put it a hair beyond.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high


def share_error(share: float, n: int) -> float:
    """Standard error of a share counted on ``n`` images (binomial)."""
    return math.sqrt(share * (1 - share) / n)


def deviation(values: tuple[float, ...]) -> float | None:
    """Sample standard deviation (divisor n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
