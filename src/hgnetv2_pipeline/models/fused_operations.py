"""Operations of a training step in fewer passes over memory; ``fast_layers`` puts them to use.

A step in eager mode is bound by how often every activation is read and written, and on a CPU by the
kernels that a convolution's backward pass falls on. What is here changes no numbers beyond rounding
and knows gradients of first order in reverse mode alone. Measured in docs/results/training.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LOW = (torch.bfloat16, torch.float16)
_aten = torch.ops.aten


def is_by_pixel(x: Tensor) -> bool:
    """Whether ``x`` is in a CPU's memory pixel by pixel, all channels of one side by side."""
    on_cpu: bool = x.device.type == "cpu"
    return on_cpu and x.is_contiguous(memory_format=torch.channels_last)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor | None:
    """``conv(x)`` for ``x`` by pixel: a 1x1 convolution is a matrix product and a depthwise one has
    a float32 backward pass; None: not worth it here.

    For one thread and small batches torch takes 1x1 convolutions through im2col, and oneDNN's
    depthwise gradients in bf16 are 4 to 20 times slower than in float32.
    """
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1:
        # Seen as it is in memory, so that its gradient comes back in the same layout.
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(x.permute(0, 2, 3, 1), weight, conv.bias).permute(0, 3, 1, 2)
    if conv.groups == conv.in_channels and conv.bias is None:
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if dtype in LOW:
            y: Tensor = _Depthwise.apply(x.to(dtype), conv.weight, conv)
            return y
    return None


class _Depthwise(Function):
    """A depthwise convolution in the precision of ``x``, its backward pass in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        where = conv.padding, conv.dilation, False, (0, 0), conv.groups
        ctx.where = (conv.stride, *where)
        with torch.autocast("cpu", enabled=False):
            return torch.convolution(x, weight.to(x.dtype), None, *ctx.where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_dx, need_dw, _ = ctx.needs_input_grad
        dx = dw = None
        wide = grad.float()
        if need_dx:
            shape = torch.empty_like(x, dtype=wide.dtype)  # all that is asked of it
            dx = _gradient(wide, shape, weight.float(), ctx.where, 0).to(x.dtype)
        if need_dw:
            dw = _gradient(wide, x.float(), weight.float(), ctx.where, 1).to(weight.dtype)
        return dx, dw, None


def _gradient(grad: Tensor, x: Tensor, weight: Tensor, where: tuple[Any, ...], of: int) -> Tensor:
    wanted = [of == 0, of == 1, False]
    return _aten.convolution_backward(grad, x, weight, None, *where, wanted)[of]


def batch_norm_relu_lab(x: Tensor, bn: nn.BatchNorm2d, scale: Tensor, bias: Tensor) -> Tensor:
    """``scale * relu(bn(x)) + bias``; ``bn`` in training mode, with weight, bias and statistics."""
    assert bn.num_batches_tracked is not None  # noqa: S101
    bn.num_batches_tracked.add_(1)
    y: Tensor = _BatchNormReluLab.apply(x, bn.weight, bn.bias, scale, bias, bn)
    return y


class _BatchNormReluLab(Function):
    """With r = relu(bn(x)), y = s r + b and dy the gradient of y:

    BN's gradients are linear in what comes back, so s goes into its weight instead of over dy; and
    ds = sum(dy r) = sum over channels of weight * dweight + bias * dbias, where dweight and dbias
    are BN's for s = 1. Only db = sum(dy) needs a pass of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        shift: Tensor,
        scale: Tensor,
        bias: Tensor,
        bn: nn.BatchNorm2d,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            r, mean, inverse, reserve, ctx.kind = torch._batch_norm_impl_index(
                x, weight, shift, bn.running_mean, bn.running_var, True, bn.momentum, bn.eps,
                torch.backends.cudnn.enabled,
            )  # fmt: skip
            r = relu(r)
            y = _affine(r, scale, bias)
        ctx.save_for_backward(x, r, weight, shift, scale, mean, inverse, reserve)
        ctx.eps = bn.eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, r, weight, shift, scale, mean, inverse, reserve = ctx.saved_tensors
        if grad.stride() != r.stride():  # a part of a larger tensor: slow to read twice
            grad = torch.empty_like(r).copy_(grad)
        db = _total(grad, scale.dtype)
        grad = _aten.threshold_backward(grad, r, 0)
        dx, dweight, dshift = _aten._batch_norm_impl_index_backward(
            ctx.kind, x, grad, weight * scale, None, None, mean, inverse, True, ctx.eps,
            [True, True, True], reserve,
        )  # fmt: skip
        ds = (weight * dweight + shift * dshift).sum()
        return dx, dweight * scale, dshift * scale, ds.view(1), db.view(1), None


