"""PaddleClas's protocol on a GPU: batch 1, 2100 runs, the first 100 dropped."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.kit.plan_runner import PlanRunner


def time_plan(
    runner: PlanRunner, images: np.ndarray, *, warmup: int = 100, runs: int = 2000
) -> dict[str, Any]:
    """Time one batch ``images``, warm-up apart.

    ``gpu``: from the start of the network to its end, by CUDA events, images already on the GPU;
    ``gpu_with_copies``: with the copy there and the logits' copy back; ``wall``: the same as the
    host sees it. Each with ``mean_ms``, ``p50_ms``, ``p90_ms``, ``p99_ms``, ``min_ms``.
    """
    device: Any = runner.device
    batch = len(images)
    rows: list[tuple[float, float, float]] = []
    for _ in range(warmup + runs):
        began = time.perf_counter()
        start = device.mark()
        device.upload(runner.input, images)
        enter = device.mark()
        runner.enqueue(batch)
        leave = device.mark()
        device.start_download(runner.output, batch * runner.classes)
        end = device.mark()
        device.synchronize()
        wall = 1000 * (time.perf_counter() - began)
        rows.append((device.between(enter, leave), device.between(start, end), wall))
        device.forget(start, enter, leave, end)
    kept = np.array(rows[warmup:])
    return {
        "batch_size": batch,
        "n_warmup": warmup,
        "n_timed": runs,
        **{
            name: _summary(kept[:, column])
            for column, name in enumerate(("gpu", "gpu_with_copies", "wall"))
        },
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    found = {"mean": values.mean(), "p50": p50, "p90": p90, "p99": p99, "min": values.min()}
    return {f"{name}_ms": round(float(value), 5) for name, value in found.items()}
