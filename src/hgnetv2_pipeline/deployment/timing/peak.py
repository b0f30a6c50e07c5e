"""What this machine can do, measured: its matrix-product rate and its memory bandwidth."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)

_SIDE_CPU, _SIDE_GPU, _REPEATS = 1024, 8192, 12
_COPY_CPU, _COPY_GPU = 64 << 20, 1 << 30  # bytes, beyond what caches hold


def peak_gflops(place: str, *, threads: int = 0, precision: str = "fp32") -> float | None:
    """Best GFLOP/s seen over a dozen square matrix products on ``place``, ``cpu`` or ``cuda``.

    A CPU is measured with NumPy in float32, whatever the precision, at ``threads`` BLAS threads
    (0 = the library's choice), a GPU with PyTorch in ``precision`` (fp32 is without TF32). The best
    of the dozen counts: the question is what the machine can do, not what its neighbours leave of
    it; at a known thread count the CPU time per thread is taken where it is shorter than the wall
    time, for the same reason. None where the library, the precision or memory is missing. The first
    answer is kept for the whole process.
    """
    return _gpu_peak(precision) if place == "cuda" else _cpu_peak(threads)


@cache
def peak_gb_s(place: str) -> float | None:
    """Best GB/s of a large copy in the memory of ``place``, reading and writing counted."""
    if place == "cuda":
        torch = _torch_with_cuda()
        if torch is None:
            return None
        try:
            source = torch.empty(_COPY_GPU, dtype=torch.uint8, device="cuda")
            target = torch.empty_like(source)
        except torch.OutOfMemoryError:
            _tell_no_room("bandwidth")
            return None
        seconds = _best_seconds(_synchronous(torch, lambda: target.copy_(source)))
        return 2 * _COPY_GPU / seconds / 1e9
    filled = np.ones(_COPY_CPU, np.uint8)
    room = np.empty_like(filled)
    return 2 * _COPY_CPU / _best_seconds(lambda: np.copyto(room, filled)) / 1e9


def _torch_with_cuda() -> Any:
    """PyTorch where it sees a GPU, else None."""
    if importlib.util.find_spec("torch") is None:
        _log.info("torch is not installed: no share of the GPU's peak is given")
        return None
    import torch

    return torch if torch.cuda.is_available() else None


@cache
def _cpu_peak(threads: int) -> float | None:
    if importlib.util.find_spec("threadpoolctl") is None:
        # Without it the BLAS would use another number of threads than the engine.
        _log.info("threadpoolctl is not installed: no share of the machine's peak is given")
        return None
    from threadpoolctl import threadpool_limits

    random = np.random.default_rng(0)
    left = random.standard_normal((_SIDE_CPU, _SIDE_CPU), np.float32)
    right = random.standard_normal((_SIDE_CPU, _SIDE_CPU), np.float32)
    out = np.empty_like(left)
    with threadpool_limits(limits=threads or None, user_api="blas"):
        seconds = _best_seconds(lambda: np.matmul(left, right, out=out), threads)
    return 2 * _SIDE_CPU**3 / seconds / 1e9


@cache
def _gpu_peak(precision: str) -> float | None:
    torch = _torch_with_cuda()
    kinds = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    if torch is None or precision not in kinds:
        return None
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        kind = getattr(torch, kinds[precision])
        left = torch.randn(_SIDE_GPU, _SIDE_GPU, device="cuda", dtype=kind)
        right = torch.randn(_SIDE_GPU, _SIDE_GPU, device="cuda", dtype=kind)
        seconds = _best_seconds(_synchronous(torch, lambda: torch.matmul(left, right)))
    except torch.OutOfMemoryError:
        _tell_no_room("peak")
        return None
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * _SIDE_GPU**3 / seconds / 1e9


def _tell_no_room(what: str) -> None:
    _log.info("the GPU has no memory left for a measurement: no share of its %s is given", what)


def _synchronous(torch: Any, work: Callable[[], object]) -> Callable[[], None]:
    def wait() -> None:
        work()
        torch.cuda.synchronize()

    return wait


def _best_seconds(work: Callable[[], object], threads: int = 0) -> float:
    work()
    best = float("inf")
    for _ in range(_REPEATS):
        cpu, start = time.process_time(), time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if threads:
            best = min(best, (time.process_time() - cpu) / threads)
    return best
