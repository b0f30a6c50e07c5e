"""With the teacher's answers shuffled between images, distillation has nothing to teach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from train_recipes import ADAMW, SSLD, recipe

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.teacher.teacher import Teacher
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import train_run

CLASSES = ["left", "right", "top", "bottom"]


def scene(folder: Path) -> pd.DataFrame:
    """48 images per class, bright on the side that is their name."""
    rng = np.random.default_rng(3)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(48):
            pixels = rng.integers(0, 120, (32, 32, 3))
            half = [(slice(None), slice(0, 16)), (slice(None), slice(16, 32)),
                    (slice(0, 16), slice(None)), (slice(16, 32), slice(None))][label]  # fmt: skip
            pixels[half] += 130
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folders.scan_folder_tree(folder).samples


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the images with their index, and a teacher trained on their labels."""
    base = tmp_path_factory.mktemp("shuffle")
    samples = scene(base / "images")
    # Classes in the natural order of folder names: bottom, left, right, top.
    index.write_index(base / "train.parquet", samples)
    teacher = base / "teacher"
    train_run(spec(base, teacher, steps=24, teacher=None))
    return base, teacher


def spec(base: Path, out: Path, *, steps: int, teacher: Path | None) -> RunSpec:
    loss = "label_smoothing" if teacher is None else "ce"
    return RunSpec.model_validate(
        {
            "variant": "b0",
            "num_classes": 4,
            "classes": sorted(CLASSES),
            "train": base / "train.parquet",
            "train_root": base / "images",
            "val": base / "train.parquet",
            "val_root": base / "images",
            "root": base,
            "seed": 0,
            "config": recipe(
                epochs=None,
                steps=steps,
                batch_size=32,
                lr=2e-3,
                warmup_epochs=0.0,
                optimizer=ADAMW,
                loss={**SSLD, "name": loss},
            ),
            "teacher": {"members": [str(teacher)], "bn": "eval"} if teacher else None,
            "teacher_logits": None,
            "out": out,
            "stage": "test",
            "inputs": {},
            "device": "cpu",
            "resume": "exact",
        }
    )


def test_shuffled_answers_teach_nothing_and_true_ones_do(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, teacher = prepared
    taught = train_run(spec(base, tmp_path / "true", steps=24, teacher=teacher))
    answer = Teacher.__call__

    def shuffled(self: Teacher, images: torch.Tensor) -> torch.Tensor:
        return answer(self, images)[torch.randperm(len(images))]

    monkeypatch.setattr(Teacher, "__call__", shuffled)
    misled = train_run(spec(base, tmp_path / "shuffled", steps=24, teacher=teacher))
    assert taught.metrics["val"]["top1"] >= 0.9
    # Chance is 0.25; 192 images give a standard error of 0.03.
    assert misled.metrics["val"]["top1"] <= 0.45
