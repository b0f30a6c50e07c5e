"""Latency by PaddleClas's protocol: 2,100 runs at batch 1, of which the first 100 do not count.

Wall time is what a user waits; CPU time (of the whole process) is what the work costs, and on a
shared machine the steadier of the two. Each figure comes with the device, the versions and the
share of the machine's measured matrix-product rate, so that it can be judged elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.timing.machine import clocks
from hgnetv2_pipeline.deployment.timing.peak import peak_gb_s, peak_gflops
from hgnetv2_pipeline.deployment.timing.stopwatch import (
    Call,
    Lap,
    Stopwatch,
    median_of,
    summary,
    time_calls,
)
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import Progress

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of a value in memory, by precision."""


class Measurable(Protocol):
    """What is measured: an ``Engine``, or anything with these."""

    name: str
    model: str
    device: str
    threads: int
    versions: dict[str, str]
    card: ModelCard

    @property
    def place(self) -> str:
        """``cpu`` or ``cuda``."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, 3, H, W] -> float32 [N, C]."""

    def stopwatch(self) -> Stopwatch:
        """The clocks that time it."""

    def resident(self, images: np.ndarray) -> Call | None:
        """A call without copies, where there are any."""


def measure_latency(
    engine: Measurable, *, batch_size: int = 1, warmup: int = 100, runs: int = 2000
) -> dict[str, Any]:
    """Time ``runs`` calls of ``engine.logits`` after ``warmup`` calls that do not count.

    The input is one fixed random batch, float32 [batch_size, 3, crop, crop]. Returns the latency
    JSON: times in ms for the whole batch (``stopwatch.summary``), of wall time, with copies to
    and from a GPU inside, and ``cpu_ms`` the median CPU time of the process; on a GPU also
    ``gpu_*``, its own time of these calls, and ``without_copies``, the same protocol run again on
    images that are there. ``gmacs`` is for one image; ``peak_gflops`` is the machine's measured
    matrix-product rate at the engine's thread count and precision, and ``percent_of_peak = 100 * 2
    * MACs * batch / time / peak``, of the GPU's median time without copies or else of ``p50_ms``;
    ``percent_of_bandwidth`` likewise of the measured copy rate ``peak_gb_s``, if every layer read
    its weights and input and wrote its output once. Null where unknown.
    """
    _check_counts(batch_size=batch_size, warmup=warmup, runs=runs)
    images = fixed_images(engine, batch_size)
    stopwatch = engine.stopwatch()
    bare = engine.resident(images)
    before = _load_average()
    total = (warmup + runs) * (1 if bare is None else 2)
    with Progress(total, f"latency {engine.name} batch {batch_size}", "run") as progress:
        laps = time_calls(
            lambda: engine.logits(images), stopwatch, warmup=warmup, runs=runs, progress=progress
        )
        bare_laps = (
            time_calls(bare, stopwatch, warmup=warmup, runs=runs, progress=progress)
            if bare is not None
            else None
        )
    return {
        **_identity(engine, batch_size),
        "n_warmup": warmup,
        "n_timed": runs,
        **figures(engine, batch_size, laps, bare_laps),
        "load_average": before,
        "processors": available_cpus(),
        "clocks": clocks(engine.place),
    }


def figures(
    engine: Measurable, batch_size: int, laps: Sequence[Lap], bare_laps: Sequence[Lap] | None = None
) -> dict[str, Any]:
    """The measured part of the latency JSON, from laps with copies and, on a GPU, without."""
    found: dict[str, Any] = dict(summary(laps))
    if bare_laps is not None:
        found["without_copies"] = summary(bare_laps)
    best = bare_laps if bare_laps is not None else laps
    clock = "wall" if best[0].gpu is None else "gpu"
    return {**found, **_share_of_peak(engine, batch_size, median_of(best, clock))}


