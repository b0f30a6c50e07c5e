"""What the evaluations so far say: which were the best, their weights as files, when to stop.

All of it follows from the list of evaluations, which every checkpoint holds: a resumed run decides
as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

Evaluations = Sequence[tuple[int, float, str]]
"""In order: step, metric on val, and which weights have it: "raw" or "ema", the better ones."""

BEST = "best"


def count_without_gain(evaluations: Evaluations, min_delta: float) -> int:
    """Evaluations since the last one that beat the best before it by more than ``min_delta``."""
    best, since = float("-inf"), 0
    for _, value, _ in evaluations:
        since += 1
        if value > best + min_delta:
            best, since = value, 0
    return since


def best_steps(evaluations: Evaluations, count: int) -> list[int]:
    """Steps of the ``count`` best evaluations, the best first; of equals the later."""
    ranked = sorted(evaluations, key=lambda one: (one[1], one[0]), reverse=True)
    return [step for step, _, _ in ranked[:count]]


def keep_weights(
    folder: Path,
    evaluations: Evaluations,
    count: int,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Keep the newest evaluation's ``tensors`` in ``folder`` if it is among the best ``count``.

    ``step=00000150.safetensors``, written aside and renamed; then those that are no longer among
    the best go, so that the best one is there at any moment.
    """
    from hgnetv2_pipeline.weights.load import save_weights

    chosen = best_steps(evaluations, count)
    kept = {step: folder / f"step={step:08d}.safetensors" for step in chosen}
    step, value, weights = evaluations[-1]
    if step in kept:
        facts = {"step": str(step), "val": repr(value), "weights": weights}
        on_cpu = {name: value.detach().cpu() for name, value in tensors.items()}
        save_weights(kept[step], on_cpu, {**metadata, **facts})
    for path in folder.glob("step=*.safetensors"):
        if path not in kept.values():
            path.unlink()
