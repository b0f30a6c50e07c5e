"""Write HGNetV2 and PPHGNet as ONNX straight from the modules, everything folded.

``torch.onnx.export`` cannot say what the graph should be: the 2x2 convolutions and the stem's
pool carry their one-sided pads themselves, BN and LAB are inside the convolutions, and a ReLU
followed by LAB is one Clip. B0 is 85 nodes: 43 Conv, 31 Clip, 6 Concat, MaxPool, Add,
GlobalAveragePool, Flatten, Gemm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hgnetv2_pipeline.deployment.onnx_graph import GraphBuilder
from hgnetv2_pipeline.models import hgnet, hgnetv2


def hgnet_to_onnx(model: hgnetv2.Backbone, image_size: int) -> Any:
    """The ONNX ModelProto of an HGNetV2 or PPHGNet in inference mode: images to logits."""
    graph = GraphBuilder()
    x = _stem(graph, "images", model.stem)
    for number, stage in enumerate(model.stages):
        x = _stage(graph, x, f"stages.{number}", stage)
    x = graph.mean(x)
    conv = model.last_conv
    weight, bias, low, high = _with_affine(_array(conv.weight), np.zeros(conv.out_channels), model)
    # Without LAB there is no bias to carry.
    x = graph.conv(x, "last_conv", _float32(weight), _float32(bias) if bias.any() else None)
    x = graph.flatten(graph.clip(x, low, high))
    # Paddle's dropout mode scales inference by (1 - p): PPHGNet base has p = 0.2.
    kept = 1 - model.dropout.p
    fc = model.fc
    x = graph.linear(x, "fc", _float32(_array(fc.weight) * kept), _float32(_array(fc.bias)))
    return graph.finish(x, image_size=image_size, classes=fc.out_features)


def _stem(graph: GraphBuilder, x: str, stem: nn.Module) -> str:
    if isinstance(stem, hgnetv2.Stem):
        x = _conv_bn_act(graph, x, "stem.stem1", stem.stem1)
        pooled = _same_pool(graph, x, stem.pool)
        x = _conv_bn_act(graph, x, "stem.stem2a", stem.stem2a)
        x = _conv_bn_act(graph, x, "stem.stem2b", stem.stem2b)
        x = _conv_bn_act(graph, graph.concat([pooled, x]), "stem.stem3", stem.stem3)
        return _conv_bn_act(graph, x, "stem.stem4", stem.stem4)
    for number, layer in enumerate(stem):
        if isinstance(layer, nn.MaxPool2d):
            x = graph.max_pool(x, 3, stride=2, pads=(1, 1, 1, 1))
        else:
            x = _conv_bn_act(graph, x, f"stem.{number}", layer)
    return x


def _same_pool(graph: GraphBuilder, x: str, pool: hgnetv2.SamePool) -> str:
    if pool.pad_value == 0:
        # Weights trained with timm's border: the pad takes part in the maximum.
        return graph.max_pool(graph.pad_zero(x, (0, 0, 1, 1)), 2)
    return graph.max_pool(x, 2, pads=(0, 0, 1, 1))


def _stage(graph: GraphBuilder, x: str, name: str, stage: hgnetv2.Stage) -> str:
    if not isinstance(stage.downsample, nn.Identity):
        x = _conv_bn_act(graph, x, f"{name}.downsample", stage.downsample)
    for number, block in enumerate(stage.blocks):
        x = _block(graph, x, f"{name}.blocks.{number}", block)
    return x


def _block(graph: GraphBuilder, x: str, name: str, block: hgnetv2.Block | hgnet.Block) -> str:
    parts = [x]
    for number, layer in enumerate(block.layers):  # type: ignore[arg-type]
        part, place = parts[-1], f"{name}.layers.{number}"
        if isinstance(layer, hgnetv2.LightConvBNAct):
            part = _conv_bn_act(graph, part, f"{place}.conv1", layer.conv1)
            parts.append(_conv_bn_act(graph, part, f"{place}.conv2", layer.conv2))
        else:
            parts.append(_conv_bn_act(graph, part, place, layer))
    y = graph.concat(parts)
    if isinstance(block, hgnetv2.Block):
        for part in ("aggregation_squeeze_conv", "aggregation_excitation_conv"):
            y = _conv_bn_act(graph, y, f"{name}.{part}", getattr(block, part))
    else:
        y = _conv_bn_act(graph, y, f"{name}.aggregation_conv", block.aggregation_conv)
        gate = block.att.conv
        weight, bias = _float32(_array(gate.weight)), _float32(_array(gate.bias))
        gated = graph.sigmoid(graph.conv(graph.mean(y), f"{name}.att.conv", weight, bias))
        y = graph.multiply(y, gated)
    return graph.add(y, x) if block.residual else y


def _conv_bn_act(graph: GraphBuilder, x: str, name: str, module: hgnetv2.ConvBNAct) -> str:
    """One Conv, and one Clip or Relu where the module has an activation."""
    conv, bn = module.conv, module.bn
    gain = _array(bn.weight) / np.sqrt(_array(bn.running_var) + bn.eps)
    weight = _array(conv.weight) * gain[:, None, None, None]
    bias = _array(bn.bias) - _array(bn.running_mean) * gain
    low = high = None
    if not isinstance(module.act, nn.Identity):
        weight, bias, low, high = _with_affine(weight, bias, module)
    top, left = conv.padding
    pads = (0, 0, 1, 1) if module.same_pad else (top, left, top, left)
    x = graph.conv(
        x, name, _float32(weight), _float32(bias),
        stride=conv.stride, pads=pads, groups=conv.groups,
    )  # fmt: skip
    return graph.clip(x, low, high)


def _with_affine(
    weight: np.ndarray, bias: np.ndarray, module: Any
) -> tuple[np.ndarray, np.ndarray, float | None, float | None]:
    """``scale * relu(conv) + shift`` as a convolution and a bound: (weight, bias, low, high).

    ``s * max(z, 0) + b`` is ``max(s * z + b, b)`` for s >= 0 and ``min(s * z + b, b)`` for s < 0.
    """
    if isinstance(module.lab, nn.Identity):
        return weight, bias, 0.0, None
    scale, shift = float(_array(module.lab.scale)[0]), float(_array(module.lab.bias)[0])
    bounds = (shift, None) if scale >= 0 else (None, shift)
    return weight * scale, bias * scale + shift, *bounds


def _array(tensor: torch.Tensor) -> np.ndarray:
    """In float64: folding multiplies four factors, and is rounded once at the end."""
    return np.asarray(tensor.detach().cpu().double().numpy())


def _float32(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value, np.float32)
