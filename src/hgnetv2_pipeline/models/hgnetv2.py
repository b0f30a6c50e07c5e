"""PP-HGNetV2 B0-B6: from images [N, 3, H, W] to logits [N, classes], or to four feature maps.

These plain layers are the definition; a training step computes the same in fewer passes
(``fast_layers``).

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
from torch.nn.modules.batchnorm import _NormBase

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.models.recomputation import recompute
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
        return self.lab(self.act(self.bn(self.conv(x))))


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
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=self.pad_value), 2, stride=1)


class Joining(nn.Module):
    """What joins the outputs of several layers along the channels."""

    def join(self, parts: list[Tensor]) -> Tensor:
        """[N, C_i, H, W] each to [N, sum of C_i, H, W]."""
        return torch.cat(parts, dim=1)


class Stem(Joining):
    """Image to a quarter of its height and width."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, lab: bool, pool_padding: PoolPadding
    ) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(inputs, middle, 3, stride=2, lab=lab)
        self.stem2a = ConvBNAct(middle, middle // 2, 2, lab=lab)
        self.stem2b = ConvBNAct(middle // 2, middle, 2, lab=lab)
        self.stem3 = ConvBNAct(middle * 2, middle, 3, stride=2, lab=lab)
        self.stem4 = ConvBNAct(middle, outputs, 1, lab=lab)
        self.pool = SamePool(pool_padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)
        x = self.join([self.pool(x), self.stem2b(self.stem2a(x))])
        return self.stem4(self.stem3(x))


class HGV2Block(Joining):
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
        y = self.aggregation_squeeze_conv(self.join(outputs))
        y = self.aggregation_excitation_conv(y)
        return y + x if self.residual else y


class Stage(nn.Module):
    """Blocks at one resolution, after a depthwise convolution that halves it (not in the first).

    With ``grad_checkpointing`` the backward pass computes each block again (``recompute``).
    """

    def __init__(self, inputs: int, blocks: Iterable[nn.Module], *, downsample: bool) -> None:
        super().__init__()
        self.downsample = (
            ConvBNAct(inputs, inputs, 3, stride=2, groups=inputs, act=False)
            if downsample
            else nn.Identity()
        )
        self.blocks = nn.Sequential(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return recompute(self.blocks, x)
        return self.blocks(x)


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

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.feature_channels: tuple[int, ...] = ()
        self.feature_strides: tuple[int, ...] = ()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training computes the inside of every block again instead of keeping it.

        Less memory for about a third more time; gradients and BN statistics stay the same.
        """
        for stage in self.stages:
            stage.grad_checkpointing = enable

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
    """What both generations share: the trunk, with four stages, and the classifier.

    Attributes and methods that timm's networks have too have timm's names: ``num_features``
    (channels of the last feature map), ``head_hidden_size`` (of an embedding), ``feature_info``,
    ``forward_features``, ``forward_head``, ``reset_classifier``, ``get_classifier``,
    ``no_weight_decay``, ``set_grad_checkpointing``. ``in_chans``: channels of an image.
    """

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
        self.last_conv = nn.Conv2d(out[-1], EXPAND, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.lab = LearnableAffine() if lab else nn.Identity()
        self.dropout = DownscaleInInfer(dropout)
        self.fc: nn.Module = _classifier(num_classes)
        self.variant = ""  # set by create_model
        self.num_classes = num_classes
        self.in_chans = self.stem.get_submodule(first_convolution(self.stem)).in_channels
        self.num_features, self.head_hidden_size = out[-1], EXPAND
        self.feature_channels = tuple(out)
        self.feature_strides = (4, 8, 16, 32)
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"stages.{index}"}
            for index, (channels, stride) in enumerate(zip(out, self.feature_strides, strict=True))
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Paddle's fan-in; timm's fan-out would start depthwise layers far too large.
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.reset_head()

    def reset_head(self) -> None:
        """Give ``fc`` fresh weights: Xavier uniform, bias 0."""
        if isinstance(self.fc, nn.Linear):
            nn.init.xavier_uniform_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh ``fc`` for so many classes; 0: none, the network then gives embeddings."""
        fresh = _classifier(num_classes).to(self.last_conv.weight)
        self.fc, self.num_classes = fresh.train(self.training), num_classes
        self.reset_head()

    def get_classifier(self) -> nn.Module:
        """``fc``: a linear layer, or an identity without classes."""
        return self.fc

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the published recipes do not decay: all of batch norms."""
        return {
            f"{place}.{name}"
            for place, module in self.named_modules()
            if isinstance(module, _NormBase)
            for name, _ in module.named_parameters(recurse=False)
        }

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, [N, num_features, H/32, W/32]."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a feature map; with ``pre_logits``, or without classes, its embedding."""
        x = self.last_conv(x.mean((2, 3), keepdim=True))
        x = self.lab(self.act(x)).flatten(1)
        if pre_logits or self.num_classes == 0:
            return x
        return self.fc(self.dropout(x))

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings [N, 2048]: what the classifier sees of each image, before its dropout."""
        return self.forward_head(self.forward_features(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of normalised images [N, in_chans, H, W], H and W at least 32.

        Without classes: embeddings.
        """
        return self.forward_head(self.forward_features(x))


def _classifier(num_classes: int) -> nn.Module:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise ParameterError(
            f"num_classes {num_classes!r} is not a whole number from 0 on (0: embeddings)"
        )
    return nn.Linear(EXPAND, num_classes) if num_classes else nn.Identity()


def first_convolution(network: nn.Module) -> str:
    """The name, inside ``network``, of the convolution that takes its input."""
    found = (name for name, each in network.named_modules() if isinstance(each, nn.Conv2d))
    return str(next(found))


class HGNetV2(Backbone):
    """PP-HGNetV2 of the size that ``variant`` describes."""

    def __init__(
        self,
        variant: Variant,
        num_classes: int,
        *,
        dropout: float = 0.0,
        pool_padding: PoolPadding = "exclude",
        in_chans: int = 3,
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
            Stem(in_chans, *variant.stem, lab=lab, pool_padding=pool_padding),
            stages,
            out=variant.out,
            num_classes=num_classes,
            dropout=dropout,
            lab=lab,
        )
