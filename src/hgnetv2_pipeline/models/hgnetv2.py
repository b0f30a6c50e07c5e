"""PP-HGNetV2 B0-B6: from images [N, 3, H, W] to logits [N, classes], or to four feature maps.

The seven sizes are seven rows of ``VARIANTS``; everything else follows from them. Attribute names
are PaddleClas's (``stem.stem1.conv``, ``stages.0.blocks.0.layers.0.conv``, ``last_conv``, ``fc``),
so importing its weights is a rename of the BN statistics and a transpose of ``fc``.
Source: PaddleClas ppcls/arch/backbone/legendary_models/pp_hgnet_v2.py; checked against its numbers
in tests/golden.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.models import fast_training
from hgnetv2_pipeline.variants import Four, PoolPadding, Variant

EXPAND = 2048  # channels of last_conv, in every size


class LearnableAffine(nn.Module):
    """LAB: one learned scale and one learned bias for a whole feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class ConvBNAct(nn.Module):
    """Convolution without bias, batch norm, and (``act``) ReLU, followed by LAB where asked.

    A 2x2 kernel is padded as Paddle's 'SAME' does: one zero row below, one zero column right.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        lab: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()
        self.lab = LearnableAffine() if act and lab else nn.Identity()
        self.same_pad = kernel % 2 == 0

    def forward(self, x: Tensor) -> Tensor:
        if self.same_pad:
            x = F.pad(x, (0, 1, 0, 1))
        x = fast_training.convolve(self.conv, x)
        if self._fusable() and fast_training.is_recording(x, self.bn, self.act, self.lab):
            return fast_training.batch_norm_relu_lab(x, self.bn, self.lab.scale, self.lab.bias)
        x = self.bn(x)
        if type(self.act) is nn.ReLU and fast_training.is_recording(x, self.act):
            return self.lab(fast_training.relu(x))
        return self.lab(self.act(x))

    def _fusable(self) -> bool:
        bn = self.bn
        return (
            type(self.lab) is LearnableAffine
            and type(self.act) is nn.ReLU
            and type(bn) is nn.BatchNorm2d
            and bn.affine
            and bn.track_running_stats
            and bn.momentum is not None
        )


class LightConvBNAct(nn.Module):
    """A 1x1 convolution without activation, then a depthwise one with it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, lab: bool) -> None:
        super().__init__()
        self.conv1 = ConvBNAct(inputs, outputs, 1, act=False)
        self.conv2 = ConvBNAct(outputs, outputs, kernel, groups=outputs, lab=lab)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class SamePool(nn.Module):
    """Max-pool 2x2, stride 1, output as large as the input.

    Paddle leaves the pad out of the maximum. timm and D-FINE count it as zero, which differs
    wherever a whole border window is negative, as it can be after LAB; ``zero`` is for weights
    trained there.
    """

    def __init__(self, padding: PoolPadding) -> None:
        super().__init__()
        if padding not in ("exclude", "zero"):
            raise unknown_name(
                "pool_padding", padding, ("exclude", "zero"), "create_model(pool_padding=...)"
            )
        self.pad_value = float("-inf") if padding == "exclude" else 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = fast_training.same_max_pool(x) if self.training and self.pad_value < 0 else None
        if y is None:
            y = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=self.pad_value), 2, stride=1)
        return y


