"""How large the activations of a graph get on real images: the ranges that INT8 divides by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hgnetv2_pipeline.errors import DataError, ParameterError

METHODS = ("max", "percentile")
BINS = 2048
_IMAGES = 8  # at a time: every activation of B6 is held, 0.14 GB per image

Batches = Callable[[], Iterable[np.ndarray]]
"""Gives float32 batches [N, 3, H, W], preprocessed; the same ones at every call."""


def activation_ranges(
    proto: Any, names: Sequence[str], batches: Batches, *, method: str, percentile: float = 99.99
) -> dict[str, float]:
    """For each tensor of the ModelProto ``proto`` in ``names``, the absolute value that ends int8.

    ``max``: the largest one seen. ``percentile``: that share of all values is below (in percent).
    (Minimal divergence of the histograms, as TensorRT's own calibrator chose, is not offered: LAB
    puts half of all values on one bound, and a trained B0 lost 22 points by it.)
    Deterministic; two passes over the images but for ``max``.
    Raises DataError when there are none.
    """
    if method not in METHODS:
        raise ParameterError(f"calibration {method!r} is none of {', '.join(METHODS)}")
    session = _watching(proto, names)
    largest = dict.fromkeys(names, 0.0)
    count = 0
    for images in few(batches):
        count += len(images)
        for name, value in zip(names, _values(session, names, images), strict=True):
            largest[name] = max(largest[name], float(np.abs(value).max()))
    if not count:
        raise DataError("INT8 needs images to calibrate on, and none was given")
    if method == "max":
        return largest
    histograms = {name: np.zeros(BINS, np.int64) for name in names}
    for images in few(batches):
        for name, value in zip(names, _values(session, names, images), strict=True):
            if largest[name]:
                found, _ = np.histogram(np.abs(value), BINS, (0, largest[name]))
                histograms[name] += found
    return {
        name: largest[name] * percentile_end(counts, percentile)
        for name, counts in histograms.items()
    }


def few(batches: Batches) -> Iterator[np.ndarray]:
    """The same images, so few at a time that all activations of the largest network fit."""
    for images in batches():
        for at in range(0, len(images), _IMAGES):
            yield images[at : at + _IMAGES]


def _watching(proto: Any, names: Sequence[str]) -> Any:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    given = {entry.name for entry in model.graph.input}
    known = {entry.name for entry in model.graph.output}
    for name in names:
        if name not in given | known:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _values(session: Any, names: Sequence[str], images: np.ndarray) -> list[np.ndarray]:
    given = session.get_inputs()[0].name
    found = iter(session.run([name for name in names if name != given], {given: images}))
    return [images if name == given else next(found) for name in names]


def percentile_end(counts: np.ndarray, percentile: float) -> float:
    """The end, as a share of the largest value, below which ``percentile`` percent are."""
    total = counts.sum()
    if not total:
        return 1.0
    reached = np.searchsorted(np.cumsum(counts), total * percentile / 100)
    return float(min(reached + 1, len(counts)) / len(counts))
