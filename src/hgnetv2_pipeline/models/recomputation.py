"""Blocks whose insides are computed again in the backward pass: less memory for more time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """``blocks(x)``, of which only what goes from block to block is kept for the backward pass."""
    if not torch.is_grad_enabled():
        return blocks(x)

    def contexts(block: nn.Module) -> tuple[AbstractContextManager[None], ...]:
        return nullcontext(), _untouched_buffers(block)

    for block in blocks:
        x = checkpoint(
            block, x, use_reentrant=False, context_fn=lambda block=block: contexts(block)
        )
    return x


@contextmanager
def _untouched_buffers(block: nn.Module) -> Iterator[None]:
    """What is computed a second time counts once: batch norms get copies of their statistics."""
    kept = [
        (module, name, buffer)
        for module in block.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