def relu(x: Tensor) -> Tensor:
    """``x.relu_()``, but for low precision on a CPU, where torch is twice as fast out of place."""
    return x.relu() if x.device.type == "cpu" and x.dtype in LOW else x.relu_()


def _affine(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``scale * x + bias`` in one pass, in the precision of ``x``."""
    if x.device.type == "cpu":
        return torch.add(bias.view(()), x, alpha=scale.item())
    return torch.addcmul(bias.view(()), x, scale.view(()))  # nothing waits for the device


def _total(grad: Tensor, dtype: torch.dtype) -> Tensor:
    if grad.device.type == "cpu" and grad.dtype in LOW:
        # An accumulator is float32 either way; torch has no vectorised sum from one to the other.
        return grad.sum((1, 2, 3)).sum(dtype=dtype)
    return grad.sum(dtype=dtype)


def concatenate(parts: list[Tensor]) -> Tensor:
    """``torch.cat(parts, dim=1)`` of parts by pixel; each gets its gradient as a tensor of its own.

    What torch hands out are strips of the gradient, and its kernels go through narrow strips one
    number at a time.
    """
    whole: Tensor = _Concatenate.apply(*parts)
    return whole


class _Concatenate(Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.channels = [part.shape[1] for part in parts]
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        strips = zip(grad.split(ctx.channels, dim=1), ctx.needs_input_grad, strict=True)
        layout = torch.channels_last
        return tuple(s.contiguous(memory_format=layout) if need else None for s, need in strips)


def same_max_pool(x: Tensor) -> Tensor:
    """2x2 maxima at stride 1 of ``x`` by pixel, the last row and column over what there is.

    Of equal values the first in reading order gets the gradient, as in ``max_pool2d``.
    """
    y: Tensor = _SameMaxPool.apply(x)
    return y


class _SameMaxPool(Function):
    """Maxima of neighbours in a row, then of neighbours in a column, without indices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = _maxima(x, 3)
        ctx.save_for_backward(x, rows)
        return _maxima(rows, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, rows = ctx.saved_tensors
        return _shared(_shared(grad, rows, 2), x, 3)


def _maxima(x: Tensor, dim: int) -> Tensor:
    """Everything or its next along ``dim``, whichever is larger; the last as it is."""
    n = x.shape[dim]
    y = torch.empty_like(x)
    torch.maximum(x.narrow(dim, 0, n - 1), x.narrow(dim, 1, n - 1), out=y.narrow(dim, 0, n - 1))
    y.narrow(dim, n - 1, 1).copy_(x.narrow(dim, n - 1, 1))
    return y


def _shared(grad: Tensor, x: Tensor, dim: int) -> Tensor:
    """The gradient of ``_maxima``: the next one's where it is larger, else one's own."""
    n = x.shape[dim]
    larger = x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1)
    gained = torch.empty_like(x)
    passed = gained.narrow(dim, 1, n - 1)
    _aten.threshold_backward.grad_input(grad.narrow(dim, 0, n - 1), larger, 0, grad_input=passed)
    gained.narrow(dim, 0, 1).zero_()
    kept = torch.empty_like(x)
    torch.sub(grad.narrow(dim, 0, n - 1), passed, out=kept.narrow(dim, 0, n - 1))
    kept.narrow(dim, n - 1, 1).copy_(grad.narrow(dim, n - 1, 1))
    return kept.add_(gained) if x.dtype not in LOW else kept + gained