class Stem(nn.Module):
    """Image to a quarter of its height and width."""

    def __init__(self, middle: int, outputs: int, *, lab: bool, pool_padding: PoolPadding) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(3, middle, 3, stride=2, lab=lab)
        self.stem2a = ConvBNAct(middle, middle // 2, 2, lab=lab)
        self.stem2b = ConvBNAct(middle // 2, middle, 2, lab=lab)
        self.stem3 = ConvBNAct(middle * 2, middle, 3, stride=2, lab=lab)
        self.stem4 = ConvBNAct(middle, outputs, 1, lab=lab)
        self.pool = SamePool(pool_padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)
        x = fast_training.concatenate([self.pool(x), self.stem2b(self.stem2a(x))])
        return self.stem4(self.stem3(x))


class HGV2Block(nn.Module):
    """``layers`` convolutions, all their outputs joined with the input, squeezed and excited."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        layers: int,
        *,
        light: bool,
        residual: bool,
        lab: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for index in range(layers):
            before = middle if index else inputs
            self.layers.append(
                LightConvBNAct(before, middle, 5, lab=lab)
                if light
                else ConvBNAct(before, middle, 3, lab=lab)
            )
        total = inputs + layers * middle
        self.aggregation_squeeze_conv = ConvBNAct(total, outputs // 2, 1, lab=lab)
        self.aggregation_excitation_conv = ConvBNAct(outputs // 2, outputs, 1, lab=lab)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.aggregation_squeeze_conv(fast_training.concatenate(outputs))
        y = self.aggregation_excitation_conv(y)
        return y + x if self.residual else y


class Stage(nn.Module):
    """Blocks at one resolution, after a depthwise convolution that halves it (not in the first)."""

    def __init__(self, inputs: int, blocks: Iterable[nn.Module], *, downsample: bool) -> None:
        super().__init__()
        self.downsample = (
            ConvBNAct(inputs, inputs, 3, stride=2, groups=inputs, act=False)
            if downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class DownscaleInInfer(nn.Module):
    """Paddle's dropout mode of that name: mask only in training, times (1 - p) in inference."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ParameterError(f"dropout {p!r} is not in [0, 1) (create_model(dropout=...))")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        # torch's dropout divides what it keeps by (1 - p), so one factor serves both modes.
        return F.dropout(x, self.p, self.training) * (1 - self.p) if self.p else x


class Trunk(nn.Module):
    """A stem (to 1/4) and its stages (to 1/32): everything before the classifier.

    ``feature_channels`` and ``feature_strides`` tell, stage by stage, what ``features`` gives.
    """

    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def features(self, x: Tensor, out_indices: Iterable[int] = (0, 1, 2, 3)) -> list[Tensor]:
        """Outputs of the stages named in ``out_indices``, shallow first: [N, C_i, H/s_i, W/s_i].

        Channels C_i and strides s_i are in ``feature_channels`` and ``feature_strides``; sizes that
        the stride does not divide are rounded up. Stages beyond the deepest one asked for are not
        run.
        """
        wanted = check_out_indices(out_indices, len(self.stages))
        x = self.stem(x)
        outputs = []
        for index in range(wanted[-1] + 1):
            x = self.stages[index](x)
            if index in wanted:
                outputs.append(x)
        return outputs


def check_out_indices(given: Iterable[int], stages: int) -> tuple[int, ...]:
    """``given`` without repeats and in order, if it names some of the stages."""
    wanted = set(given)
    if not wanted or not wanted <= set(range(stages)):
        raise ParameterError(
            f"out_indices {sorted(wanted, key=str)} must be some of "
            f"{', '.join(map(str, range(stages)))} (features(out_indices=))"
        )
    return tuple(sorted(wanted))


class Backbone(Trunk):
    """What both generations share: the trunk, with four stages, and the classifier."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        *,
        out: Four,
        num_classes: int,
        dropout: float,
        lab: bool,
    ) -> None:
        super().__init__(stem, stages)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ParameterError(f"num_classes {num_classes!r} is not a whole number above 0")
        self.last_conv = nn.Conv2d(out[-1], EXPAND, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.lab = LearnableAffine() if lab else nn.Identity()
        self.dropout = DownscaleInInfer(dropout)
        self.fc = nn.Linear(EXPAND, num_classes)
        self.variant = ""  # set by create_model
        self.num_classes = num_classes
        self.feature_channels = tuple(out)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Paddle's fan-in; timm's fan-out would start depthwise layers far too large.
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.reset_head()

    def reset_head(self) -> None:
        """Give ``fc`` fresh weights: Xavier uniform, bias 0."""
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, 3, H, W], H and W at least 32."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        x = fast_training.convolve(self.last_conv, x.mean((2, 3), keepdim=True))
        return self.fc(self.dropout(self.lab(self.act(x))).flatten(1))


class HGNetV2(Backbone):
    """PP-HGNetV2 of the size that ``variant`` describes."""

    def __init__(
        self,
        variant: Variant,
        num_classes: int,
        *,
        dropout: float = 0.0,
        pool_padding: PoolPadding = "exclude",
    ) -> None:
        lab = variant.lab
        stages = []
        inputs = variant.stem[1]
        for index, (mid, out, depth) in enumerate(
            zip(variant.mid, variant.out, variant.depths, strict=True)
        ):
            light = index >= 2
            blocks = [
                HGV2Block(
                    out if i else inputs, mid, out, variant.layers,
                    light=light, residual=i > 0, lab=lab,
                )
                for i in range(depth)
            ]  # fmt: skip
            stages.append(Stage(inputs, blocks, downsample=index > 0))
            inputs = out
        super().__init__(
            Stem(*variant.stem, lab=lab, pool_padding=pool_padding),
            stages,
            out=variant.out,
            num_classes=num_classes,
            dropout=dropout,
            lab=lab,
        )
