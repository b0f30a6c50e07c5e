"""Weights filled by name, so that a network can be compared across frameworks without a file.

The formula is the one by which the golden values in ``tests/golden`` were measured on PaddleClas;
the embedded sample writes ``.pdparams`` files with it.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def formula_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 tensor of Paddle's structured name ``key`` (``fc.weight`` is [in, out]).

    The values depend on the name and the shape alone and are plausible for their kind: variances
    positive, LAB biases of both signs, convolutions scaled by their fan-in.
    """
    rng = np.random.RandomState((zlib.crc32(key.encode()) ^ 0x5EED) & 0x7FFFFFFF)
    if key.endswith("_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("_mean"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 4:
        values = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
    elif len(shape) == 2:
        values = rng.normal(0, 0.05, shape)
    elif key.endswith("lab.scale"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("bias"):
        values = rng.normal(0, 0.2, shape)
    else:
        values = rng.uniform(0.4, 1.2, shape)
    return np.asarray(values, dtype=np.float32)


def formula_state(model: nn.Module) -> dict[str, np.ndarray]:
    """All tensors of ``model`` by the formula, under Paddle's names and in Paddle's layout."""
    from hgnetv2_pipeline.weights.writing import paddle_shapes

    return {key: formula_tensor(key, shape) for key, shape in paddle_shapes(model).items()}
