"""From logits to metrics. ``metrics`` needs NumPy alone; torch is imported where used."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Evaluation": "evaluate",
    "evaluate_samples": "evaluate",
    "predict_logits": "evaluate",
    "topk_counts": "metrics",
    "best_thresholds": "metrics",
    "mean_average_precision": "metrics",
    "summarise": "metrics",
    "summarise_multi_label": "metrics",
    "wilson_interval": "metrics",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
