"""What a run will cost, from a few real steps on a throwaway copy, before it starts."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass

import torch

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.devices import choose_device
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.evaluation.evaluate import predict_logits
from hgnetv2_pipeline.exits import free_bytes
from hgnetv2_pipeline.input.augment import PublishedView, make_augment
from hgnetv2_pipeline.input.deferred_view import DeviceView
from hgnetv2_pipeline.input.loader import eval_batches
from hgnetv2_pipeline.input.shared_memory import shortage, space
from hgnetv2_pipeline.input.workers import watch_workers
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.processor import available_cpus, slow_precision
from hgnetv2_pipeline.progress import duration
from hgnetv2_pipeline.training.config import RunSpec, TrainConfig
from hgnetv2_pipeline.training.memory import explain_shortage
from hgnetv2_pipeline.training.optim import set_lr
from hgnetv2_pipeline.training.prepare import (
    PreparedRun,
    make_batches,
    make_step,
    prepare,
)
from hgnetv2_pipeline.training.run import torch_settings
from hgnetv2_pipeline.training.schedule import plan_schedule
from hgnetv2_pipeline.training.state import State
from hgnetv2_pipeline.variants import height_and_width

# Share of waiting from which a plan says what to do about it.
MUCH = 0.1


@dataclass(frozen=True)
class Plan:
    """A run's projected cost; ``str`` gives the line to print."""

    images: int
    """Images in the training list."""
    images_seen: int
    """Images that go through the network in training."""
    steps: int
    seconds: float
    """Training and evaluations on this machine, as it was loaded during the timed steps."""
    loader_share: float
    """Share of a step spent waiting for images."""
    disk_bytes: int
    disk_free: int
    memory_bytes: int
    """The most that the GPU held in the timed steps; on a CPU, that this process held so far."""
    relief: str = ""
    """Where much of the time is waiting: the parameters that may lessen it."""
    slow: str = ""
    """Why the precision that was set is slower than float32 on this machine, and what to set."""
    shared_memory: str = ""
    """Where the batches of all processes of this machine may not fit in it: what to do."""

    def __str__(self) -> str:
        return (
            f"{self.images:,} images, {self.steps:,} steps ({self.images_seen:,} images seen), "
            f"about {duration(self.seconds)} ({self.loader_share:.0%} of it waiting for images), "
            f"{self.disk_bytes / 1e6:,.0f} MB of disk ({self.disk_free / 1e6:,.0f} MB free), "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
            f"{self.relief and f'; to wait less: {self.relief}'}"
            f"{self.slow and f'; {self.slow}'}"
            f"{self.shared_memory and f'; NOT ENOUGH SHARED MEMORY: {self.shared_memory}'}"
        )


def plan_run(
    spec: RunSpec,
    timed_steps: int | None = None,
    *,
    processes: int = 1,
    images: int | None = None,
) -> Plan:
    """Project a run's time and disk by ``timed_steps`` timed steps; nothing is written.

    None: a fiftieth of the run's steps, from 3 to 20 of them. One further step before them is not
    timed: it pays for start-up. Of a run in many ``processes`` one is timed: what they wait for
    each other is not in the time. ``images`` is how many the training list will have where
    ``spec.train`` is another one in its place, as before the mining.
    """
    if timed_steps is not None and timed_steps < 1:
        raise ParameterError(f"timed_steps is {timed_steps}; at least 1 is needed")
    try:
        with explain_shortage(spec), watch_workers():
            return _timed_plan(spec, timed_steps, processes, images)
    finally:
        # Or torch would keep the GPU's memory for this process, where others are to train.
        torch.cuda.empty_cache()


