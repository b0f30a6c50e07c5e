"""Calls timed: warm-up, laps on a CPU's clocks or a GPU's events, their mean and percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hgnetv2_pipeline.progress import Progress

Call = Callable[[], object]


@dataclass(frozen=True)
class Lap:
    """Seconds of one call: ``wall`` as its caller waits, ``cpu`` of the whole process, ``gpu``
    between two events around it on the stream (None on a CPU).
    """

    wall: float
    cpu: float
    gpu: float | None = None


class Stopwatch(Protocol):
    """Times one call, to its very end."""

    def settle(self) -> None:
        """Wait for what was started and not waited for."""

    def lap(self, call: Call) -> Lap:
        """Make the call once."""


class HostStopwatch:
    """Wall and CPU time of a call that has done its work when it returns."""

    def settle(self) -> None:
        """There is nothing to wait for."""

    def lap(self, call: Call) -> Lap:
        cpu = time.process_time()
        wall = time.perf_counter()
        call()
        return Lap(time.perf_counter() - wall, time.process_time() - cpu)


class CudaStopwatch:
    """The same with the GPU's own time, by events on ``stream`` (None: PyTorch's current one).

    The wall time ends when the GPU has finished. The GPU's time runs from the first event to the
    second, so it holds the gaps in which the GPU waits for the next launch.
    """

    def __init__(self, stream: Any = None) -> None:
        import torch

        self._stream = stream
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def settle(self) -> None:
        """Wait for the stream."""
        self._end.record(self._stream)
        self._end.synchronize()

    def lap(self, call: Call) -> Lap:
        cpu = time.process_time()
        wall = time.perf_counter()
        self._begin.record(self._stream)
        call()
        self._end.record(self._stream)
        self._end.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Lap(wall, cpu, self._begin.elapsed_time(self._end) / 1e3)


def time_calls(
    call: Call, stopwatch: Stopwatch, *, warmup: int, runs: int, progress: Progress | None = None
) -> list[Lap]:
    """The laps of ``runs`` calls after ``warmup`` calls that do not count (nor look at a clock)."""
    for _ in range(warmup):
        call()
        if progress is not None:
            progress.advance()
    stopwatch.settle()
    laps = []
    for _ in range(runs):
        laps.append(stopwatch.lap(call))
        if progress is not None:
            progress.advance()
    return laps


def summary(laps: Sequence[Lap]) -> dict[str, float]:
    """Milliseconds: mean, p50, p90, p99 and least wall time; median CPU time; the GPU's times."""
    wall = np.array([lap.wall for lap in laps])
    found = {**_spread(wall, ""), "min_ms": wall.min(), "cpu_ms": median_of(laps, "cpu")}
    gpu = [lap.gpu for lap in laps if lap.gpu is not None]
    if gpu:
        found |= _spread(np.array(gpu), "gpu_")
    return {name: float(value) * 1e3 for name, value in found.items()}


def median_of(laps: Sequence[Lap], clock: str) -> float:
    """Median seconds on one of the clocks of ``Lap``."""
    return float(np.median([getattr(lap, clock) for lap in laps]))


def _spread(seconds: np.ndarray, prefix: str) -> dict[str, float]:
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
    return {
        f"{prefix}mean_ms": seconds.mean(), f"{prefix}p50_ms": p50, f"{prefix}p90_ms": p90,
        f"{prefix}p99_ms": p99,
    }  # fmt: skip
