"""Write HGNetV2 and PPHGNet as ONNX straight from the reparameterised modules.

``torch.onnx.export`` cannot say what the graph should be: PyTorch's layers have no one-sided pads,
which ONNX's Conv and MaxPool carry themselves, and what ``models.reparameterize`` folds stays one
Conv and one Relu or Clip. B0 is 85 nodes: 43 Conv, 19 Relu, 12 Clip, 5 Concat, 2 Add, MaxPool,
ReduceMean, 2 Gemm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hgnetv2_pipeline.deployment.export.onnx_graph import OPSET, GraphBuilder, Probabilities
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import hgnetv2
from hgnetv2_pipeline.models.fold import Clip, FoldedConv, reparameterize
from hgnetv2_pipeline.variants import ImageSize, Lab


def hgnet_to_onnx(
    model: hgnetv2.Backbone,
    image_size: ImageSize,
    *,
    opset: int = OPSET,
    lab: Lab = "relu",
    probabilities: Probabilities = None,
    embedding: bool = False,
) -> Any:
    """The ONNX ModelProto of an HGNetV2 or PPHGNet in inference mode: images to logits.

    ``lab`` as in ``models.reparameterize``; ``probabilities`` and ``embedding`` add an output of
    that name. Raises ParameterError for a network without classes or for other than RGB.
    """
    if model.num_classes == 0 or model.in_chans != 3:
        raise ParameterError(
            f"a network of {model.num_classes} classes for {model.in_chans} channels is not "
            "exported: classes and 3 channels are needed; export.embedding=true gives embeddings "
            "beside the logits"
        )
    folded = reparameterize(model, lab)
    graph = GraphBuilder(opset)
    x = _stem(graph, "images", folded.stem)
    for number, stage in enumerate(folded.stages):
        x = _stage(graph, x, f"stages.{number}", stage)
    head = folded.last_conv
    # A 1x1 convolution of one pixel, written as the matrix product it is: runtimes choose a kernel
    # by the operator, and that for convolutions took four times as long at batch 16.
    weight = _array(head.weight).reshape(head.out_channels, head.in_channels)
    bias = None if head.bias is None else _array(head.bias)
    x = graph.linear(graph.pooled(x), "last_conv", weight, bias)
    x = _activation(graph, x, "head", folded.act)
    logits = graph.linear(x, "fc", _array(folded.fc.weight), _array(folded.fc.bias))
    return graph.finish(
        logits,
        image_size=image_size,
        classes=folded.fc.out_features,
        probabilities=probabilities,
        embedding=(_embedding(graph, x, model, lab), head.out_channels) if embedding else None,
    )


def _embedding(graph: GraphBuilder, x: str, model: hgnetv2.Backbone, lab: Lab) -> str:
    """What ``model.embed`` gives, of what goes into the folded ``fc``."""
    if lab != "clip" and isinstance(model.lab, hgnetv2.LearnableAffine):
        return graph.affine(x, "embedding", _array(model.lab.scale), _array(model.lab.bias))
    return graph.copy(x)


def _stem(graph: GraphBuilder, x: str, stem: nn.Module) -> str:
    if isinstance(stem, hgnetv2.Stem):
        x = _conv(graph, x, "stem.stem1", stem.stem1)
        # stem3 takes pool and stem2b joined, and at this resolution joining costs as much as a
        # convolution. So it becomes the sum of a convolution of each: the first at once, which ends
        # the use of the pool's large map, the second with the sum in its own pass.
        pooled = _half_conv(graph, _same_pool(graph, x, stem.pool), "stem.stem3", stem.stem3, 0)
        x = _conv(graph, x, "stem.stem2a", stem.stem2a)
        x = _conv(graph, x, "stem.stem2b", stem.stem2b)
        x = graph.add(_half_conv(graph, x, "stem.stem3", stem.stem3, 1), pooled)
        x = _activation(graph, x, "stem.stem3", stem.stem3.act)
        return _conv(graph, x, "stem.stem4", stem.stem4)
    for number, layer in enumerate(stem):
        if isinstance(layer, nn.MaxPool2d):
            x = graph.max_pool(x, 3, stride=2, pads=(1, 1, 1, 1))
        else:
            x = _conv(graph, x, f"stem.{number}", layer)
    return x


def _same_pool(graph: GraphBuilder, x: str, pool: hgnetv2.SamePool) -> str:
    if pool.pad_value == 0:
        # Weights trained with timm's border: the pad takes part in the maximum.
        return graph.max_pool(graph.pad_zero(x, (0, 0, 1, 1)), 2)
    return graph.max_pool(x, 2, pads=(0, 0, 1, 1))


def _stage(graph: GraphBuilder, x: str, name: str, stage: hgnetv2.Stage) -> str:
    if not isinstance(stage.downsample, nn.Identity):
        x = _conv(graph, x, f"{name}.downsample", stage.downsample)
    for number, block in enumerate(stage.blocks):
        x = _block(graph, x, f"{name}.blocks.{number}", block)
    return x


def _block(graph: GraphBuilder, x: str, name: str, block: Any) -> str:
    parts = [x]
    for number, layer in enumerate(block.layers):
        part, place = parts[-1], f"{name}.layers.{number}"
        if isinstance(layer, hgnetv2.LightConvBNAct):
            part = _conv(graph, part, f"{place}.conv1", layer.conv1)
            parts.append(_conv(graph, part, f"{place}.conv2", layer.conv2))
        else:
            parts.append(_conv(graph, part, place, layer))
    y = graph.concat(parts)
    if isinstance(block, hgnetv2.HGV2Block):
        for part in ("aggregation_squeeze_conv", "aggregation_excitation_conv"):
            y = _conv(graph, y, f"{name}.{part}", getattr(block, part))
    else:
        y = _conv(graph, y, f"{name}.aggregation_conv", block.aggregation_conv)
        gate = block.att.conv
        weight, bias = _array(gate.weight), _array(gate.bias)
        gated = graph.sigmoid(graph.conv(graph.mean(y), f"{name}.att.conv", weight, bias))
        y = graph.multiply(y, gated)
    return graph.add(y, x) if block.residual else y


def _conv(graph: GraphBuilder, x: str, name: str, module: FoldedConv) -> str:
    """One Conv with its pads, and one Clip or Relu where the module has a bound."""
    conv = module.conv
    top, left = conv.padding
    pads = (0, 0, 1, 1) if module.same_pad else (top, left, top, left)
    x = graph.conv(
        x, name, _array(conv.weight), _array(conv.bias),
        stride=conv.stride, pads=pads, groups=conv.groups,
    )  # fmt: skip
    return _activation(graph, x, name, module.act)


def _half_conv(graph: GraphBuilder, x: str, name: str, module: FoldedConv, half: int) -> str:
    """A convolution of one half of its input channels; its bias goes with the first."""
    conv = module.conv
    top, left = conv.padding
    return graph.conv(
        x, f"{name}.{('first', 'second')[half]}", np.split(_array(conv.weight), 2, axis=1)[half],
        None if half else _array(conv.bias), stride=conv.stride, pads=(top, left, top, left),
    )  # fmt: skip


def _activation(graph: GraphBuilder, x: str, name: str, act: nn.Module) -> str:
    """Nothing, a bound, ReLU, or ReLU and LAB, as ``reparameterize`` left it."""
    if isinstance(act, nn.Identity):
        return x
    if isinstance(act, nn.Sequential):
        relu, lab = act
        x = _activation(graph, x, name, relu)
        return graph.affine(x, f"{name}.lab", _array(lab.scale), _array(lab.bias))
    return graph.clip(x, act.low, act.high) if isinstance(act, Clip) else graph.clip(x, 0.0, None)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().float().cpu().contiguous().numpy())
