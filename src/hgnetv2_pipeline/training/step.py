"""One optimiser step: forward, finite check, backward, update."""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.fast_layers import fast_training
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.training.objectives import Objective
from hgnetv2_pipeline.training.state import State

if TYPE_CHECKING:
    from hgnetv2_pipeline.input.batches import Answers, Batch

# Where fp16's scaler is below it, it has met overflows at every scale from 65536 down.
LEAST_SCALE = 2.0**-10
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """What a step came to over all processes: mean loss, counts out of ``images``, if applied.

    Attributes:
        norm: of the gradients that were looked at; None where the step ended with its loss, and in
            fp16, whose scaler judges them.
    """

    loss: float
    images: int
    counts: dict[str, float]
    lost: bool
    norm: Tensor | None = None

    @property
    def applied(self) -> bool:
        """Asked right away, a GPU is waited for until it has ended the step."""
        return not self.lost and (self.norm is None or bool(self.norm.isfinite()))


class Step:
    """Applies batches to a state. ``network`` is the student as called, see ``prepare.make_step``.

    Forward and backward pass are those of fast layers (``models.fast_training``), unless torch has
    compiled the student; before and after a step it has its plain ones.

    A loss that is not finite in any process is not applied in any: weights, optimiser, averages and
    BN statistics stay what they were. Of gradients that are not finite weights and optimiser know
    nothing; the forward pass was sound, and what it left in the BN statistics stays.
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
        accumulate: int = 1,
        seed: int,
    ) -> None:
        self.state, self.network, self.objective = state, network, objective
        self.device, self.world, self.seed = device, world, seed
        self.clip_norm, self.accumulate = clip_norm, accumulate
        inner = getattr(network, "_orig_mod", network)  # what torch.compile wraps
        self.compiled = inner is not network
        self.exchange = inner if isinstance(inner, DistributedDataParallel) else None
        self.autocast = torch.autocast(device.type, AMP[amp], enabled=amp != "off")
        self.weights = [p for p in state.student.parameters() if p.requires_grad]
        # A GPU reads all gradients again in no time; on a CPU that would be 4 % of a small step.
        # What is not finite behind a layer reaches the layer's BN, LAB or bias, a thousandth of it.
        few = [p for p in self.weights if p.ndim < 2]
        enough = device.type == "cpu" and clip_norm is None and 2 * len(few) >= len(self.weights)
        self.judged = few if enough else self.weights
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
        with nullcontext() if self.compiled else fast_training(state.student):
            value, own = self._gradients(images, labels, answers)
        lost, total, seen, *sums = self.world.sum(
            [not math.isfinite(value), value, len(images), *own.values()]
        )
        value = total / self.world.size
        if lost:
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.buffers_before)
            state.optimizer.zero_grad(set_to_none=True)
            return Outcome(value, int(seen), {}, lost=True)
        norm = self._update()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None:
            state.ema.update_parameters(state.student)
        return Outcome(value, int(seen), dict(zip(own, sums, strict=True)), lost=False, norm=norm)

    def _update(self) -> Tensor | None:
        """Move the weights, unless a gradient is not finite, which the norm that is returned tells.

        All processes decide alike, for they have exchanged their gradients. fp16's scaler decides
        for itself, and a step that it skips is no fault: that is how it finds its scale.
        """
        optimizer, scaler = self.state.optimizer, self.state.scaler
        if scaler.is_enabled():
            if self.clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            return None
        gradients = [p.grad for p in self.judged if p.grad is not None]
        if self.judged is self.weights:
            norm = nn.utils.get_total_norm(gradients)
        else:
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.weights, self.clip_norm, norm)
        # Where it is 1 the fused optimisers leave all as it is, on the device: nothing waits for a
        # GPU, which has much of this step still before it.
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        return norm

    def _check_scale(self) -> None:
        scaler = self.state.scaler
        if scaler.is_enabled() and (scale := scaler.get_scale()) < LEAST_SCALE:
            raise ParameterError(
                f"in fp16 gradients overflow at every scale down to {scale:.1g}: the run has "
                "diverged, its last checkpoint is kept; try a lower training.lr, "
                "training.clip_norm or training.amp=bf16"
            )

    def _gradients(
        self, images: Tensor, labels: Tensor, answers: Answers | None
    ) -> tuple[float, dict[str, float]]:
        """Forward and backward, part by part; the mean loss and the sums of the counts."""
        n = self.accumulate
        known = [None] * n if answers is None else answers.chunk(n)
        parts = zip(images.chunk(n), labels.chunk(n), known, strict=True)
        total, sums = 0.0, dict[str, float]()
        for number, (some, theirs, said) in enumerate(parts, start=1):
            # Processes exchange gradients once, with the last part's.
            kept = self.exchange is not None and number < self.accumulate
            with self.exchange.no_sync() if self.exchange and kept else nullcontext():
                with self.autocast:
                    loss, counts = self.objective(self.network, some, theirs, said)
                # Numbers first: on a GPU the backward pass then runs while the next is prepared.
                total += loss.item() / self.accumulate
                self._check_scale()
                for name, count in counts.items():
                    sums[name] = sums.get(name, 0.0) + float(count)
                self.state.scaler.scale(loss / self.accumulate).backward()
        return total, sums


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in one step of one process: with it, no generator needs saving."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
