"""The fastest sound way to take a step on this machine: precision, memory format, compiled or not.

No rule holds for all: with bf16 in hardware a CPU is faster in it (without, it is not even tried,
being many times slower). So each way takes some steps on one batch, from the same weights, and is
compared with float32: same losses, same direction.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.processor import slow_precision
from hgnetv2_pipeline.training.config import RunSpec, TrainConfig
from hgnetv2_pipeline.training.optim import set_lr
from hgnetv2_pipeline.training.prepare import make_batches, make_step, prepare
from hgnetv2_pipeline.training.step import AMP

_log = logging.getLogger(__name__)

MODE = "mode.json"
STEPS = 20
# How far a loss may be from float32's, as a share of it, and how far apart the directions in which
# all steps together pull the weights (cosine).
LOSS_APART, DIRECTION = 0.02, 0.9


@dataclass(frozen=True, order=True)
class Mode:
    """One way to take a step."""

    amp: str
    channels_last: bool
    compile: bool

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.amp} {layout}" + (" compiled" if self.compile else "")


@dataclass(frozen=True)
class Trial:
    """What a mode came to: seconds of its fastest step, losses, and the summed gradients [n]."""

    seconds: float
    losses: Sequence[float]
    direction: Tensor


def settle_mode(spec: RunSpec, device: torch.device, world: World) -> RunSpec:
    """``spec`` with its mode chosen; a run that goes on keeps what it chose when it began."""
    if spec.config.mode == "as_set":
        return spec
    path, choice = spec.out / MODE, None
    if world.first:
        if path.is_file():
            try:
                choice = Mode(**read_json(path)["mode"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} is damaged: remove it, and the mode is chosen again"
                ) from error
        else:
            trials = {mode: _trial(spec, mode, device) for mode in _modes(device)}
            if device.type == "cuda":
                # Compiling takes minutes: only what is fastest without is tried.
                best = choose_mode(trials)[0]
                faster = Mode(best.amp, best.channels_last, True)
                trials[faster] = _trial(spec, faster, device)
            choice, reason = choose_mode(trials)
            write_json(path, {"mode": asdict(choice), "reason": reason})
            _log.info("training mode %s: %s", choice, reason)
    choice = world.gather(choice)[0]
    return spec.model_copy(update={"config": apply_mode(spec.config, choice)})


def apply_mode(config: TrainConfig, mode: Mode) -> TrainConfig:
    """``config`` in ``mode``."""
    return config.model_copy(update=asdict(mode))


def choose_mode(trials: Mapping[Mode, Trial]) -> tuple[Mode, str]:
    """The fastest sound mode, and why; the first is float32, which the others are compared with."""
    plain, reference = next(iter(trials.items()))
    sound, words = [], []
    for mode, trial in trials.items():
        fault = _fault(trial, reference)
        words.append(f"{mode} {1e3 * trial.seconds:.1f} ms" + (f" ({fault})" if fault else ""))
        if fault is None or mode == plain:
            sound.append(mode)
    best = min(sound, key=lambda mode: trials[mode].seconds)
    return best, "; ".join(words)


def _fault(trial: Trial, reference: Trial) -> str | None:
    """Why a mode is not sound, or None."""
    for one, other in zip(trial.losses, reference.losses, strict=True):
        apart = abs(one - other) / max(abs(other), 1e-6)
        if not apart <= LOSS_APART:  # also of NaN
            return f"loss {apart:.1%} off"
    same = float(torch.cosine_similarity(trial.direction, reference.direction, dim=0))
    if not same >= DIRECTION:
        return f"direction {same:.2f}"
    return None


def _modes(device: torch.device) -> list[Mode]:
    precisions = [amp for amp in AMP if not slow_precision(amp, device.type)]
    every = itertools.product(precisions, [True, False])
    return [Mode(amp, channels_last, False) for amp, channels_last in every]


def _trial(spec: RunSpec, mode: Mode, device: torch.device) -> Trial:
    """``STEPS`` steps on the first batch of the run, on a throwaway copy."""
    config = apply_mode(spec.config, mode)
    changed = spec.model_copy(update={"config": config})
    run = prepare(changed, device=device, world_size=1)
    state, alone = run.state, World(0, 1, 0)
    step = make_step(run, changed, device, alone)
    ledger = Ledger(len(run.train), config.max_bad)
    [batch] = make_batches(run, changed, alone, ledger, steps=1, workers=0)
    losses, seconds = [], []
    for _ in range(STEPS):
        began = time.monotonic()
        set_lr(state.optimizer, state.step, run.schedule)
        losses.append(step(batch).loss)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - began)
        state.step += 1
    pulls = [
        values.get("momentum_buffer", values.get("exp_avg")).flatten().float().cpu()
        for values in state.optimizer.state.values()
    ]
    return Trial(min(seconds), losses, torch.cat(pulls) if pulls else torch.zeros(1))
