"""From logits to better weights: recipes, losses, optimisers, the loop, exact checkpoints."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "TrainConfig": "config",
    "TeacherConfig": "config",
    "DistributedConfig": "config",
    "RunSpec": "config",
    "StoredLogits": "config",
    "StoreSpec": "config",
    "Schedule": "schedule",
    "lr_at": "schedule",
    "plan_schedule": "schedule",
    "param_groups": "optim",
    "build_optimizer": "optim",
    "group_table": "optim",
    "Plan": "plan",
    "plan_run": "plan",
    "TrainResult": "run",
    "train_run": "run",
    "store_teacher_logits": "teacher_pass",
    "seal_teacher_logits": "teacher_pass",
    "train_many": "elastic",
    "fit": "loop",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