def compare_latency(
    engines: Mapping[str, Measurable],
    *,
    batch_size: int = 1,
    warmup: int = 20,
    rounds: int = 10,
    runs_per_round: int = 20,
    untimed_per_round: int = 2,
) -> dict[str, Any]:
    """Time several engines in turn, so that a change of the machine's mood meets all of them.

    Each engine first makes ``warmup`` calls; then, ``rounds`` times and in an order reversed every
    second round, each makes ``untimed_per_round`` calls to find its weights in the caches again
    and ``runs_per_round`` timed ones. Returns ``{rows, ratios}``: rows as ``measure_latency``
    gives them, with the engine's key as ``label``, and per label the median over the rounds of
    (first engine's median / its own), of CPU time, of wall time and, where all have one, of the
    GPU's time: above 1 is faster than the first.
    """
    _check_counts(
        batch_size=batch_size, warmup=warmup, rounds=rounds, runs_per_round=runs_per_round,
        untimed_per_round=untimed_per_round,
    )  # fmt: skip
    if not engines:
        raise ParameterError("compare_latency was given no engine")
    labels = list(engines)
    batches = {label: fixed_images(engine, batch_size) for label, engine in engines.items()}
    stopwatches = {label: engine.stopwatch() for label, engine in engines.items()}
    laps: dict[str, list[list[Lap]]] = {label: [] for label in labels}
    before = _load_average()
    turns = len(labels) * (1 + rounds)
    with Progress(turns, f"compare {len(labels)} engines, batch {batch_size}", "turn") as progress:
        for label in labels:
            _turn(engines[label], batches[label], stopwatches[label], warmup, 0)
            progress.advance()
        for number in range(rounds):
            for label in labels if number % 2 == 0 else reversed(labels):
                turn = _turn(
                    engines[label], batches[label], stopwatches[label], untimed_per_round,
                    runs_per_round,
                )  # fmt: skip
                laps[label].append(turn)
                progress.advance()
    rows = [
        {
            "label": label,
            **_identity(engines[label], batch_size),
            "n_warmup": warmup,
            "n_timed": rounds * runs_per_round,
            **figures(engines[label], batch_size, [lap for turn in laps[label] for lap in turn]),
            "load_average": before,
            "processors": available_cpus(),
            "clocks": clocks(engines[label].place),
        }
        for label in labels
    ]
    on_gpus = all(lap.gpu is not None for turns in laps.values() for turn in turns for lap in turn)
    ticking = ("cpu", "wall", "gpu") if on_gpus else ("cpu", "wall")
    ratios = {
        label: {clock: _median_ratio(laps[labels[0]], laps[label], clock) for clock in ticking}
        for label in labels
    }
    return {"rows": rows, "ratios": ratios}


def _turn(
    engine: Measurable, images: np.ndarray, stopwatch: Stopwatch, warmup: int, runs: int
) -> list[Lap]:
    return time_calls(lambda: engine.logits(images), stopwatch, warmup=warmup, runs=runs)


def fixed_images(engine: Measurable, batch_size: int) -> np.ndarray:
    """The batch that every engine of a crop size is timed on, float32 [batch_size, 3, H, W]."""
    random = np.random.default_rng(0)
    return random.standard_normal((batch_size, 3, *engine.card.preprocess.size), np.float32)


def _identity(engine: Measurable, batch_size: int) -> dict[str, Any]:
    return {
        "model": engine.model,
        "variant": engine.card.variant,
        "engine": engine.name,
        "precision": engine.card.precision,
        "batch_size": batch_size,
        "image_size": engine.card.preprocess.crop,
        "device": engine.device,
        "threads": engine.threads,
        "versions": dict(engine.versions),
    }


def _share_of_peak(engine: Measurable, batch_size: int, seconds: float) -> dict[str, float | None]:
    card, kind = engine.card, engine.card.precision
    peak = peak_gflops(engine.place, threads=engine.threads, precision=kind)
    bandwidth = peak_gb_s(engine.place)
    share = moved = None
    if card.macs is not None and peak is not None and seconds > 0:
        share = 100 * 2 * card.macs * batch_size / seconds / (peak * 1e9)
    counted = card.params is not None and card.activations is not None
    if counted and bandwidth is not None and seconds > 0:
        values = card.params + batch_size * card.activations  # type: ignore[operator]
        moved = 100 * BYTES.get(kind, 4) * values / seconds / (bandwidth * 1e9)
    return {
        "gmacs": None if card.macs is None else card.macs / 1e9,
        "peak_gflops": peak,
        "percent_of_peak": share,
        "peak_gb_s": bandwidth,
        "percent_of_bandwidth": moved,
    }


def _median_ratio(
    first: Sequence[Sequence[Lap]], own: Sequence[Sequence[Lap]], clock: str
) -> float | None:
    """Median over the rounds of (first's median / own median) on one clock."""
    above = np.array([median_of(turn, clock) for turn in first])
    below = np.array([median_of(turn, clock) for turn in own])
    # A call may cost less CPU time than the clock resolves.
    return float(np.median(above / below)) if (below > 0).all() else None


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        least = 0 if name in ("warmup", "untimed_per_round") else 1
        if count < least:
            raise ParameterError(f"{name}={count}; it must be at least {least}")
