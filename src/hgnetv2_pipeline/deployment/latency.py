"""Latency by the seed page's protocol: 2,100 runs at batch 1, of which the first 100 do not count.

Wall time is what a user waits; CPU time (of the whole process) is what the work costs, and on a
shared machine the steadier of the two. Each figure comes with the device, the versions and the
share of the machine's measured matrix-product rate, so that it can be judged elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.matmul_peak import peak_gflops
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.progress import Progress


class Measurable(Protocol):
    """What is measured: an ``Engine``, or anything with these."""

    name: str
    model: str
    device: str
    threads: int
    versions: dict[str, str]
    card: ModelCard

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, 3, H, W] -> float32 [N, C]."""


def measure_latency(
    engine: Measurable, *, batch_size: int = 1, warmup: int = 100, runs: int = 2000
) -> dict[str, Any]:
    """Time ``runs`` calls of ``engine.logits`` after ``warmup`` calls that do not count.

    The input is one fixed random batch, float32 [batch_size, 3, crop, crop]; copies to and from
    a GPU are inside the time. Returns the latency JSON: times in ms for the whole batch,
    ``cpu_ms`` the median CPU time of the process, ``gmacs`` for one image, ``peak_gflops`` the
    machine's measured float32 matrix-product rate at the engine's thread count, and
    ``percent_of_peak = 100 * 2 * MACs * batch / p50 / peak``; the last three are null where
    unknown.
    """
    _check_counts(batch_size=batch_size, warmup=warmup, runs=runs)
    images = _images(engine, batch_size)
    wall, cpu = np.empty(runs), np.empty(runs)
    before = _load_average()
    with Progress(warmup + runs, f"latency {engine.name} batch {batch_size}", "run") as progress:
        for _ in range(warmup):
            engine.logits(images)
            progress.advance()
        for index in range(runs):
            wall[index], cpu[index] = _timed(engine, images)
            progress.advance()
    return {
        **_identity(engine, batch_size),
        "n_warmup": warmup,
        "n_timed": runs,
        **_summary(wall, cpu),
        **_share_of_peak(engine, batch_size, float(np.median(wall))),
        "load_average": before,
    }


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
    (first engine's median / its own), of CPU time and of wall time: above 1 is faster than the
    first.
    """
    _check_counts(
        batch_size=batch_size, warmup=warmup, rounds=rounds, runs_per_round=runs_per_round,
        untimed_per_round=untimed_per_round,
    )  # fmt: skip
    if not engines:
        raise ParameterError("compare_latency was given no engine")
    labels = list(engines)
    batches = {label: _images(engine, batch_size) for label, engine in engines.items()}
    wall = {label: np.empty((rounds, runs_per_round)) for label in labels}
    cpu = {label: np.empty((rounds, runs_per_round)) for label in labels}
    before = _load_average()
    turns = len(labels) * (1 + rounds)
    with Progress(turns, f"compare {len(labels)} engines, batch {batch_size}", "turn") as progress:
        for label in labels:
            for _ in range(warmup):
                engines[label].logits(batches[label])
            progress.advance()
        for number in range(rounds):
            for label in labels if number % 2 == 0 else reversed(labels):
                for _ in range(untimed_per_round):
                    engines[label].logits(batches[label])
                for index in range(runs_per_round):
                    wall[label][number, index], cpu[label][number, index] = _timed(
                        engines[label], batches[label]
                    )
                progress.advance()
    rows = [
        {
            "label": label,
            **_identity(engines[label], batch_size),
            "n_warmup": warmup,
            "n_timed": rounds * runs_per_round,
            **_summary(wall[label].ravel(), cpu[label].ravel()),
            **_share_of_peak(engines[label], batch_size, float(np.median(wall[label]))),
            "load_average": before,
        }
        for label in labels
    ]
    ratios = {
        label: {
            "cpu": _median_ratio(cpu[labels[0]], cpu[label]),
            "wall": _median_ratio(wall[labels[0]], wall[label]),
        }
        for label in labels
    }
    return {"rows": rows, "ratios": ratios}


def _timed(engine: Measurable, images: np.ndarray) -> tuple[float, float]:
    """(wall, CPU) seconds of one call."""
    cpu = time.process_time()
    wall = time.perf_counter()
    engine.logits(images)
    return time.perf_counter() - wall, time.process_time() - cpu


def _images(engine: Measurable, batch_size: int) -> np.ndarray:
    side = engine.card.preprocess.crop
    random = np.random.default_rng(0)
    return random.standard_normal((batch_size, 3, side, side), np.float32)


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


def _summary(wall: np.ndarray, cpu: np.ndarray) -> dict[str, float]:
    p50, p90, p99 = np.percentile(wall, (50, 90, 99))
    seconds = {
        "mean_ms": wall.mean(), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99,
        "min_ms": wall.min(), "cpu_ms": np.median(cpu),
    }  # fmt: skip
    return {name: float(value) * 1e3 for name, value in seconds.items()}


def _share_of_peak(engine: Measurable, batch_size: int, p50: float) -> dict[str, float | None]:
    macs = engine.card.macs
    peak = peak_gflops(engine.name, engine.threads)
    share = None
    if macs is not None and peak is not None and p50 > 0:
        share = 100 * 2 * macs * batch_size / p50 / (peak * 1e9)
    return {
        "gmacs": None if macs is None else macs / 1e9,
        "peak_gflops": peak,
        "percent_of_peak": share,
    }


def _median_ratio(first: np.ndarray, own: np.ndarray) -> float | None:
    above, below = np.median(first, axis=1), np.median(own, axis=1)
    # A call may cost less CPU time than the clock resolves.
    return float(np.median(above / below)) if (below > 0).all() else None


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        least = 0 if name in ("warmup", "untimed_per_round") else 1
        if count < least:
            raise ParameterError(f"{name}={count}; it must be at least {least}")
