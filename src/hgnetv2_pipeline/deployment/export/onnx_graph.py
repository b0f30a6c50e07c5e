"""A small builder of ONNX graphs: opsets, the batch axis, one method per operator, tensors by name.

Only what the HGNet family needs; each method returns the name of its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hgnetv2_pipeline.variants import ImageSize, height_and_width

OPSET, OPSETS = 18, range(13, 21)
OPSET_OF_AXES = 18
"""ReduceMean takes its axes as an input from this opset on, as an attribute before."""
FLOAT32_ENDS = {"lowest": np.finfo(np.float32).min, "highest": np.finfo(np.float32).max}
"""Names and values of the bounds that bound nothing."""
BATCH, EMBEDDING = "batch", "embedding"
PRODUCER = "hgnetv2_pipeline"
Probabilities = Literal["softmax", "sigmoid"] | None
"""How probabilities are made of logits: over the classes, or of each by itself."""


class GraphBuilder:
    """Collects nodes and initialisers; ``finish`` makes the model.

    ``pads`` are (top, left, bottom, right): ONNX, unlike ``torch.nn.Conv2d``, takes four. The
    operators used mean the same in every one of ``OPSETS``.
    """

    def __init__(self, opset: int = OPSET) -> None:
        self._opset = opset
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        from onnx import helper

        number = sum(node.op_type == kind for node in self._nodes)
        name = f"{kind.lower()}_{number}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """An initialiser; the same name stands for the same value."""
        self._constants[name] = value
        return name

    def conv(
        self,
        x: str,
        name: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        stride: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
        groups: int = 1,
    ) -> str:
        """Convolution with float32 ``weight`` [out, in / groups, kh, kw] and ``bias`` [out]."""
        inputs = self._with_constants(x, name, weight, bias)
        return self._node(
            "Conv", inputs, kernel_shape=list(weight.shape[2:]), strides=list(stride),
            pads=list(pads), group=groups, dilations=[1, 1],
        )  # fmt: skip

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        """``max(x, low)``, ``min(x, high)`` or both; nothing for neither, Relu for (0, None).

        A Clip has both bounds, the missing one at the end of its type, which is what ONNX takes a
        missing one for. TensorRT's parser makes two layers of a Clip without the lower one, and
        its builder takes float32's end for the upper one, which fp16 and bf16 do not hold.
        """
        if low is None and high is None:
            return x
        if low == 0 and high is None:
            return self._node("Relu", [x])
        bounds = []
        for bound, (end, value) in zip((low, high), FLOAT32_ENDS.items(), strict=True):
            number = value if bound is None else np.float32(bound)
            name = end if bound is None else f"bound_{number!s}"
            bounds.append(self.constant(name, np.array(number)))
        return self._node("Clip", [x, *bounds])

    def affine(self, x: str, name: str, scale: np.ndarray, bias: np.ndarray) -> str:
        """``x * scale + bias``, one number each."""
        scaled = self._node("Mul", [x, self.constant(f"{name}.scale", scale)])
        return self._node("Add", [scaled, self.constant(f"{name}.bias", bias)])

    def max_pool(
        self, x: str, kernel: int, *, stride: int = 1, pads: Sequence[int] = (0, 0, 0, 0)
    ) -> str:
        """Max-pool; the pad never wins the maximum."""
        return self._node(
            "MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=list(pads)
        )

    def pad_zero(self, x: str, pads: Sequence[int]) -> str:
        """Zeros around height and width."""
        top, left, bottom, right = pads
        amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return self._node("Pad", [x, self.constant(f"pads_{top}{left}{bottom}{right}", amounts)])

    def concat(self, parts: Sequence[str]) -> str:
        """Join along the channels."""
        return self._node("Concat", parts, axis=1)

    def add(self, x: str, y: str) -> str:
        """Element by element."""
        return self._node("Add", [x, y])

    def multiply(self, x: str, y: str) -> str:
        """Element by element, with broadcasting."""
        return self._node("Mul", [x, y])

    def sigmoid(self, x: str) -> str:
        """Element by element."""
        return self._node("Sigmoid", [x])

    def mean(self, x: str) -> str:
        """[N, C, H, W] to [N, C, 1, 1]."""
        return self._node("GlobalAveragePool", [x])

    def pooled(self, x: str) -> str:
        """[N, C, H, W] to the mean of each map, [N, C]."""
        if self._opset < OPSET_OF_AXES:
            return self._node("ReduceMean", [x], axes=[2, 3], keepdims=0)
        axes = self.constant("height_and_width", np.array([2, 3], np.int64))
        return self._node("ReduceMean", [x, axes], keepdims=0)

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """``x @ weight.T + bias`` with ``weight`` [out, in] as PyTorch keeps it."""
        return self._node("Gemm", self._with_constants(x, name, weight, bias), transB=1)

    def _with_constants(
        self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None
    ) -> list[str]:
        inputs = [x, self.constant(f"{name}.weight", weight)]
        return inputs if bias is None else [*inputs, self.constant(f"{name}.bias", bias)]

    def copy(self, x: str) -> str:
        """The same values under a name of their own."""
        return self._node("Identity", [x])

    def finish(
        self,
        output: str,
        *,
        image_size: ImageSize,
        classes: int,
        probabilities: Probabilities = None,
        embedding: tuple[str, int] | None = None,
    ) -> Any:
        """The ModelProto: ``images`` [batch, 3, H, W] in, ``logits`` [batch, classes] out.

        ``probabilities``: by what a second output of the same shape is made, if there is one;
        ``embedding``: what becomes the last output, ``embedding``, and its width.
        """
        from onnx import TensorProto, helper, numpy_helper

        names = {output: "logits"} | ({embedding[0]: EMBEDDING} if embedding else {})
        for node in self._nodes:
            node.output[:] = [names.get(name, name) for name in node.output]
        widths = {"logits": classes}
        if probabilities is not None:
            kind = probabilities.capitalize()
            axis = {"axis": 1} if probabilities == "softmax" else {}
            self._nodes.append(
                helper.make_node(kind, ["logits"], ["probabilities"], name=probabilities, **axis)
            )
            widths["probabilities"] = classes
        if embedding is not None:
            widths[EMBEDDING] = embedding[1]
        graph = helper.make_graph(
            self._nodes,
            "hgnet",
            [
                helper.make_tensor_value_info(
                    "images", TensorProto.FLOAT, [BATCH, 3, *height_and_width(image_size)]
                )
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width])
                for name, width in widths.items()
            ],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", self._opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name=PRODUCER,
        )
