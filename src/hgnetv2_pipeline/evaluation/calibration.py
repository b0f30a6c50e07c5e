"""How far a model's confidence can be trusted: risk, coverage, and the temperature that mends it.

A model that answers only where it is confident is right more often: its risk (the share of wrong
answers) falls with its coverage (the share of images it answers). Source: Geifman and El-Yaniv,
"Selective classification for deep neural networks" (2017, arXiv:1705.08500). Temperature scaling
divides all logits by one number and changes no answer: Guo et al. (2017, arXiv:1706.04599).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.evaluation.metrics import (
    Floats,
    Ints,
    cross_entropies,
    expected_calibration_error,
    operating_points,
    softmax,
)

COVERAGES = (0.8, 0.9, 0.95)
_POINTS = 200  # of a curve: more are not seen
_TEMPERATURES = (0.05, 20.0)
_MOST_FITTED = 10_000  # images, which settle one number to about a per cent


def risk_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Risk by coverage of the answers with confidence [N], and the accuracy at some coverages.

    Returns:
        ``points``: at most 200 pairs (coverage, risk), ascending; images of equal confidence come
        together. ``at``: for each of ``COVERAGES`` the least confident answer that is given
        (``threshold``), and ``answered`` and ``right`` images; equal confidences may answer more
        images than the coverage asks for.
    """
    scores, precision, _, answered = operating_points(confidence, np.asarray(correct))
    n = len(confidence)
    kept = np.unique(np.linspace(0, len(scores) - 1, _POINTS).round().astype(int))
    at = []
    for coverage in COVERAGES:
        place = int(np.searchsorted(answered, coverage * n - 1e-9))
        at.append(
            {
                "coverage": coverage,
                "threshold": float(scores[place]),
                "answered": int(answered[place]),
                "right": round(float(precision[place] * answered[place])),
            }
        )
    points = [[float(answered[k] / n), float(1 - precision[k])] for k in kept.tolist()]
    return {"points": points, "at": at}


def fit_temperature(logits: Floats, labels: Ints) -> float | None:
    """The temperature by which ``logits`` [N, C] are divided for the least mean cross-entropy.

    It is sought from 0.05 to 20; None where the least is not inside, as with every image right.
    Of more than 10,000 images every few are used.
    """
    from scipy.optimize import brentq

    step = -(-len(logits) // _MOST_FITTED)
    wide, known = np.asarray(logits[::step], dtype=np.float64), np.asarray(labels[::step])
    own = np.take_along_axis(wide, known[:, None].astype(np.int64), axis=1)[:, 0]

    def slope(log_scale: float) -> float:
        """The derivative of the cross-entropy, convex in the scale, by the scale 1 / T."""
        return float(((softmax(wide * np.exp(log_scale)) * wide).sum(axis=1) - own).mean())

    low, high = (-float(np.log(each)) for each in reversed(_TEMPERATURES))
    if not len(wide) or slope(low) >= 0 or slope(high) <= 0:
        return None
    return float(np.exp(-brentq(slope, low, high, xtol=1e-4)))


def temperature_scaling(logits: Floats, labels: Ints) -> dict[str, float] | None:
    """The temperature fitted on these images, and what it mends, by halves: ``temperature``, and
    ``ece`` and ``nll`` (mean cross-entropy, nats) before and after (``..._scaled``).

    What is mended is judged by images that the temperature was not fitted on: every second image
    by the temperature of the others, and the other way round. None where one cannot be fitted.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    fitted = [fit_temperature(logits, labels)]
    fitted += [fit_temperature(logits[half::2], labels[half::2]) for half in (1, 0)]
    if None in fitted:
        return None
    temperature, *others = (float(each) for each in fitted if each is not None)
    scaled = logits / np.resize(others, len(logits))[:, None]
    right = logits.argmax(axis=1) == labels
    found = {"temperature": temperature}
    for name, values in (("", logits), ("_scaled", scaled)):
        confidence = softmax(values).max(axis=1)
        found[f"ece{name}"] = expected_calibration_error(confidence, right)
        found[f"nll{name}"] = float(cross_entropies(values, labels).mean())
    return found
