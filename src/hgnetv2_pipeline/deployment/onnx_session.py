"""How ONNX Runtime is set for our files; a graph in memory, computed as the graph itself says."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.deployment.export.gate import Logits

if TYPE_CHECKING:
    import onnxruntime

WHOLE_BIASES = "WeightBiasQuantization"
"""ONNX Runtime's pass that rounds the float32 biases of a Q/DQ graph to multiples of input scale
times weight scale. A trained B0 gave another top-1 for 14 of 700 images by it; without it all 700
were those of the graph as written."""

# On x86 a graph with int8 activations is computed as written, in float32, so that rounded biases
# cost accuracy and bring nothing. ARM's integer kernels need them.
LEFT_OUT = [WHOLE_BIASES] if platform.machine() in ("x86_64", "AMD64") else []
"""Optimizers that a session of our files goes without."""


def session_options(threads: int = 0) -> onnxruntime.SessionOptions:
    """Options for the bytes of a checked ONNX file; ``threads``: 0 is ONNX Runtime's choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What goes wrong is raised; its own log would write the file's names to the terminal raw.
    options.log_severity_level = 4
    # Bytes may be taken for ONNX Runtime's own format by a mark in them; they were not checked
    # as that.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


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
