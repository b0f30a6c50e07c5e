"""A float32 graph in half precision: fp16 or bf16 throughout, float32 at both ends.

The graph is strongly typed, as TensorRT asks: weights and every value between two Casts are half
precision, and no flag elsewhere decides about them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.choices import HALVES
from hgnetv2_pipeline.deployment.export.onnx_graph import EMBEDDING, FLOAT32_ENDS, OPSET_OF_AXES
from hgnetv2_pipeline.errors import ParameterError, WeightsError

OPSET_OF_BF16 = 22
"""ONNX types Conv, MaxPool and GlobalAveragePool in bfloat16 from this opset on."""
_AXES = ("ReduceMean", "axes")
_FP16_MAX = float(np.finfo(np.float16).max)


def to_half(proto: Any, precision: str) -> Any:
    """A copy of the ModelProto ``proto``, one of our own graphs, in ``precision`` fp16 or bf16.

    Input and output stay float32. fp16 keeps the opset; bf16 raises it to ``OPSET_OF_BF16``.
    Raises WeightsError for weights that fp16 cannot hold.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if precision not in HALVES:
        raise ParameterError(f"precision {precision!r} is none of {', '.join(HALVES)}")
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    largest = np.nextafter(dtype.type(np.inf), dtype.type(0))
    ends = dict(zip(FLOAT32_ENDS, (-largest, largest), strict=True))
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    graph = half.graph
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = np.asarray(ends.get(tensor.name, numpy_helper.to_array(tensor)))
        if kind == TensorProto.FLOAT16 and np.abs(values).max(initial=0) > _FP16_MAX:
            raise WeightsError(
                f"{tensor.name} holds {np.abs(values).max():.3g}; fp16 ends at {_FP16_MAX:g}: "
                "export as bf16 or fp32"
            )
        tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))
    del graph.value_info[:]
    start, end = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.input[:] = ["images_half" if name == start else name for name in node.input]
        node.output[:] = ["logits_half" if name == end else name for name in node.output]
    graph.node.insert(
        0, helper.make_node("Cast", [start], ["images_half"], name="to_half", to=kind)
    )
    # Behind the graph's own last node: a softmax computes in float32.
    place = 1 + next(i for i, node in enumerate(graph.node) if "logits_half" in node.output)
    graph.node.insert(
        place,
        helper.make_node("Cast", ["logits_half"], [end], name="to_float32", to=TensorProto.FLOAT),
    )
    for output in graph.output:
        if output.name == EMBEDDING:  # its last node gives half precision too
            last = next(node for node in graph.node if EMBEDDING in node.output)
            last.output[:] = [f"{EMBEDDING}_half"]
            graph.node.append(
                helper.make_node(
                    "Cast", last.output, [EMBEDDING], name=f"{EMBEDDING}_to_float32",
                    to=TensorProto.FLOAT,
                )
            )  # fmt: skip
    if precision == "bf16":
        _axes_as_input(graph, half.opset_import[0].version)
        del half.opset_import[:]
        half.opset_import.append(helper.make_opsetid("", OPSET_OF_BF16))
        half.ir_version = helper.find_min_ir_version_for(list(half.opset_import))
    return half


def _axes_as_input(graph: Any, opset: int) -> None:
    """ReduceMean as later opsets write it."""
    from onnx import numpy_helper

    if opset >= OPSET_OF_AXES:
        return
    for node in graph.node:
        for attribute in [a for a in node.attribute if (node.op_type, a.name) == _AXES]:
            name = f"{node.name}_axes"
            graph.initializer.append(
                numpy_helper.from_array(np.array(attribute.ints, np.int64), name)
            )
            node.input.append(name)
            node.attribute.remove(attribute)


def round_in_float32(proto: Any) -> Any:
    """A float32 graph that rounds where the half-precision graph ``proto`` does.

    ONNX Runtime has no bf16 convolution for a CPU. Products summed in float32 and every result
    rounded to bf16 is what hardware with bf16 units computes, and how such a file is judged here.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    graph = wide.graph
    kinds = {tensor.data_type for tensor in graph.initializer} - {
        TensorProto.FLOAT, TensorProto.INT64
    }  # fmt: skip
    (kind,) = kinds
    for tensor in graph.initializer:
        if tensor.data_type == kind:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name == "to_half":
            source, name = node.input[0], node.output[0]
        elif node.name.endswith("to_float32"):
            graph.node.append(helper.make_node("Identity", node.input, node.output))
            continue
        elif node.op_type == "Softmax":
            graph.node.append(node)
            continue
        else:
            name = node.output[0]
            source = f"{name}_exact"
            node.output[:] = [source]
            graph.node.append(node)
        graph.node.extend(
            [
                helper.make_node("Cast", [source], [f"{name}_short"], to=kind),
                helper.make_node("Cast", [f"{name}_short"], [name], to=TensorProto.FLOAT),
            ]
        )
    # Only Casts are in bf16 now, which every opset since 13 knows.
    del wide.opset_import[:]
    wide.opset_import.append(helper.make_opsetid("", 18))
    wide.ir_version = helper.find_min_ir_version_for(list(wide.opset_import))
    return wide
