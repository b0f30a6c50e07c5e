"""What a network costs: parameters and multiply-accumulates, measured by running it on no data."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hgnetv2_pipeline.variants import ImageSize, height_and_width


@dataclass(frozen=True)
class Cost:
    """Parameters, frozen or not; of one image, and of convolutions and fc only, the
    multiply-accumulates and the values that these read and write besides their weights.
    """

    params: int
    macs: int
    activations: int


def measure_cost(model: nn.Module, image_size: ImageSize = 224) -> Cost:
    """Count for one image of ``image_size``; ``model`` itself is not touched.

    Additions, pooling, normalisation and activations are not counted, as is usual for GMACs.
    """
    macs = activations = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal macs, activations
        activations += inputs[0].numel() + output.numel()
        # Every output value of either layer takes one multiplication for each weight of its row.
        macs += output.numel() * math.prod(module.weight.shape[1:])

    ghost = copy.deepcopy(model).to("meta").eval()
    for module in ghost.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        edges = height_and_width(image_size)
        ghost(torch.empty(1, getattr(model, "in_chans", 3), *edges, device="meta"))
    return Cost(sum(p.numel() for p in model.parameters()), macs, activations)