def _timed_plan(spec: RunSpec, timed_steps: int | None, processes: int, images: int | None) -> Plan:
    device, config, world = choose_device(spec.device), spec.config, World(0, 1, 0)
    room = space()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch_settings(device, config.threads):
        run = prepare(spec, device=device, world_size=processes)
        state, schedule = run.state, run.schedule
        if images is not None:
            schedule = plan_schedule(config, images=images, world_size=processes)
        if timed_steps is None:
            timed_steps = min(20, max(3, schedule.total_steps // 50))
        step, ledger = make_step(run, spec, device, world), Ledger(len(run.train), config.max_bad)
        batches = make_batches(
            run, spec, world, ledger, steps=timed_steps + 1, workers=config.workers
        )
        waited = worked = 0.0
        for index in range(timed_steps + 1):
            began = time.monotonic()
            batch = next(batches)
            loaded = time.monotonic()
            set_lr(state.optimizer, index, schedule)
            step(batch)
            if index > 0:
                waited += loaded - began
                worked += time.monotonic() - loaded
        few = run.val.iloc[: config.batch_size]
        began = time.monotonic()
        predict_logits(
            state.student,
            eval_batches(
                few,
                spec.val_root,
                preprocess=run.preprocess,
                batch_size=config.batch_size,
                workers=0,
                ledger=Ledger(len(few), 1.0),
            ),
            preprocess=run.preprocess,
            device=str(device),
            channels_last=config.channels_last,
            amp=config.amp,
        )
        an_evaluation = (time.monotonic() - began) / len(few) * len(run.val) / processes
    short = float(run.train[["width", "height"]].min(axis=1).median())
    networks = 1 if config.ema_decay is None else 2
    steps = schedule.total_steps
    return Plan(
        images=images or len(run.train),
        images_seen=steps * config.batch_size * processes,
        steps=steps,
        seconds=steps * (waited + worked) / timed_steps
        + schedule.evaluations * networks * an_evaluation,
        loader_share=waited / (waited + worked),
        disk_bytes=_disk(
            state, networks=networks, keep=config.keep_checkpoints, best=config.keep_best
        ),
        disk_free=free_bytes(spec.out),
        memory_bytes=peak_memory(device),
        relief=relief(spec, device, processes, short) if waited > MUCH * (waited + worked) else "",
        slow=slow_amp(config, spec.place, device),
        shared_memory=shortage(processes * config.workers, _batch_bytes(run, config), room),
    )


def _batch_bytes(run: PreparedRun, config: TrainConfig) -> int:
    """Bytes of a batch for training and of one for val, which wait at the same time."""
    pixels = 3 * math.prod(height_and_width(config.image_size))
    # For the device to decode: files, or as many pixels as their crops have.
    image = int(run.train["length"].mean()) if isinstance(run.transform, DeviceView) else pixels
    return config.batch_size * (image + pixels)


def relief(spec: RunSpec, device: torch.device, processes: int, short: float) -> str:
    """The parameters of ``spec`` that would have its batches made faster, as they are written.

    ``short`` is the median of the training images' shorter sides, pixels.
    """
    config, cores = spec.config, available_cpus() // processes
    view = make_augment(config.view())
    published = isinstance(view, PublishedView)
    ways = {
        f"workers={cores}": config.workers < cores,
        "input.fast=true": published and not config.input.fast and config.input.device != "all",
        "input.device=randaugment": isinstance(view, PublishedView)
        and view.operates
        and device.type == "cuda"
        and config.input.device == "none"
        and spec.teacher_logits is None,
        "input.resized=384": config.input.resized is None and short > 2 * 384,
    }
    return ", ".join(f"{spec.place}.{way}" for way, open_to_it in ways.items() if open_to_it)


def slow_amp(config: TrainConfig, place: str, device: torch.device) -> str:
    """Why ``config``, which is at ``place`` of the parameters, is slower on ``device`` than it
    would be in float32, and what to set; empty where it is not, or where a trial will choose.
    """
    why = "" if config.mode == "auto" else slow_precision(config.amp, device.type)
    return why and f"{place}.amp={config.amp}: {why}; set {place}.amp=off"


def peak_memory(device: torch.device) -> int:
    """Bytes that the GPU, or on a CPU this process, has held at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _disk(state: State, *, networks: int, keep: int, best: int) -> int:
    """Bytes of the checkpoints (one more than kept exists for a moment) and of the weights: the
    student and ``best`` others."""
    student = sum(int(value.nbytes) for value in state.student.state_dict().values())
    optimizer = sum(
        int(value.nbytes)
        for tensors in state.optimizer.state.values()
        for value in tensors.values()
        if isinstance(value, torch.Tensor)
    )
    checkpoint = student * networks + optimizer + student  # the best so far is in each
    return (keep + 1) * checkpoint + (1 + best) * student
