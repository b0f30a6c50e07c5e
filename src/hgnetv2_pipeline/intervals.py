"""How sure a counted share is: its interval and error, the spread of several, their difference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Differences of shares are multiples of 1 / n; what is smaller than this is rounding.
_ROUNDING = 1e-12


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


def pooled_deviation(groups: Iterable[tuple[float, ...]]) -> tuple[float, int] | None:
    """Standard deviation within groups, pooled over them, and its degrees of freedom.

    A group of one value says nothing of it; None where all are.
    """
    several = [(each, len(group) - 1) for group in groups if (each := deviation(group)) is not None]
    degrees = sum(count for _, count in several)
    if not degrees:
        return None
    return math.sqrt(math.fsum(count * each**2 for each, count in several) / degrees), degrees


def t_quantile(degrees: float, share: float = 0.975) -> float:
    """The ``share`` quantile of Student's t; the normal one for infinitely many degrees."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(degrees) else stdtrit(degrees, share))


@dataclass(frozen=True)
class PairedDifference:
    """One model's metric minus another's on the same images, and its standard error; shares."""

    value: float
    error: float

    def exceeds(self, standard_errors: float) -> bool:
        """Whether the first model is better by more than so many standard errors."""
        return self.value - standard_errors * self.error > _ROUNDING


def top1_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedDifference:
    """Share of images [N] that ``first`` has right minus that of ``second``.

    The error is that of a mean of N differences, each -1, 0 or 1 (divisor N - 1). Of one image
    nothing is known: the error is the largest difference there can be, 1.

    Raises:
        DataError: no image, or not the same number of them.
    """
    if first.shape != second.shape or not first.size:
        raise DataError(f"answers to {first.size} and {second.size} images cannot be paired")
    n = first.size
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    if n == 1:
        return PairedDifference(float(gained - lost), 1.0)
    squares = gained + lost - (gained - lost) ** 2 / n
    return PairedDifference((gained - lost) / n, math.sqrt(squares / (n * (n - 1))))


def mean_difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> PairedDifference:
    """Mean over images [N] of ``first`` minus ``second``, each the share of an arm's runs that are
    right.

    The error is that of the mean of N differences (divisor N - 1); of one image it is 1, as in
    ``top1_difference``.

    Raises:
        DataError: no image, or not the same number of them.
    """
    if first.shape != second.shape or not first.size:
        raise DataError(f"answers to {first.size} and {second.size} images cannot be paired")
    each = first - second
    error = float(each.std(ddof=1)) / math.sqrt(each.size) if each.size > 1 else 1.0
    return PairedDifference(float(each.mean()), error)
