"""The processes of one run, as torchrun starts them: who this one is, and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# Longer than any process lets the others wait: a checkpoint on a slow disk, the first batches.
# After it they end, and name the one that was stopped or hangs.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """``size`` processes, this one being ``rank``; a run without torchrun is a world of one."""

    rank: int
    size: int
    local_rank: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True in every process if ``flag`` is true in at least one."""
        if self.size == 1:
            return flag
        return self.sum([float(flag)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of ``values`` over all processes, in every process."""
        if self.size == 1:
            return list(values)
        # On the CPU, by gloo: numbers on a GPU would wait for all that is queued there.
        total = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's ``tensors``, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


@contextmanager
def join_group(device: torch.device) -> Iterator[World]:
    """Join the other processes that torchrun started (WORLD_SIZE, RANK, LOCAL_RANK), if any.

    Gradients travel by NCCL between GPUs; numbers on the CPU, and everything between CPUs, by gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, 0)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield World(distributed.get_rank(), size, int(os.environ["LOCAL_RANK"]))
    finally:
        distributed.destroy_process_group()
