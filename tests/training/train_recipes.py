"""Small recipes for the tests of this room."""

from __future__ import annotations

from typing import Any

from hgnetv2_pipeline.training import TrainConfig

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 2e-5, "betas": None}
ADAMW = {"name": "adamw", "momentum": None, "weight_decay": 0.05, "betas": [0.9, 0.999]}
LABELS = {"name": "label_smoothing", "label_smoothing": 0.1, "temperature": 1.0, "gt_weight": 0.0}
SSLD = {"name": "ce", "label_smoothing": 0.0, "temperature": 1.0, "gt_weight": 0.0}


def values(**changes: Any) -> dict[str, Any]:
    """A complete recipe as plain values, small enough for a test."""
    base: dict[str, Any] = {
        "epochs": 10.0,
        "steps": None,
        "batch_size": 8,
        "lr": 0.01,
        "lr_batch": None,
        "warmup_epochs": 1.0,
        "optimizer": SGD,
        "stage_lr_mult": None,
        "clip_norm": None,
        "ema_decay": None,
        "loss": LABELS,
        "augment": {"name": "affine"},
        "image_size": 32,
        "resize_short": 32,
        "workers": 0,
        "amp": "off",
        "channels_last": True,
        "threads": 1,
        "class_balance": "none",
        "eval_every": None,
        "checkpoint_every_minutes": 10.0,
        "keep_checkpoints": 2,
        "max_bad": 0.0,
        "init": "scratch",
        "head": "strict",
    }
    return base | changes


def recipe(**changes: Any) -> TrainConfig:
    """The same, validated."""
    return TrainConfig.model_validate(values(**changes))
