"""When things happen in a run: the learning rate of a step, evaluations, rows of the history."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.training.config import TrainConfig

_log = logging.getLogger(__name__)

# An epoch of a small list lasts a fraction of a step; a history row needs something to average.
SHORTEST_ROW = 10


def lr_at(step: int, base_lr: float, total_steps: int, warmup_steps: int) -> float:
    """Learning rate of ``step`` (from 0): linear from 0, then half a cosine down to 0.

    ``base_lr * t / W`` while ``t < W``, then ``base_lr / 2 * (1 + cos(pi (t - W) / (T - W)))``:
    Paddle's LinearWarmup over Cosine by step. With a warm-up the very first step runs at 0.
    """
    if step < warmup_steps:
        return base_lr * step / warmup_steps
    if total_steps <= warmup_steps:
        raise ParameterError(
            f"warm-up of {warmup_steps} steps in a run of {total_steps}: "
            "the learning rate would never come down; lower training.warmup_epochs"
        )
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * base_lr * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Schedule:
    """A run in steps; ``eval_steps`` and ``row_steps`` are periods, both due at the end too."""

    base_lr: float
    total_steps: int
    warmup_steps: int
    steps_per_epoch: float
    eval_steps: int | None
    row_steps: int

    def evaluation_due(self, step: int) -> bool:
        """Whether val is evaluated once ``step`` steps are done."""
        if step == self.total_steps:
            return True
        return self.eval_steps is not None and step > 0 and step % self.eval_steps == 0

    def row_due(self, step: int) -> bool:
        """Whether the history gets a row once ``step`` steps are done."""
        return step > 0 and (step % self.row_steps == 0 or self.evaluation_due(step))

    @property
    def evaluations(self) -> int:
        """Number of evaluations in the whole run."""
        return 1 if self.eval_steps is None else -(-self.total_steps // self.eval_steps)


def count_steps(config: TrainConfig, *, images: int, world_size: int) -> tuple[int, int]:
    """Steps of the whole run and of its warm-up, for a training list of ``images``.

    Raises ``ParameterError`` where the warm-up would not end before the run does.
    """
    global_batch = config.batch_size * world_size
    steps_per_epoch = images / global_batch
    if config.steps is not None:
        total = config.steps
    else:
        assert config.epochs is not None, "TrainConfig takes exactly one"  # noqa: S101
        total = max(1, round(config.epochs * steps_per_epoch))
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total:
        raise ParameterError(
            f"training.warmup_epochs {config.warmup_epochs:g} is {warmup} steps of "
            f"{global_batch} images, but the whole run has {total}; lower it, or raise "
            "training.epochs or training.steps"
        )
    return total, warmup


def plan_schedule(config: TrainConfig, *, images: int, world_size: int) -> Schedule:
    """The run in steps for a training list of ``images``; batches are full and cross epochs."""
    total, warmup = count_steps(config, images=images, world_size=world_size)
    global_batch = config.batch_size * world_size
    steps_per_epoch = images / global_batch
    evaluate = config.eval_every
    lr = config.lr
    if config.lr_batch is not None:
        lr *= global_batch / config.lr_batch
        _log.info(
            "learning rate %g for a batch of %d becomes %g for %d images per step (linear rule)",
            config.lr, config.lr_batch, lr, global_batch,
        )  # fmt: skip
    return Schedule(
        base_lr=lr,
        total_steps=total,
        warmup_steps=warmup,
        steps_per_epoch=steps_per_epoch,
        eval_steps=None if evaluate is None else max(1, round(evaluate * steps_per_epoch)),
        row_steps=max(SHORTEST_ROW, round(steps_per_epoch)),
    )
