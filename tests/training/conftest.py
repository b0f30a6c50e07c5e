"""A tiny data set on disk and jobs on it: two shapes, 32 px, told apart in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from train_recipes import recipe

from hgnetv2_pipeline.data import scan_list, write_index
from hgnetv2_pipeline.models import VARIANTS, Variant
from hgnetv2_pipeline.training import RunSpec

CLASSES = ["disc", "bars"]
# Every kind of layer of the real ones, at a hundredth of the time.
NANO = Variant((8, 8), (8, 8, 8, 8), (16, 16, 16, 16), (1, 1, 1, 1), 1, lab=True)


def _picture(label: int, rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:32, :32]
    if label == 0:
        shape = (x - rng.uniform(12, 20)) ** 2 + (y - rng.uniform(12, 20)) ** 2 < 90
    else:
        shape = (x + int(rng.integers(6))) % 6 < 3
    pixels = rng.integers(0, 60, (32, 32, 3)) + 180 * shape[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with images, ``train.parquet`` (21 images) and ``val.parquet`` (10)."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 21), ("val", 10)):
        lines = []
        for index in range(count):
            name = f"{split}/{index:02d}.png"
            (root / name).parent.mkdir(exist_ok=True)
            _picture(index % 2, rng).save(root / name)
            lines.append(f"{name} {index % 2}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
        scan = scan_list(root / f"{split}_list.txt", root)
        write_index(root / f"{split}.parquet", scan.samples)
    return root


@pytest.fixture
def job(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunSpec]:
    """``job("name", lr=..., spec={...})``: a job into ``tmp_path/name`` with a changed recipe."""

    monkeypatch.setitem(VARIANTS, "nano", NANO)

    def make(name: str, *, spec: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
        quick = {"epochs": None, "steps": 6, "warmup_epochs": 0.0, **changes}
        values: dict[str, Any] = {
            "variant": "nano",
            "num_classes": 2,
            "classes": CLASSES,
            "train": pictures / "train.parquet",
            "train_root": pictures,
            "val": pictures / "val.parquet",
            "val_root": pictures,
            "root": tmp_path,
            "seed": 3,
            "config": recipe(**quick),
            "teacher": None,
            "out": tmp_path / name,
            "stage": "train",
            "inputs": {"train": "0" * 8},
            "device": "cpu",
        }
        return RunSpec.model_validate(values | (spec or {}))

    return make
