"""A network as NVIDIA's parser holds it, read through the builder's API: layers, answers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import tensorrt_rtx_bindings as trt
import torch
from torch import Tensor
from torch.nn import functional as F

_KINDS = {
    getattr(trt.LayerType, name): getattr(trt, f"I{kind}Layer")
    for name, kind in {
        "ACTIVATION": "Activation", "CAST": "Cast", "CONCATENATION": "Concatenation",
        "CONSTANT": "Constant", "CONVOLUTION": "Convolution", "DEQUANTIZE": "Dequantize",
        "ELEMENTWISE": "ElementWise", "MATRIX_MULTIPLY": "MatrixMultiply", "POOLING": "Pooling",
        "QUANTIZE": "Quantize", "REDUCE": "Reduce", "SHUFFLE": "Shuffle",
    }.items()
}  # fmt: skip


def layers(network: Any) -> list[tuple[str, Any]]:
    """(kind, layer) in their order, the layer as the class of its kind."""
    found = []
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        kind = layer.type
        # The API gives every layer as ILayer; its own class has its attributes.
        layer.__class__ = _KINDS.get(kind, trt.ILayer)
        found.append((kind.name, layer))
    return found


def layer_table(network: Any) -> dict[str, int]:
    """How many layers there are of each kind, operation and precision of their output."""
    rows: Counter[str] = Counter()
    for kind, layer in layers(network):
        operation = ""
        if kind in ("ACTIVATION", "POOLING"):
            operation = f".{layer.type.name}"
        elif kind in ("ELEMENTWISE", "REDUCE"):
            operation = f".{layer.op.name}"
        rows[f"{kind}{operation} {layer.get_output(0).dtype.name}"] += 1
    return dict(sorted(rows.items()))


def evaluate(network: Any, images: np.ndarray) -> np.ndarray:
    """The first output of the parsed network in float64, layer by layer."""
    values: dict[str, Tensor] = {network.get_input(0).name: torch.from_numpy(images).double()}
    for kind, layer in layers(network):
        given = [values[layer.get_input(number).name] for number in range(layer.num_inputs)]
        result = _RUN[kind](layer, *given)
        declared = tuple(layer.get_output(0).shape)
        assert len(declared) == result.ndim, (kind, layer.name, declared, result.shape)
        assert all(want in (-1, got) for want, got in zip(declared, result.shape, strict=True))
        values[layer.get_output(0).name] = result
    return values[network.get_output(0).name].numpy()


def _numbers(weights: Any) -> Tensor:
    return torch.from_numpy(np.array(weights)).double()


def _convolution(layer: Any, x: Tensor, *more: Tensor) -> Tensor:
    assert layer.padding_mode == trt.PaddingMode.EXPLICIT_ROUND_DOWN
    (top, left), (bottom, right) = layer.pre_padding, layer.post_padding
    size = (layer.num_output_maps, x.shape[1] // layer.num_groups, *layer.kernel_size_nd)
    weight = more[0] if more else _numbers(layer.kernel).reshape(size)
    assert tuple(weight.shape) == size
    bias = more[1] if len(more) > 1 else _numbers(layer.bias)
    return F.conv2d(
        F.pad(x, (left, right, top, bottom)), weight, bias if bias.numel() else None,
        tuple(layer.stride_nd), 0, tuple(layer.dilation_nd), layer.num_groups,
    )  # fmt: skip


def _activation(layer: Any, x: Tensor) -> Tensor:
    kinds = trt.ActivationType
    if layer.type == kinds.CLIP:
        return x.clamp(layer.alpha, layer.beta)
    return {kinds.RELU: torch.relu, kinds.SIGMOID: torch.sigmoid}[layer.type](x)


def _pooling(layer: Any, x: Tensor) -> Tensor:
    assert layer.padding_mode == trt.PaddingMode.EXPLICIT_ROUND_DOWN
    assert layer.type == trt.PoolingType.MAX
    (top, left), (bottom, right) = layer.pre_padding, layer.post_padding
    padded = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(padded, tuple(layer.window_size_nd), tuple(layer.stride_nd))


def _elementwise(layer: Any, x: Tensor, y: Tensor) -> Tensor:
    assert x.ndim == y.ndim  # unlike ONNX it does not add axes
    kinds = trt.ElementWiseOperation
    ways = {kinds.SUM: torch.add, kinds.PROD: torch.mul, kinds.MAX: torch.maximum,
            kinds.MIN: torch.minimum}  # fmt: skip
    return ways[layer.op](x, y)


def _reduce(layer: Any, x: Tensor) -> Tensor:
    assert layer.op == trt.ReduceOperation.AVG
    axes = [axis for axis in range(x.ndim) if layer.axes >> axis & 1]
    return x.mean(axes, keepdim=layer.keep_dims)


def _matrix_multiply(layer: Any, x: Tensor, y: Tensor) -> Tensor:
    sides = []
    for operand, way in ((x, layer.op0), (y, layer.op1)):
        assert way in (trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE)
        sides.append(operand.mT if way == trt.MatrixOperation.TRANSPOSE else operand)
    return sides[0] @ sides[1]


def _constant(layer: Any) -> Tensor:
    return _numbers(layer.weights).reshape(tuple(layer.shape))


def _shuffle(layer: Any, x: Tensor) -> Tensor:
    x = x.permute(*list(layer.first_transpose)[: x.ndim])
    dims = list(layer.reshape_dims)
    if layer.zero_is_placeholder:
        dims = [x.shape[axis] if size == 0 else size for axis, size in enumerate(dims)]
    x = x.reshape(dims)
    return x.permute(*list(layer.second_transpose)[: x.ndim])


def _scale(layer: Any, x: Tensor, scale: Tensor) -> Tensor:
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape([-1 if axis == layer.axis else 1 for axis in range(x.ndim)])


def _quantize(layer: Any, x: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
    assert not any(each.any() for each in zero)
    return (x / _scale(layer, x, scale)).round().clamp(-128, 127)


def _dequantize(layer: Any, x: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
    assert not any(each.any() for each in zero)
    return x * _scale(layer, x, scale)


_RUN = {
    "ACTIVATION": _activation,
    "CAST": lambda layer, x: x,
    "CONCATENATION": lambda layer, *parts: torch.cat(parts, layer.axis),
    "CONSTANT": _constant,
    "CONVOLUTION": _convolution,
    "DEQUANTIZE": _dequantize,
    "ELEMENTWISE": _elementwise,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "POOLING": _pooling,
    "QUANTIZE": _quantize,
    "REDUCE": _reduce,
    "SHUFFLE": _shuffle,
}
