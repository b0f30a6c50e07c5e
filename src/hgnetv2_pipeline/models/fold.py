"""The same network with fewer operations: BN and LAB folded into the convolutions, exactly.

With ``z`` the output of convolution and BN, ``s`` and ``b`` LAB's scale and bias,

    s * relu(z) + b  =  max(s*z + b, b) for s > 0,  min(s*z + b, b) for s < 0,  b for s = 0,

so ``s*z + b`` is the convolution's own affine form and what is left of ReLU and LAB is one bound.
Nothing is pushed through a padding: the pads of Paddle's 'SAME' see the values they always saw.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hgnetv2_pipeline.models.hgnetv2 import Backbone, ConvBNAct, LearnableAffine


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
def reparameterize(model: nn.Module) -> nn.Module:
    """A new network in inference mode with the outputs of ``model.eval()``; ``features`` included.

    For HGNetV2 and HGNet; any other network comes back as a copy in inference mode.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    if not isinstance(folded, Backbone):
        return folded
    for name, module in list(folded.named_modules()):
        if isinstance(module, ConvBNAct):
            parent, _, leaf = name.rpartition(".")
            setattr(folded.get_submodule(parent), leaf, _fold(module))
    if isinstance(folded.lab, LearnableAffine):
        scale, shift = folded.lab.scale.double(), folded.lab.bias.double()
        folded.last_conv, folded.act = _affine(folded.last_conv, scale, shift), _bound(folded.lab)
        folded.lab = nn.Identity()
    folded.fc.weight.mul_(1 - folded.dropout.p)  # Paddle's dropout scales inference
    folded.dropout.p = 0.0
    return folded


def _fold(module: ConvBNAct) -> FoldedConv:
    bn = module.bn
    gain = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    shift = bn.bias.double() - bn.running_mean.double() * gain
    bound = module.act
    if isinstance(module.lab, LearnableAffine):
        scale = module.lab.scale.double()
        gain, shift = gain * scale, shift * scale + module.lab.bias.double()
        bound = _bound(module.lab)
    return FoldedConv(_affine(module.conv, gain, shift), bound, same_pad=module.same_pad)


def _bound(lab: LearnableAffine) -> Clip:
    scale, bias = float(lab.scale), float(lab.bias)
    # At scale 0 the convolution gives the constant itself, and either bound keeps it.
    return Clip(bias, None) if scale >= 0 else Clip(None, bias)


def _affine(conv: nn.Conv2d, gain: Tensor, shift: Tensor) -> nn.Conv2d:
    """Make ``conv(x)`` give ``gain * conv(x) + shift``; in float64, rounded once at the end."""
    conv.weight.copy_(conv.weight.double() * gain.view(-1, 1, 1, 1))
    bias = shift.expand(conv.out_channels).to(conv.weight.dtype).contiguous()
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv
