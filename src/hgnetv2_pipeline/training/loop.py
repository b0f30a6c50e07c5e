"""The training loop: what happens once in a while, then one step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from hgnetv2_pipeline.errors import DataError, Interrupted, ParameterError
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.stopping import StopRequest
from hgnetv2_pipeline.training.best import count_without_gain
from hgnetv2_pipeline.training.config import EarlyStoppingConfig
from hgnetv2_pipeline.training.optim import set_lr
from hgnetv2_pipeline.training.schedule import Schedule, lr_at
from hgnetv2_pipeline.training.state import AnyScore, Row, State
from hgnetv2_pipeline.training.step import Outcome, Step

if TYPE_CHECKING:
    from hgnetv2_pipeline.input.batches import Batch

_log = logging.getLogger(__name__)

# So many steps in a row without finite numbers are not bad luck but a run that has diverged.
PATIENCE = 3


@dataclass
class Timing:
    """Seconds of this process, by what they went into."""

    steps: int = 0
    images: int = 0
    training: float = 0.0
    waiting: float = 0.0
    evaluating: float = 0.0
    saving: float = 0.0


@dataclass(frozen=True)
class Callbacks:
    """What is called once in a while, in all processes.

    evaluate: scores a network on val, or returns None if a stop was requested meanwhile;
    save: writes a checkpoint, every ``save_seconds``, on a stop and at the end;
    report: gets every row of the history.
    """

    evaluate: Callable[[nn.Module], AnyScore | None]
    save: Callable[[], object]
    save_seconds: float
    report: Callable[[Row], None] | None = None


def fit(
    state: State,
    batches: Iterator[Batch],
    *,
    step: Step,
    schedule: Schedule,
    early: EarlyStoppingConfig,
    callbacks: Callbacks,
    stop: StopRequest,
    timing: Timing,
) -> None:
    """Train ``state``, in place, from its step to the end of ``schedule``, or ``early``.

    ``batches`` must start at ``state.step``. ``timing`` gets the seconds.

    Raises:
        Interrupted: a stop was requested; the state is saved.
        ParameterError: loss or gradients were not finite three times in a row; names the images.
    """
    world, judge = step.world, _Judge(state)
    last_save = time.monotonic()

    def saved() -> None:
        judge.settle()
        callbacks.save()

    progress = Progress(schedule.total_steps, "training", "step", done=state.step)
    with progress:
        while True:
            # Once in a while: score the weights, raw and averaged, and remember the best.
            began = time.monotonic()
            raw = ema = None
            if schedule.evaluation_due(state.step) or schedule.row_due(state.step):
                judge.settle()
            if schedule.evaluation_due(state.step) and state.evaluated != state.step:
                raw, ema = _evaluate(state, callbacks.evaluate)
            timing.evaluating += time.monotonic() - began

            # A row of the history; one whose evaluation was cut short is written after the resume.
            scored = not schedule.evaluation_due(state.step) or state.evaluated == state.step
            new = not state.history or state.history[-1]["step"] != state.step
            if schedule.row_due(state.step) and scored and new:
                lr = lr_at(
                    state.step - 1, schedule.base_lr, schedule.total_steps, schedule.warmup_steps
                )
                state.row(epoch=state.step / schedule.steps_per_epoch, lr=lr, raw=raw, ema=ema)

            # A checkpoint.
            # All processes together: each has its own clock, and may have got the signal alone.
            late = time.monotonic() - last_save >= callbacks.save_seconds
            stopping, due = (n > 0 for n in world.sum([bool(stop), late]))
            done = state.step == schedule.total_steps or ended_early(state, early)
            if done or stopping or due:
                last_save = time.monotonic()
                saved()
                timing.saving += time.monotonic() - last_save

            # Only now is the row reported, here or, if a run died in between, after its resume.
            row = state.history[-1] if state.history else None
            if callbacks.report and row is not None and row["step"] == state.step:
                callbacks.report(row)
            if done and scored:
                if state.step < schedule.total_steps:
                    _log.info(
                        "val has not risen for %d evaluations: the run ends after step %d of %d",
                        early.patience, state.step, schedule.total_steps,
                    )  # fmt: skip
                return
            if stopping:
                raise Interrupted(
                    f"stopped after step {state.step} of {schedule.total_steps}, saved; "
                    "the same command resumes it"
                )

            # One step.
            began = time.monotonic()
            batch = _next(batches, saved if world.size == 1 else None)
            assert batch.step == state.step, "loader and run are at different steps"  # noqa: S101
            waited = time.monotonic()
            set_lr(step.state.optimizer, state.step, schedule)
            outcome = step(batch)
            state.step += 1
            timing.waiting += waited - began
            timing.training += time.monotonic() - waited
            timing.steps, timing.images = timing.steps + 1, timing.images + outcome.images
            judge.take(batch, outcome)
            share = timing.waiting / (timing.waiting + timing.training)
            progress.advance(note=f"loss {outcome.loss:.3f}, {share:.0%} waiting for images")


class _Judge:
    """Counts the steps that were applied, and stops a run that has diverged.

    A step is judged when the next one has been taken: by then a GPU has ended it, and nobody waits.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.lost: list[Batch] = []
        self.waiting: tuple[Batch, Outcome] | None = None

    def take(self, batch: Batch, outcome: Outcome) -> None:
        """Judge the step before, and have this one wait."""
        self.settle()
        self.waiting = batch, outcome

    def settle(self) -> None:
        """Judge the step that waits, before anything of the state is reported or saved."""
        if self.waiting is None:
            return
        (batch, outcome), self.waiting = self.waiting, None
        state, lost = self.state, self.lost
        if outcome.applied:
            state.window.add(outcome.loss, outcome.images, outcome.counts)
            lost.clear()
            return
        state.not_applied.append(batch.step)
        lost.append(batch)
        _log.warning(
            "step %d is not applied, its loss is %s%s; images %s", batch.step, outcome.loss,
            " but a gradient is not finite" if math.isfinite(outcome.loss) else "", _keys([batch]),
        )  # fmt: skip
        if len(lost) == PATIENCE:
            raise ParameterError(
                f"loss or gradients were not finite in steps {lost[0].step} to {batch.step} "
                f"(images {_keys(lost)}): the run has diverged. Its last checkpoint is kept; try a "
                "lower training.lr, a longer training.warmup_epochs, training.clip_norm, or "
                "training.amp=off"
            )


