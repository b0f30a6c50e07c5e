"""Tiny pictures and parameters that the tests of the nodes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.training.config import DistributedConfig

SIDE = 24


def picture(path: Path, seed: int, size: int = SIDE) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(path)


def identity(project: Path) -> Identity:
    return Identity(
        project=project, environment="mine", dataset="mine", variant="b0", run="seed=0", seed=0,
        teacher="mixed", model="train/b0/seed=0", download=False,
    )  # fmt: skip


def run_of(who: Identity, *, device: str = "cpu", redo: Sequence[str] = ()) -> Run:
    """The run of ``who`` as its nodes are told of it, in one process."""
    alone = DistributedConfig(nproc_per_node="auto", nnodes=1, rdzv_endpoint=None, max_restarts=3)
    return Run(identity=who, device=device, distributed=alone, redo=list(redo), resume="exact")


def parameters(**given: Any) -> DataParams:
    values: dict[str, Any] = {
        "layout": "folders", "root": "images", "pool": [], "test": None, "min_per_class": 2,
        "max_bad": 0.0, "duplicates": "refuse", "leaks": "refuse", "trusted_roots": [],
        "workers": 1, "alpha": "drop", "depth": "auto", "list_root": None, "delimiter": "auto",
        "class_from": "auto",
        "lists": {"train": None, "val": None, "test": None, "class_map": None},
        "columns": {"path": None, "label": None, "split": None},
        "split": {"val": 0.2, "test": 0.0, "group_pattern": None, "groups": None,
                  "near_duplicates": True},
    }  # fmt: skip
    return DataParams(**(values | given))
