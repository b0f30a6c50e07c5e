"""The layers of a network as a training step computes them: ``with fast_training(network): ...``.

Inside, every layer that has a faster twin is of the twin's class; its tensors, names, hooks and
modes are its own, and leaving makes it the plain layer again. A twin computes what the plain layer
does, up to rounding, in fewer passes over memory (``fused_operations``), and only in an eager pass
whose gradients are recorded; in any other (inference, a compiler, a tracer, a transform of
``torch.func``, forward-mode derivatives), or where somebody watches or has replaced a layer that it
would pass by, it is the plain layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from hgnetv2_pipeline.models import fused_operations
from hgnetv2_pipeline.models.hgnet import HGBlock
from hgnetv2_pipeline.models.hgnetv2 import (
    ConvBNAct,
    HGV2Block,
    Joining,
    LearnableAffine,
    SamePool,
    Stem,
)


@contextmanager
def fast_training(network: nn.Module) -> Iterator[nn.Module]:
    """``network`` with fast layers, for training steps: forward and backward passes of first order.

    ``network`` may hold ours anywhere inside. Layers of any other class than exactly those that
    have a twin (SyncBatchNorm, quantised, parametrised, folded ones) stay what they are, and copies
    made inside, by ``deepcopy`` or ``pickle``, are plain. Once it is left, by an error too, nothing
    is different. Gradients of gradients need the plain layers: inside, torch refuses them.
    """
    changed = [(each, _TWINS[type(each)]) for each in network.modules() if type(each) in _TWINS]
    for layer, twin in changed:
        layer.__class__ = twin
    try:
        yield network
    finally:
        for layer, twin in changed:
            if type(layer) is twin:  # not what somebody made of it inside
                layer.__class__ = _PLAIN[twin]


def _is_recording(x: Tensor) -> bool:
    """Whether an eager pass that will be differentiated, once and in reverse, takes ``x``."""
    return (
        type(x) is Tensor  # not a tracer's stand-in
        and x.device.type in ("cpu", "cuda")
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def _is_unwatched(*layers: nn.Module) -> bool:
    """Whether ``__call__`` of ``layers`` is no more than the ``forward`` of their classes."""
    return not torch_module._has_any_global_hook() and not any(
        "forward" in layer.__dict__
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        for layer in layers
    )


class _Twin:
    def __reduce_ex__(self, protocol: Any) -> Any:
        made: Any = super().__reduce_ex__(protocol)
        return _empty, (_PLAIN[type(self)],), *made[2:]  # type: ignore[index]


def _empty(kind: type[nn.Module]) -> nn.Module:
    made: nn.Module = object.__new__(kind)
    return made


class _FastConv2d(_Twin, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y = None
        if self.training and _is_recording(x) and fused_operations.is_by_pixel(x):
            y = fused_operations.convolve(self, x)
        return super().forward(x) if y is None else y


class _FastReLU(_Twin, nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        if self.inplace and self.training and _is_recording(x):
            return fused_operations.relu(x)
        return super().forward(x)


class _FastConvBNAct(_Twin, ConvBNAct):
    def forward(self, x: Tensor) -> Tensor:
        bn, act, lab = self.bn, self.act, self.lab
        if not (
            _is_recording(x)
            and type(lab) is LearnableAffine
            and type(act) is _FastReLU
            and type(bn) is nn.BatchNorm2d
            and bn.training
            and bn.affine
            and bn.track_running_stats
            and bn.momentum is not None
            and _is_unwatched(bn, act, lab)
        ):
            return super().forward(x)
        if self.same_pad:
            x = F.pad(x, (0, 1, 0, 1))
        return fused_operations.batch_norm_relu_lab(self.conv(x), bn, lab.scale, lab.bias)


class _FastSamePool(_Twin, SamePool):
    def forward(self, x: Tensor) -> Tensor:
        if (
            self.training
            and self.pad_value < 0
            and _is_recording(x)
            and fused_operations.is_by_pixel(x)
        ):
            return fused_operations.same_max_pool(x)
        return super().forward(x)


class _FastJoining(_Twin, Joining):
    def join(self, parts: list[Tensor]) -> Tensor:
        alike = len({part.dtype for part in parts}) == 1
        if (
            alike
            and self.training
            and all(_is_recording(part) and fused_operations.is_by_pixel(part) for part in parts)
        ):
            return fused_operations.concatenate(parts)
        return super().join(parts)


class _FastStem(_FastJoining, Stem): ...


class _FastHGV2Block(_FastJoining, HGV2Block): ...


class _FastHGBlock(_FastJoining, HGBlock): ...


_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _FastConv2d,
    nn.ReLU: _FastReLU,
    ConvBNAct: _FastConvBNAct,
    SamePool: _FastSamePool,
    Stem: _FastStem,
    HGV2Block: _FastHGV2Block,
    HGBlock: _FastHGBlock,
}
_PLAIN = {twin: plain for plain, twin in _TWINS.items()}
