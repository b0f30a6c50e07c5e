"""Whether a graph in a lower precision may take its name: its logits and accuracy beside fp32's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.evaluation import metrics
from hgnetv2_pipeline.variants import ImageSize, height_and_width

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

MAX_DROP = {"fp32": 0.2, "fp16": 0.2, "bf16": 0.2, "int8": 1.0}
"""Points of top-1 accuracy, or mAP, that a precision may lose, unless set otherwise."""
MAX_RMS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.2, "int8": 0.5}
"""Root mean square of the logits' error over their standard deviation. A trained B0 has 0.001, 0.01
and 0.04; a graph that lost its bounds has more than 1. In between accuracy decides. fp32: of the
same network as a file for devices."""

Logits = Callable[[np.ndarray], np.ndarray]


class ExportError(WeightsError):
    """The exported graph does not compute what the network computes; nothing was written.

    ``precision`` is the one whose gate refused it, where a gate did.
    """

    def __init__(self, message: str, *, precision: str | None = None) -> None:
        super().__init__(message)
        self.precision = precision


@dataclass(frozen=True)
class Validation:
    """Labelled images for the gate.

    ``batches``: gives (uint8 [N, S, S, 3], resized and cropped; int64 labels [N], or of several
    labels per image uint8 [N, C] of 0 and 1), the same at every call; ``source``: what they are, in
    words, for the record.
    """

    batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
    source: str


def noise(size: ImageSize, count: int = 8, seed: int = 0) -> Validation:
    """Seeded noise, without labels (-1)."""
    images = np.random.default_rng(seed).integers(
        0, 256, (count, *height_and_width(size), 3), np.uint8
    )
    return Validation(lambda: [(images, np.full(count, -1))], f"{count} images of noise")


def check_precision(
    exact: Logits,
    rough: Logits,
    validation: Validation,
    preprocess: Preprocess,
    *,
    precision: str,
    max_drop: float,
) -> dict[str, Any]:
    """Compare two graphs' logits on ``validation``; raise ExportError if ``rough`` lost too much.

    Lost too much: more than ``max_drop`` points of top-1 accuracy (of several labels per image: of
    mAP), where there are labels; or an error of the logits beyond ``MAX_RMS``; or logits that are
    not finite. Returns what was found: ``n``, ``top1_fp32`` and ``top1`` (counts; or ``map_fp32``
    and ``map``), ``drop_points``, ``same_answer`` (count; of several labels: all classes on the
    same side of 0.5), ``rms_error`` and ``relative_error`` (root mean square, and largest, over the
    standard deviation of the fp32 logits), ``limits``, ``images``.
    """
    given: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for pixels, truth in validation.batches():
        images = preprocess.normalize(pixels)
        wanted.append(exact(images))
        given.append(rough(images))
        labels.append(truth)
    if not labels:
        raise DataError(f"no images to judge the {precision} export by ({validation.source})")
    want, got, label = np.concatenate(wanted), np.concatenate(given), np.concatenate(labels)
    error = got.astype(np.float64) - want
    spread = float(want.std()) or 1.0
    found: dict[str, Any] = {
        "precision": precision,
        "images": validation.source,
        "n": len(label),
        "same_answer": _same_answer(got, want, several=label.ndim == 2),
        "rms_error": _short(np.sqrt(np.square(error).mean()) / spread),
        "relative_error": _short(np.abs(error).max() / spread),
        "limits": {"rms_error": MAX_RMS[precision], "drop_points": max_drop},
    }
    fell, words = 0.0, ""
    # Logits that are not finite have no mAP, and fail by their error.
    if label.ndim == 2 and np.isfinite(got).all():
        now, before = (metrics.mean_average_precision(logits, label) for logits in (got, want))
        fell = 100 * (before - now)
        found |= {"map_fp32": _short(before), "map": _short(now), "drop_points": _short(fell)}
        words = f"mAP falls from {before:.4f} to {now:.4f}"
    elif label.ndim == 1 and (label >= 0).all():
        right, first = (int((logits.argmax(1) == label).sum()) for logits in (got, want))
        fell = 100 * (first - right) / len(label)
        found |= {"top1_fp32": first, "top1": right, "drop_points": _short(fell)}
        words = f"top-1 falls from {first} to {right} of {len(label)}"
    complaints = []
    if not found["rms_error"] <= MAX_RMS[precision]:  # NaN is no number below it
        complaints.append(
            f"its logits stray by {found['rms_error']:.2g} of their standard deviation "
            f"(allowed {MAX_RMS[precision]:g})"
        )
    if fell > max_drop:
        complaints.append(f"{words}, {fell:.2f} points (allowed {max_drop:g})")
    if complaints:
        raise ExportError(
            f"the {precision} export fails its gate on {validation.source}: "
            f"{'; '.join(complaints)}. Nothing was written (export.gate sets the limits)",
            precision=precision,
        )
    return found


def _same_answer(got: np.ndarray, want: np.ndarray, *, several: bool) -> int:
    if several:
        return int(((got > 0) == (want > 0)).all(axis=1).sum())
    return int((got.argmax(1) == want.argmax(1)).sum())


def _short(value: Any) -> float:
    """Four digits: the last ones differ between processors, and files are to be the same."""
    return float(f"{float(value):.4g}")
