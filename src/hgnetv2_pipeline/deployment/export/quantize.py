"""INT8 as QuantizeLinear / DequantizeLinear pairs around every convolution and matrix product.

What TensorRT takes, and OpenVINO and ONNX Runtime too: int8, symmetric, zero point 0, weights a
scale an output channel, activations one scale a tensor, biases float32. Bounds stay where they are:
ONNX Runtime's own quantiser drops a Clip because uint8 ends at 0 anyway, which LAB's bounds do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_PRODUCTS = ("Conv", "Gemm")
# They move values about without computing: both sides share a scale, so that they can stay in int8.
_MOVERS = ("Concat", "MaxPool")
_LEVELS = 127


def scale_groups(proto: Any) -> dict[str, tuple[str, ...]]:
    """The activations to quantise, each with all that share its scale (itself among them).

    What feeds a convolution or matrix product, and what feeds a Concat or MaxPool that does.
    """
    producers = {name: node for node in proto.graph.node for name in node.output}
    groups: dict[str, set[str]] = {}
    queue = [node.input[0] for node in proto.graph.node if node.op_type in _PRODUCTS]
    while queue:
        name = queue.pop()
        group = groups.setdefault(name, {name})
        mover = producers.get(name)
        if mover is None or mover.op_type not in _MOVERS:
            continue
        for source in mover.input:
            if source not in groups:
                groups[source] = {source}
                queue.append(source)
            merged = group | groups[source]
            for member in merged:
                groups[member] = merged
            group = merged
    return {name: tuple(sorted(group)) for name, group in groups.items()}


def quantize_graph(proto: Any, ranges: Mapping[str, float]) -> Any:
    """A copy of the float32 ModelProto ``proto`` with Q/DQ pairs.

    ``ranges``: for each name of ``scale_groups`` the largest absolute value to be told apart;
    within a group the largest counts.
    """
    import onnx
    from onnx import helper, numpy_helper

    groups = scale_groups(proto)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: list[Any] = [numpy_helper.from_array(np.zeros((), np.int8), "zero")]
    nodes: list[Any] = []

    def pair(name: str) -> None:
        bound = max(ranges[member] for member in groups[name])
        scale = np.float32((bound or 1.0) / _LEVELS)  # all zero: any scale will do
        made.append(numpy_helper.from_array(np.array(scale), f"{name}_scale"))
        ends = [f"{name}_scale", "zero"]
        nodes.extend(
            [
                helper.make_node(
                    "QuantizeLinear", [name, *ends], [f"{name}_int8"], name=f"quantize_{name}"
                ),
                helper.make_node(
                    "DequantizeLinear", [f"{name}_int8", *ends], [f"{name}_dq"],
                    name=f"dequantize_{name}",
                ),
            ]
        )  # fmt: skip

    for given in graph.input:
        if given.name in groups:
            pair(given.name)
    for node in list(graph.node):
        node.input[:] = [f"{name}_dq" if name in groups else name for name in node.input]
        if node.op_type in _PRODUCTS:
            nodes.append(_int8_weight(weights[node.input[1]], made))
            node.input[1] += "_dq"
        nodes.append(node)
        for name in node.output:
            if name in groups:
                pair(name)
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [tensor for tensor in graph.initializer if f"{tensor.name}_int8" not in
            {tensor.name for tensor in made}]  # fmt: skip
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made])
    del graph.value_info[:]
    return model


def _int8_weight(weight: Any, made: list[Any]) -> Any:
    """Append int8 values, scales and zero points of ``weight`` [out, ...]; its DequantizeLinear."""
    from onnx import helper, numpy_helper

    values = numpy_helper.to_array(weight)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scales = (np.where(largest > 0, largest, 1.0) / _LEVELS).astype(np.float32)
    column = scales.reshape(-1, *[1] * (values.ndim - 1))
    whole = np.clip(np.rint(values / column), -_LEVELS, _LEVELS).astype(np.int8)
    zeros = np.zeros(len(values), np.int8)
    names = [f"{weight.name}{end}" for end in ("_int8", "_scales", "_zeros")]
    made.extend(map(numpy_helper.from_array, (whole, scales, zeros), names))
    return helper.make_node(
        "DequantizeLinear", names, [f"{weight.name}_dq"], name=f"dequantize_{weight.name}", axis=0
    )
