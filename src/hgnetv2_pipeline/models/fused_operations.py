"""Operations of a training step in fewer passes over memory; ``fast_layers`` puts them to use.

A step in eager mode is bound by how often every activation is read and written, and on a CPU by the
kernels that a convolution's backward pass falls on. What is here changes no numbers beyond rounding
and knows gradients of first order in reverse mode alone. Measured in docs/results/training.md.
"""

from __future__ import annotations

from functools import lru_cache
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
    """``conv(x)`` for ``x`` by pixel: a 1x1 convolution is a matrix product, a depthwise one has a
    backward pass of its own (``_Depthwise``); None: not worth it here.

    For one thread and small batches torch takes 1x1 convolutions through im2col.
    """
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return None
    if conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
        # Seen as it is in memory, so that its gradient comes back in the same layout.
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(x.permute(0, 2, 3, 1), weight, conv.bias).permute(0, 3, 1, 2)
    if conv.groups == conv.in_channels and conv.bias is None:
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if dtype in LOW or _is_wide(conv):
            y: Tensor = _Depthwise.apply(x.to(dtype), conv.weight, conv)
            return y
    return None


def _is_wide(conv: nn.Conv2d) -> bool:
    """Whether a depthwise ``conv``, stepping by one, is too wide for oneDNN's weight gradient."""
    wide: bool = conv.kernel_size[1] > _WIDEST and conv.out_channels == conv.groups
    return wide and conv.stride == conv.dilation == (1, 1)


class _Depthwise(Function):
    """A depthwise convolution in the precision of ``x``, its backward pass in float32 at least.

    oneDNN's gradients in bf16 are 4 to 20 times slower than in float32; its weight gradient of a
    wide kernel is that of any grouped convolution, in which each group is filled up to 16 channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        where = conv.padding, conv.dilation, False, (0, 0), conv.groups
        ctx.where = (conv.stride, *where)
        ctx.wide = _is_wide(conv)
        with torch.autocast("cpu", enabled=False):
            return torch.convolution(x, weight.to(x.dtype), None, *ctx.where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_dx, need_dw, _ = ctx.needs_input_grad
        dx = dw = None
        exact = torch.promote_types(x.dtype, torch.float32)
        grad, kernel = grad.to(exact), weight.to(exact)
        if need_dx:
            shape = torch.empty_like(x, dtype=exact)  # all that is asked of it
            dx = _gradient(grad, shape, kernel, ctx.where, 0).to(x.dtype)
        if need_dw:
            given = grad, x.to(exact), kernel, ctx.where
            dw = _wide_gradient(*given) if ctx.wide else _gradient(*given, 1)
            dw = dw.to(weight.dtype)
        return dx, dw, None


_WIDEST = 3
"""Columns of the widest kernel whose weight gradient oneDNN has a depthwise kernel for."""
_MOST_TAPS = 49
"""Of a kernel whose weight gradient is taken from pairs of pixels: larger ones have too many."""


def _wide_gradient(grad: Tensor, x: Tensor, weight: Tensor, where: tuple[Any, ...]) -> Tensor:
    """The gradient of a depthwise ``weight`` [C, 1, K, L] of more columns than oneDNN takes.

    On a map of no more pixels than the kernel has, most of what meets most taps is padding: there,
    each pixel's product with each is summed over the batch, a small matrix product a channel, and
    then over the pairs that meet in a tap. Larger maps: strips of the kernel that oneDNN takes, if
    they are no higher than the map.
    """
    stride, (above, left), *rest = where
    (height, width), (rows, columns) = x.shape[2:], weight.shape[2:]
    if height * width <= rows * columns <= _MOST_TAPS:
        with torch.autocast("cpu", enabled=False):
            pairs = torch.bmm(_by_channel(x).transpose(1, 2), _by_channel(grad))
            meet = _meeting((height, width), (rows, columns), (above, left), x.dtype)
            return (pairs.flatten(1) @ meet).view(weight.shape)
    if height < rows:
        return _gradient(grad, x, weight, where, 1)
    strips = []
    for first, strip in zip(range(0, columns, _WIDEST), weight.split(_WIDEST, 3), strict=True):
        seen = grad.shape[3] + strip.shape[3] - 1  # columns of the map, from first - left on
        part = F.pad(x, (left - first, seen + first - left - width))
        strips.append(_gradient(grad, part, strip, (stride, (above, 0), *rest), 1))
    return torch.cat(strips, 3)


def _by_channel(x: Tensor) -> Tensor:
    """[N, C, H, W] by pixel to [C, N, HW]."""
    n, channels = x.shape[:2]
    turned = x.permute(0, 2, 3, 1).reshape(-1, channels).t().contiguous()
    return turned.view(channels, n, -1)


@lru_cache(maxsize=64)
def _meeting(
    size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """[pairs, taps]: 1 where pixel i of the input meets tap t for pixel o of the output, else 0.

    A pair (i, o) is a row, o counting faster.
    """
    pixels = size[0] * size[1]
    alone = torch.eye(pixels, dtype=dtype, device="cpu").view(pixels, 1, *size)
    return F.unfold(alone, kernel, padding=padding).transpose(1, 2).flatten(0, 1).contiguous()


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
