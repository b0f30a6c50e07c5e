"""A network as an ExecuTorch program: folded, quantised if asked, all of it given to XNNPACK.

XNNPACK fuses a bound into the convolution before it where it is a ReLU or a ``hardtanh``, so LAB's
bounds are written as the latter, and the quantiser is told to leave convolution and bound together:
int8 between the two would end where the convolution does and not at the bound.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer_utils import QuantizationConfig
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torchao.quantization.pt2e import MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from hgnetv2_pipeline.deployment.export.calibration import BINS, few, percentile_end
from hgnetv2_pipeline.deployment.export.onnx_graph import BATCH, FLOAT32_ENDS
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.models.fold import Clip, reparameterize
from hgnetv2_pipeline.variants import ImageSize, height_and_width

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.export.calibration import Batches

_log = logging.getLogger(__name__)
_OPS = torch.ops.aten
_BOUNDS = (_OPS.relu.default, _OPS.relu_.default, _OPS.hardtanh.default)


def fold_for_devices(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in inference mode, folded, with every bound of LAB as a ``Hardtanh``."""
    folded = reparameterize(model, "clip").cpu().float()
    for parent in list(folded.modules()):
        for name, bound in list(parent.named_children()):
            if isinstance(bound, Clip):
                low = float(FLOAT32_ENDS["lowest"]) if bound.low is None else bound.low
                high = float(FLOAT32_ENDS["highest"]) if bound.high is None else bound.high
                setattr(parent, name, nn.Hardtanh(low, high))
    return folded


def lower(module: nn.Module, image_size: ImageSize, batch: int) -> bytes:
    """The ``.pte`` program: float32 images [batch, 3, H, W] -> logits [batch, classes]."""
    sample = torch.zeros(batch, 3, *height_and_width(image_size))
    program = torch.export.export(module, (sample,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    calls = [str(node.target) for node in edge.exported_program().graph.nodes if node.args]
    parts = sum("executorch_call_delegate" in call for call in calls)
    if parts != 1:
        _log.warning("XNNPACK takes the network in %d parts: the program is slower for it", parts)
    return bytes(edge.to_executorch().buffer)


def quantize_for_xnnpack(
    folded: nn.Module,
    image_size: ImageSize,
    batches: Batches,
    *,
    method: str,
    percentile: float = 99.99,
) -> nn.Module:
    """``folded`` with quantise/dequantise pairs (PT2E): weights int8 by channel, activations int8.

    ``batches`` and ``method`` as in ``activation_ranges``, but that an activation has both its ends
    (a zero point), and ``percentile`` is the largest of those of eight images at a time. Raises
    DataError when there are no images.
    """
    sample = torch.zeros(2, 3, *height_and_width(image_size))
    program = torch.export.export(folded, (sample,), dynamic_shapes=({0: torch.export.Dim(BATCH)},))
    share = 100.0 if method == "max" else percentile
    prepared: Any = prepare_pt2e(program.module(), _quantizer(share))
    count = 0
    with torch.inference_mode():
        for images in few(batches):
            count += len(images)
            prepared(torch.from_numpy(images))
    if not count:
        raise DataError("INT8 needs images to calibrate on, and none was given")
    converted: nn.Module = convert_pt2e(prepared)
    return converted


def module_logits(module: nn.Module) -> Any:
    """The logits of ``module`` as a function of float32 images [N, 3, H, W]."""

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return logits


class _Percentile(MinMaxObserver):
    """The range without the largest absolute values; 100: all of it."""

    def __init__(self, *, percentile: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._percentile = percentile

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        sizes = given.detach().abs()
        largest = float(sizes.max())
        counts = torch.histc(sizes, BINS, 0, largest or 1.0).numpy()
        end = largest * percentile_end(counts, self._percentile)
        super().forward(given.clamp(-end, end))
        return given


class _FusedBounds(XNNPACKQuantizer):
    """XNNPACK's quantiser, which knows convolution and ReLU as one, for any bound."""

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        config = self.global_config
        for bound in model.graph.nodes:
            conv = bound.args[0] if bound.target in _BOUNDS else None
            if conv is None or conv.target != _OPS.conv2d.default or len(conv.users) > 1:
                continue
            taken, weight, *bias = conv.args[:3]
            conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                input_qspec_map={taken: config.input_activation, weight: config.weight},
                _annotated=True,
            )
            bound.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                output_qspec=config.output_activation, _annotated=True
            )
        return super().annotate(model)


def _quantizer(percentile: float) -> XNNPACKQuantizer:
    default = get_symmetric_quantization_config(is_per_channel=True)
    activation = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=_Percentile.with_args(percentile=percentile, eps=2**-12),
    )
    config = QuantizationConfig(activation, activation, default.weight, default.bias, False)
    # The classifier's input is rounded image by image, so that its logits need not be.
    dynamic = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    return _FusedBounds().set_global(config).set_operator_type(_OPS.linear.default, dynamic)
