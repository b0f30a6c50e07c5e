"""ONNX Runtime on the CPU for a graph in memory, in the arithmetic that the graph itself says."""

from __future__ import annotations

from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.export.gate import Logits

WHOLE_BIASES = "WeightBiasQuantization"
"""ONNX Runtime's pass that rounds the float32 biases of a Q/DQ graph to multiples of input scale
times weight scale. A trained B0 gave another top-1 for 14 of 700 images by it; without it all 700
were those of the graph as written."""


def session_logits(proto: Any, *, whole_biases: bool = False) -> Logits:
    """The first output of a ModelProto as a function of its input.

    A Q/DQ graph is computed as it is written, in float32, unless ``whole_biases`` lets its biases
    be rounded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[] if whole_biases else [WHOLE_BIASES],
    )
    given = session.get_inputs()[0].name

    def logits(images: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run(None, {given: images})[0]
        return result

    return logits
