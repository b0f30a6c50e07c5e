"""Small recipes for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.training.config import RunSpec, TrainConfig
from hgnetv2_pipeline.variants import Variant

CLASSES = ["red", "blue"]
# Every kind of layer of the real ones, at a hundredth of the time.
NANO = Variant((8, 8), (8, 8, 8, 8), (16, 16, 16, 16), (1, 1, 1, 1), 1, lab=True)

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 2e-5, "betas": None}
ADAMW = {"name": "adamw", "momentum": None, "weight_decay": 0.05, "betas": [0.9, 0.999]}
_LOSS = {
    "label_smoothing": 0.0, "temperature": 1.0, "gt_weight": 0.0, "asymmetric": None,
    "gamma": None, "class_weights": None,
}  # fmt: skip
LABELS = _LOSS | {"name": "label_smoothing", "label_smoothing": 0.1}
FOCAL = _LOSS | {"name": "focal", "gamma": 2.0}
SSLD = _LOSS | {"name": "ce"}
BCE = _LOSS | {"name": "bce"}
ASL = _LOSS | {
    "name": "asymmetric",
    "asymmetric": {"gamma_neg": 4.0, "gamma_pos": 0.0, "clip": 0.05},
}


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
        "erasing": 0.0,
        "mix": {"mixup": 0.0, "cutmix": 0.0, "probability": 0.0, "switch": 0.5},
        "input": {"fast": False, "device": "none", "resized": None},
        "image_size": 32,
        "resize_short": 32,
        "fit": "crop",
        "pad_colour": None,
        "workers": 0,
        "amp": "off",
        "fp16_scale": 128.0,
        "channels_last": True,
        "mode": "as_set",
        "compile": False,
        "accumulate": 1,
        "sync_bn": False,
        "threads": 1,
        "class_balance": "none",
        "eval_every": None,
        "keep": "best",
        "early_stopping": {"patience": None, "min_delta": 0.0},
        "keep_best": 0,
        "profile": {"start": 2, "steps": 0},
        "checkpoint_every_minutes": 10.0,
        "keep_checkpoints": 2,
        "max_bad": 0.0,
        "init": "scratch",
        "head": "strict",
        "freeze_at": 0,
        "freeze_norm": False,
    }
    return base | changes


def recipe(**changes: Any) -> TrainConfig:
    """The same, validated."""
    return TrainConfig.model_validate(values(**changes))


def make_job(
    pictures: Path, folder: Path, name: str, *, spec: dict[str, Any] | None = None, **changes: Any
) -> RunSpec:
    """A job on ``pictures`` into ``folder/name``; ``spec`` changes the job, the rest its recipe."""
    quick = {"epochs": None, "steps": 6, "warmup_epochs": 0.0, **changes}
    base: dict[str, Any] = {
        "variant": "nano",
        "num_classes": 2,
        "classes": CLASSES,
        "train": pictures / "train.parquet",
        "train_root": pictures,
        "val": pictures / "val.parquet",
        "val_root": pictures,
        "root": folder,
        "seed": 3,
        "config": recipe(**quick),
        "teacher": None,
        "teacher_logits": None,
        "out": folder / name,
        "stage": "train",
        "inputs": {"train": "0" * 8},
        "device": "cpu",
        "resume": "exact",
    }
    return RunSpec.model_validate(base | (spec or {}))
