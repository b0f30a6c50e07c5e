"""The same network with fewer operations: BN and LAB folded into the convolutions, exactly.

With ``z`` the output of convolution and BN, ``s`` and ``b`` LAB's scale and bias,

    s * relu(z) + b  =  max(s*z + b, b) for s > 0,  min(s*z + b, b) for s < 0,  b for s = 0,

so ``s*z + b`` is the convolution's own affine form and what is left of ReLU and LAB is one bound.
Nothing is pushed through a padding: the pads of Paddle's 'SAME' see the values they always saw.

A compiler that fuses ReLU into convolutions and nothing else (TensorRT may be one) is better served
by the other way: where a LAB feeds nothing but unpadded 1x1 convolutions, the mean or ``fc``, its
scale and bias go forward into those weights, and plain ReLU stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hgnetv2_pipeline.errors import unknown_name
from hgnetv2_pipeline.models.hgnetv2 import (
    Backbone,
    ConvBNAct,
    HGV2Block,
    LearnableAffine,
    LightConvBNAct,
    Stem,
)
from hgnetv2_pipeline.variants import Lab


class Clip(nn.Module):
    """Bounds from below or above; ReLU is the bound 0 from below."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_(self.low, self.high)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class FoldedConv(nn.Module):
    """A convolution with bias and its bound; 2x2 kernels padded below and right, as before."""

    def __init__(self, conv: nn.Conv2d, bound: nn.Module, *, same_pad: bool) -> None:
        super().__init__()
        self.conv, self.act, self.same_pad = conv, bound, same_pad

    def forward(self, x: Tensor) -> Tensor:
        if self.same_pad:
            x = F.pad(x, (0, 1, 0, 1))
        return self.act(self.conv(x))


@torch.no_grad()
def reparameterize(model: nn.Module, lab: Lab = "clip") -> nn.Module:
    """A new network in inference mode with the outputs of ``model.eval()``; ``features`` included.

    ``lab``: ``clip`` makes every ReLU with LAB one bound; ``relu`` folds a LAB forward where it
    can, leaving ReLU, and makes bounds of the others; ``affine`` folds forward too and leaves the
    others as ReLU, scale and bias. Of a network folded forward the logits are the same; the last
    of ``features`` may lack its LAB. For HGNetV2 and HGNet; any other network comes back as a copy
    in inference mode. Computed in float64 and rounded once, at the end.
    """
    if lab not in get_args(Lab):
        raise unknown_name("lab", lab, get_args(Lab), "reparameterize(lab=...)")
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    if not isinstance(folded, Backbone):
        return folded
    dtype = folded.last_conv.weight.dtype
    folded.double()
    if isinstance(folded.fc, nn.Linear):
        folded.fc.weight.mul_(1 - folded.dropout.p)  # Paddle's dropout scales inference
    folded.dropout.p = 0.0
    if lab != "clip":
        for owner, consumers in list(_forward(folded)):
            for consumer, start in consumers:
                _absorb(consumer, start, owner.lab)
            owner.lab = nn.Identity()
    for name, module in list(folded.named_modules()):
        if isinstance(module, ConvBNAct):
            parent, _, leaf = name.rpartition(".")
            setattr(folded.get_submodule(parent), leaf, _fold(module, bounded=lab != "affine"))
    if isinstance(folded.lab, LearnableAffine):
        scale, shift = folded.lab.scale, folded.lab.bias
        folded.last_conv, folded.act = _affine(folded.last_conv, scale, shift), _bound(folded.lab)
        folded.lab = nn.Identity()
    return folded.to(dtype)


_Consumer: TypeAlias = ConvBNAct | nn.Conv2d | nn.Linear


def _forward(net: Backbone) -> Iterator[tuple[nn.Module, list[tuple[_Consumer, slice]]]]:
    """Owners of a LAB that may go forward, each with who takes its output, in which channels.

    Not: what meets a padded convolution (its zeros are not LAB's), the stem's max-pool (a negative
    scale turns the maximum into a minimum) or a residual sum.
    """
    everything = slice(None)
    pairs: list[tuple[nn.Module, list[tuple[_Consumer, slice]]]] = []
    if isinstance(net.stem, Stem):
        pairs.append((net.stem.stem3, [(net.stem.stem4, everything)]))
    for block in net.modules():
        if isinstance(block, HGV2Block):
            squeeze = block.aggregation_squeeze_conv
            pairs += _forward_in_layers(block)
            pairs.append((squeeze, [(block.aggregation_excitation_conv, everything)]))
    last = net.stages[-1].blocks[-1]
    if isinstance(last, HGV2Block) and not last.residual:
        pairs.append((last.aggregation_excitation_conv, [(net.last_conv, everything)]))
    if isinstance(net.fc, nn.Linear):
        pairs.append((net, [(net.fc, everything)]))
    for owner, consumers in pairs:
        if isinstance(getattr(owner, "lab", None), LearnableAffine):
            yield owner, consumers


def _forward_in_layers(
    block: HGV2Block,
) -> Iterator[tuple[nn.Module, list[tuple[_Consumer, slice]]]]:
    squeeze = block.aggregation_squeeze_conv
    end = None
    followers = [*block.layers][1:] + [None]
    for layer, after in reversed([*zip(block.layers, followers, strict=True)]):
        owner = layer.conv2 if isinstance(layer, LightConvBNAct) else layer
        if not isinstance(owner, ConvBNAct):
            return  # folded already
        # Counted from the end: the block's input comes first in what the squeeze takes.
        start = (end or 0) - owner.conv.out_channels
        channels, end = slice(start, end), start
        if after is None:
            yield owner, [(squeeze, channels)]
        elif isinstance(after, LightConvBNAct):
            yield owner, [(squeeze, channels), (after.conv1, slice(None))]


def _absorb(consumer: _Consumer, channels: slice, lab: LearnableAffine) -> None:
    """Let ``consumer`` (1x1, no pad) take ``x`` where it took ``lab(x)``, in some channels."""
    layer = consumer.conv if isinstance(consumer, ConvBNAct) else consumer
    part = layer.weight[:, channels]
    shift = part.flatten(1).sum(1) * lab.bias
    part.mul_(lab.scale)
    if isinstance(consumer, ConvBNAct):
        consumer.bn.running_mean.sub_(shift)
    elif layer.bias is None:
        layer.bias = nn.Parameter(shift, requires_grad=False)
    else:
        layer.bias.add_(shift)


def _fold(module: ConvBNAct, *, bounded: bool) -> FoldedConv:
    bn = module.bn
    gain = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    shift = bn.bias - bn.running_mean * gain
    act = module.act
    if isinstance(module.lab, LearnableAffine):
        if bounded:
            gain, shift = gain * module.lab.scale, shift * module.lab.scale + module.lab.bias
            act = _bound(module.lab)
        else:
            act = nn.Sequential(module.act, module.lab)
    return FoldedConv(_affine(module.conv, gain, shift), act, same_pad=module.same_pad)


def _bound(lab: LearnableAffine) -> Clip:
    scale, bias = float(lab.scale), float(lab.bias)
    # At scale 0 the convolution gives the constant itself, and either bound keeps it.
    return Clip(bias, None) if scale >= 0 else Clip(None, bias)


def _affine(conv: nn.Conv2d, gain: Tensor, shift: Tensor) -> nn.Conv2d:
    """Make ``conv(x)`` give ``gain * conv(x) + shift``."""
    conv.weight.mul_(gain.view(-1, 1, 1, 1))
    own = 0 if conv.bias is None else conv.bias * gain
    bias = (shift + own).expand(conv.out_channels).contiguous()
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv
