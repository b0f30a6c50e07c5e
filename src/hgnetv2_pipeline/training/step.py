"""One optimiser step: forward, finite check, backward, update."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from hgnetv2_pipeline.training.objectives import Objective
from hgnetv2_pipeline.training.state import State
from hgnetv2_pipeline.training.world import World

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.batches import Batch

AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What a step came to: its loss, counts out of ``images``, and whether it was applied."""

    loss: float
    images: int
    counts: dict[str, float]
    applied: bool


class Step:
    """Applies batches to a state. ``network`` is the student as called: itself, or DDP around it.

    A loss that is not finite in any process is not applied in any: weights, optimiser and BN
    statistics stay what they were.
    """

    def __init__(
        self,
        state: State,
        network: nn.Module,
        objective: Objective,
        *,
        device: torch.device,
        world: World,
        amp: str,
        clip_norm: float | None,
        seed: int,
    ) -> None:
        self.state, self.network, self.objective = state, network, objective
        self.device, self.world, self.seed = device, world, seed
        self.clip_norm = clip_norm
        self.autocast = torch.autocast(device.type, AMP[amp], enabled=amp != "off")
        self.weights = [p for p in state.student.parameters() if p.requires_grad]
        # The forward pass of a batch that explodes has already moved the BN statistics.
        self.buffers = list(state.student.buffers())
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

    def __call__(self, batch: Batch) -> Outcome:
        """Take one step on ``batch``; the learning rate is already set."""
        state = self.state
        if self.buffers:
            torch._foreach_copy_(self.buffers_before, self.buffers)
        torch.manual_seed(step_seed(self.seed, state.step, self.world.rank))
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        answers = None if batch.answers is None else batch.answers.to(self.device)
        with self.autocast:
            loss, counts = self.objective(self.network, images, labels, answers)
        value = loss.item()
        if self.world.any(not math.isfinite(value)):
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.buffers_before)
            return Outcome(value, len(images), {}, applied=False)

        state.scaler.scale(loss).backward()
        if self.clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update_parameters(state.student)
        return Outcome(
            value, len(images), {name: float(count) for name, count in counts.items()}, applied=True
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in one step of one process: with it, no generator needs saving."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
