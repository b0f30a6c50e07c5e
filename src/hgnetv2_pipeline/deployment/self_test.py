"""An engine's self-test: known answers travel with a model file, and every engine repeats them.

A runtime that passed every test elsewhere may compute the same file wrongly on another processor,
in silence: 8-bit products summed in 16 bits saturate. So a file carries the exact logits of a few
images made by formula, which any language can repeat, and each engine answers them when it is
loaded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.foreign import parse_json
from hgnetv2_pipeline.variants import ImageSize, height_and_width

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

ALLOWED = {"fp32": 1e-3, "tf32": 0.02, "fp16": 0.05, "bf16": 0.2, "int8": 0.05}
"""Root mean square of the logits' distance over their standard deviation, by the precision that an
engine computes in. Right engines have at most 1e-5 in fp32; a Q/DQ graph brings its own limit where
its rounding moves it further, see ``make_self_test``."""
ROUNDINGS = 3
"""Times what rounding an int8 graph otherwise changes, an engine may be off."""
_GRID = 8
_MOST = 8  # images
_LARGEST = 1e30  # of a logit


@dataclass(frozen=True)
class SelfTest:
    """Exact logits of ``self_test_images``, a row per image, and how far an engine's may be off.

    ``allowed`` counts as in ``ALLOWED``.
    """

    logits: tuple[tuple[float, ...], ...]
    allowed: float

    def to_text(self) -> str:
        """As one entry of a card; ``from_text`` reads it back."""
        return json.dumps({"allowed": self.allowed, "logits": self.logits})

    @classmethod
    def from_text(cls, text: str) -> SelfTest:
        """Raises ValueError for what ``to_text`` did not write: the text comes from a file."""
        given = parse_json(text) if isinstance(text, str) else None
        rows = given.get("logits") if isinstance(given, dict) else None
        # As many images are made and answered as there are rows.
        if (
            not isinstance(rows, list)
            or not 1 <= len(rows) <= _MOST
            or not all(map(_numbers, rows))
        ):
            raise ValueError(
                f"probes, the self-test, holds no table of finite logits for 1 to {_MOST} images"
            )
        if len({len(row) for row in rows}) != 1 or not np.std(np.array(rows, np.float64)) > 0:
            raise ValueError(
                "probes, the self-test, has logits all the same, or rows of different lengths"
            )
        allowed = given["allowed"] if _numbers([given.get("allowed")]) else 0
        if not 0 < allowed < math.inf:
            raise ValueError("probes, the self-test, has no limit (allowed) above 0")
        return cls(tuple(tuple(map(float, row)) for row in rows), float(allowed))

    def distance(self, logits: np.ndarray) -> float:
        """How far an engine's ``logits`` [N, classes] are from the exact ones; NaN for NaN."""
        return _distance(logits, np.array(self.logits))


def self_test_images(count: int, size: ImageSize) -> np.ndarray:
    """``count`` images by formula, uint8 [count, height, width, 3].

    A grid of 8 x 8 colours, the top bytes of the sequence x -> 1664525 x + 1013904223 (mod 2^32)
    from 1, image by image, row by row, channel last, is drawn out to ``size`` by linear
    interpolation in whole numbers: at pixel i of an edge, position ``i * 7 * 256 // (edge - 1)`` in
    256ths of a cell, both sums of products divided by 65536 at the end.
    """
    state, values = 1, []
    for _ in range(count * _GRID * _GRID * 3):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state >> 24)
    grid = np.array(values, np.int64).reshape(count, _GRID, _GRID, 3)
    (upper, down), (left, across) = map(_cells, height_and_width(size))
    down, across = down[:, None, None], across[:, None]
    rows = grid[:, upper] * (256 - down) + grid[:, upper + 1] * down
    pixels = rows[:, :, left] * (256 - across) + rows[:, :, left + 1] * across
    images: np.ndarray = (pixels >> 16).astype(np.uint8)
    return images


def _cells(edge: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell before each pixel of an edge, and the 256ths of a cell from there."""
    at = np.arange(edge, dtype=np.int64) * (_GRID - 1) * 256 // max(edge - 1, 1)
    low = np.minimum(at // 256, _GRID - 2)
    return low, at - low * 256


def self_test_count(classes: int) -> int:
    """How many images test a model of ``classes`` well enough: 2, or up to 8 where each has few
    logits.
    """
    return min(_MOST, max(2, math.ceil(32 / classes)))


def make_self_test(proto: Any, preprocess: Preprocess, precision: str) -> SelfTest | None:
    """The self-test of a ModelProto, answered by ONNX Runtime in the graph's own arithmetic.

    ``int8``: exactly what the Q/DQ pairs say, in float32; the limit is three times what rounding
    the biases to whole numbers does, as right runtimes do. ``bf16``: with every value rounded to
    it. None when the logits are all the same, so that they would show nothing.
    """
    from hgnetv2_pipeline.deployment.export.half import round_in_float32
    from hgnetv2_pipeline.deployment.onnx_session import session_logits

    classes = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    images = preprocess.normalize(self_test_images(self_test_count(classes), preprocess.crop))
    exact = session_logits(round_in_float32(proto) if precision == "bf16" else proto)(images)
    exact = exact.astype(np.float64)
    allowed = ALLOWED[precision]
    if precision == "int8":
        rounded = session_logits(proto, whole_biases=True)(images)
        allowed = max(allowed, ROUNDINGS * _distance(rounded, exact))
    return self_test_of(exact, allowed)


def self_test_of(exact: np.ndarray, allowed: float) -> SelfTest | None:
    """The self-test of logits [N, classes]; None where they show nothing: all the same, or NaN."""
    if not np.isfinite(exact).all() or exact.std() == 0:
        return None
    return SelfTest(
        tuple(tuple(float(f"{value:.6g}") for value in row) for row in exact.astype(np.float64)),
        float(f"{allowed:.3g}"),
    )


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(value) in (int, float) and -_LARGEST < value < _LARGEST for value in values)
    )


def _distance(logits: np.ndarray, exact: np.ndarray) -> float:
    spread = exact.std()
    error = np.asarray(logits, np.float64) - exact
    return float(np.sqrt(np.square(error).mean()) / spread) if spread else np.nan
