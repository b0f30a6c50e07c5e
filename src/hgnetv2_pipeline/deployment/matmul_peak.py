"""What this machine can do: its float32 matrix-product rate, measured, at a thread count."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Callable
from functools import cache

import numpy as np

_log = logging.getLogger(__name__)

_SIDE_CPU, _SIDE_GPU, _REPEATS = 1024, 8192, 12
_GPU_ENGINES = frozenset(("tensorrt", "ort-cuda"))


def peak_gflops(engine: str, threads: int) -> float | None:
    """Best float32 GFLOP/s seen over a dozen square matrix products, on what ``engine`` runs on.

    A CPU is probed with NumPy at ``threads`` BLAS threads (0 = the library's choice), a GPU with
    PyTorch without TF32. The best of the dozen counts: the probe asks what the machine can do,
    not what its neighbours leave of it; at a known thread count the CPU time per thread is taken
    where it is shorter than the wall time, for the same reason. None where the probe's library is
    missing. The first answer for a kind and thread count stands for the whole process.
    """
    if engine in _GPU_ENGINES or (engine == "torch" and _torch_has_cuda()):
        return _gpu_peak()
    return _cpu_peak(threads)


def _torch_has_cuda() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


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
        return _best_rate(lambda: np.matmul(left, right, out=out), _SIDE_CPU, threads)


@cache
def _gpu_peak() -> float | None:
    if importlib.util.find_spec("torch") is None:
        _log.info("torch is not installed: no share of the GPU's peak is given")
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        left = torch.randn(_SIDE_GPU, _SIDE_GPU, device="cuda")
        right = torch.randn(_SIDE_GPU, _SIDE_GPU, device="cuda")

        def product() -> None:
            torch.matmul(left, right)
            torch.cuda.synchronize()

        return _best_rate(product, _SIDE_GPU)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _best_rate(product: Callable[[], object], side: int, threads: int = 0) -> float:
    product()
    best = float("inf")
    for _ in range(_REPEATS):
        cpu, start = time.process_time(), time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
        if threads:
            best = min(best, (time.process_time() - cpu) / threads)
    return 2 * side**3 / best / 1e9
