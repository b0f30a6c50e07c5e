"""Simple features of an image, without a learnt weight: gradients, colours and the pixels small."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 64
"""Pixels of the square that every image is resized to first."""
_CELL, _BINS, _THUMB, _LEVELS = 8, 9, 8, 4


class SimpleFeatures(nn.Module):
    """float32 [N, 3, H, W] in 0..1 -> features [N, 2020]: what a linear classifier of seconds sees.

    Histograms of oriented gradients (Dalal and Triggs, 2005: cells of 8 pixels, 9 directions
    without sign, blocks of 2x2 cells scaled to length 1, cut at 0.2 and scaled again), the image at
    8x8 pixels, and the shares of 64 colours. The gradient is that of the channel
    where it is largest. No step needs a weight, so it is the same everywhere, for any images.
    """

    num_features = (SIDE // _CELL - 1) ** 2 * 4 * _BINS + 3 * _THUMB**2 + _LEVELS**3

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if x.shape[-2:] != (SIDE, SIDE):
            x = functional.interpolate(
                x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
            )
        thumb = functional.adaptive_avg_pool2d(x, _THUMB).flatten(1)
        return torch.cat([self._gradients(x), thumb, _colours(x)], dim=1)

    def _gradients(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
        down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
        length, channel = (across.square() + down.square()).sqrt().max(dim=1, keepdim=True)
        across, down = across.gather(1, channel), down.gather(1, channel)
        place = torch.atan2(down, across).remainder(math.pi) * (_BINS / math.pi)
        # Shared between the two nearest directions, so that a small turn changes little.
        lower = place.floor()
        share = place - lower
        first = lower.long().remainder(_BINS)
        votes = torch.zeros(x.shape[0], _BINS, SIDE, SIDE, dtype=x.dtype, device=x.device)
        votes.scatter_add_(1, first, length * (1 - share))
        votes.scatter_add_(1, (first + 1).remainder(_BINS), length * share)
        cells = functional.avg_pool2d(votes, _CELL)
        blocks = functional.unfold(cells, 2)  # [N, 4 * 9, blocks]
        blocks = functional.normalize(blocks, dim=1, eps=1e-3).clamp(max=0.2)
        return functional.normalize(blocks, dim=1, eps=1e-3).flatten(1)


def _colours(x: Tensor) -> Tensor:
    """Shares [N, 64] of the pixels in each of 4 x 4 x 4 colours."""
    level = (x * _LEVELS).long().clamp(0, _LEVELS - 1)
    code = (level[:, 0] * _LEVELS + level[:, 1]) * _LEVELS + level[:, 2]
    counts = torch.zeros(x.shape[0], _LEVELS**3, dtype=x.dtype, device=x.device)
    flat = code.flatten(1)
    return counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=x.dtype)) / flat.shape[1]