def ended_early(state: State, early: EarlyStoppingConfig) -> bool:
    """Whether val has not risen for so many evaluations that the run ends where it is."""
    if (
        early.patience is None
        or count_without_gain(state.evaluations, early.min_delta) < early.patience
    ):
        return False
    return state.evaluated == state.step


def _next(batches: Iterator[Batch], save: Callable[[], object] | None) -> Batch:
    """The next batch; if there is none, for bad images or a dead loader, the steps so far stay."""
    try:
        return next(batches)
    except DataError:
        # Several processes save together, and the others wait for this one's batch.
        if save is not None:
            save()
        raise


def _evaluate(
    state: State, evaluate: Callable[[nn.Module], AnyScore | None]
) -> tuple[AnyScore | None, AnyScore | None]:
    """Score the raw and the averaged weights; nothing is remembered if a stop cut it short."""
    raw = evaluate(state.student)
    if raw is None:
        return None, None
    ema = None
    if state.ema is not None:
        ema = evaluate(state.ema.module)
        if ema is None:
            return None, None
    state.keep_best("raw", state.student, raw)
    if state.ema is not None and ema is not None:
        state.keep_best("ema", state.ema.module, ema)
    state.evaluated = state.step
    # Of equals the averaged weights, as above.
    weights, newest = ("raw", raw) if ema is None or ema.metric < raw.metric else ("ema", ema)
    state.evaluations.append((state.step, newest.metric, weights))
    state.newest = newest
    return raw, ema


def _keys(batches: list[Batch], shown: int = 6) -> str:
    keys = [key for batch in batches for key in batch.keys]
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
