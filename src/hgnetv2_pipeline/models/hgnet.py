"""PPHGNet (the first generation), tiny, small and base: the teachers PaddleClas distils from.

Source: PaddleClas ppcls/arch/backbone/legendary_models/pp_hgnet.py, whose attribute names are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hgnetv2_pipeline.models.hgnetv2 import Backbone, ConvBNAct, Joining, Stage
from hgnetv2_pipeline.variants import HGNetSize


class ChannelAttention(nn.Module):
    """Every channel times the sigmoid of a 1x1 convolution of the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))


class HGBlock(Joining):
    """``layers`` 3x3 convolutions, all their outputs joined with the input, then attention."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, layers: int, *, residual: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvBNAct(middle if i else inputs, middle, 3) for i in range(layers)
        )
        self.aggregation_conv = ConvBNAct(inputs + layers * middle, outputs, 1)
        self.att = ChannelAttention(outputs)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.att(self.aggregation_conv(self.join(outputs)))
        return y + x if self.residual else y


class HGNet(Backbone):
    """PPHGNet of the size that ``teacher`` describes."""

    def __init__(
        self,
        teacher: HGNetSize,
        num_classes: int,
        *,
        dropout: float | None = None,
        in_chans: int = 3,
    ) -> None:
        first, second, third = teacher.stem
        stem = nn.Sequential(
            ConvBNAct(in_chans, first, 3, stride=2),
            ConvBNAct(first, second, 3),
            ConvBNAct(second, third, 3),
            # No parameters, so it does not show among Paddle's names. Inputs are never negative
            # here: what the pad counts as makes no difference.
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages = []
        inputs = third
        for index, (mid, out, depth) in enumerate(
            zip(teacher.mid, teacher.out, teacher.depths, strict=True)
        ):
            blocks = [
                HGBlock(out if i else inputs, mid, out, teacher.layers, residual=i > 0)
                for i in range(depth)
            ]
            stages.append(Stage(inputs, blocks, downsample=index > 0))
            inputs = out
        super().__init__(
            stem,
            stages,
            out=teacher.out,
            num_classes=num_classes,
            dropout=teacher.dropout if dropout is None else dropout,
            lab=False,
        )
