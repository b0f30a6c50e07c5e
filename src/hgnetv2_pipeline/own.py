"""``hgnetv2 init``: look at a user's folders and write an environment with defaults that fit them.

The rules are stated where they are applied; every value they choose stands in
``conf/NAME/parameters.yml``, to be read and changed.
"""

from __future__ import annotations

import json
import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.errors import DataError, ParameterError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
RESERVED = {"base", "sample", "imagenet", "own", "local"}


@dataclass(frozen=True)
class Survey:
    """What a quick look at the folders found; the full scan is ingestion's."""

    per_class: dict[str, int]
    pool_images: int
    pool_archives: int
    short_side: int

    @property
    def labelled(self) -> int:
        """Labelled images, by file name."""
        return sum(self.per_class.values())

    @property
    def imbalance(self) -> float:
        """Largest class over smallest."""
        return max(self.per_class.values()) / max(1, min(self.per_class.values()))


def survey(labelled: Path, pool: Path | None) -> Survey:
    """Count images by suffix and read the size of a few of them."""
    if not labelled.is_dir():
        raise DataError(f"--labelled {labelled} is not a folder")
    folders = sorted(path for path in labelled.iterdir() if path.is_dir())
    per_class: dict[str, int] = {}
    shown: list[Path] = []
    for folder in folders:
        images = [path for path in _files(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        if images:
            per_class[folder.name] = len(images)
            shown += images[:: max(1, len(images) // 5)][:5]
    if len(per_class) < 2:
        raise DataError(
            f"--labelled {labelled} needs one folder a class, at least two with images; found "
            f"{len(per_class)}: {', '.join(per_class) or 'none'}"
        )
    images_in_pool = archives = 0
    if pool is not None:
        if not pool.is_dir():
            raise DataError(f"--pool {pool} is not a folder")
        for path in _files(pool):
            images_in_pool += path.suffix.lower() in IMAGE_SUFFIXES
            archives += path.suffix.lower() == ".tar"
        if not images_in_pool and not archives:
            raise DataError(f"--pool {pool} holds neither images nor tar archives")
    return Survey(per_class, images_in_pool, archives, _short_side(shown[:200]))


def _files(folder: Path) -> list[Path]:
    # Symlinked folders count: large collections are often assembled of them.
    return [
        Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in sorted(names)
    ]


def _short_side(images: list[Path]) -> int:
    from PIL import Image

    sides = []
    for path in images:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except (OSError, Image.DecompressionBombError):
            continue
    if not sides:
        raise DataError(f"none of {len(images)} labelled images looked at can be opened")
    return int(statistics.median(sides))


def choose(
    found: Survey, *, variant: str | None, test: bool, cuda: bool, cores: int, teacher_file: bool
) -> dict[str, Any]:
    """Values for the template, from what was found. The rules:

    - images: 224 pixels; smaller ones keep their own size, rounded down to 32.
    - optimiser: the published SGD recipe from 20,000 labelled images on, AdamW below (measured on
      the embedded sample; SGD's warm-up alone would eat a short run).
    - teacher: PPHGNet_small from its official weights if they lie in weights/, else the mean of
      two students trained on the labelled images.
    - epochs: at least 90 for the teacher and as many as show it 9,600 images; 60 for stage 1, 20
      for stage 2.
    - classes: drawn equally often when the largest is more than 3 times the smallest.
    """
    size = 224 if found.short_side >= 200 else max(32, found.short_side // 32 * 32)
    large = found.labelled >= 20_000
    chosen = variant or ("b4" if cuda else "b0")
    epochs = max(90, min(240, round(9600 / found.labelled)))
    batch = 128 if large else min(64, max(8, found.labelled // 4))
    arch = "hgnet_small" if teacher_file else chosen
    return {
        "VARIANT": chosen,
        "TEACHER": "hgnet_small" if teacher_file else f"two_{chosen}",
        "ARCH": arch,
        "MEMBERS": 1 if teacher_file else 2,
        "TEACHER_INIT": "hgnet_small.ssld" if teacher_file else "scratch",
        "TEACHER_EPOCHS": 30 if teacher_file else epochs,
        "STAGE1_EPOCHS": 60,
        "STAGE2_EPOCHS": 20,
        "LR": 0.5 if large else 2.0e-3,
        "STAGE2_LR": 0.005 if large else 2.0e-4,
        "LR_BATCH": 1024 if large else "null",
        "WARMUP": 5 if large else 1,
        "OPTIMIZER": (
            "{name: sgd, momentum: 0.9, weight_decay: 2.0e-5, betas: null}"
            if large
            else "{name: adamw, momentum: null, weight_decay: 0.05, betas: [0.9, 0.999]}"
        ),
        "BATCH": batch,
        "SIZE": size,
        "RESIZE": round(size * 232 / 224) if size == 224 else size,
        "WORKERS": max(0, min(16, cores - 1)) if size >= 128 else 0,
        "AMP": "bf16" if cuda else "off",
        "BALANCE": "sampler" if found.imbalance > 3 else "none",
        "EVAL_EVERY": 1 if large else 10,
        "TEST_SHARE": 0.0 if test else 0.15,
        "SPLIT": "test",
        "SUPERVISED": "[0]" if teacher_file else "[]",
    }


def init(
    project: Path,
    name: str,
    *,
    labelled: Path,
    pool: Path | None,
    test: Path | None,
    variant: str | None,
) -> tuple[Path, Survey]:
    """Write ``conf/NAME`` from the template ``conf/own``; return it and what was found."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParameterError(f"NAME {name!r}: use letters, digits, _ and -, a letter first")
    if name in RESERVED:
        raise ParameterError(f"NAME {name!r} is taken by this project; choose another")
    target = project / "conf" / name
    if target.exists():
        raise ParameterError(f"{target} exists already; edit it, or choose another NAME")
    found = survey(labelled, pool)
    if test is not None and not test.is_dir():
        raise DataError(f"--test {test} is not a folder")
    values = choose(
        found,
        variant=variant,
        test=test is not None,
        cuda=_cuda(),
        cores=os.cpu_count() or 1,
        teacher_file=(project / "weights" / "PPHGNet_small_ssld_pretrained.pdparams").is_file(),
    )
    # JSON strings are YAML strings, whatever quotes, colons or non-ASCII letters a path holds.
    values |= {
        "NAME": name,
        "LABELLED": json.dumps(str(labelled.resolve()), ensure_ascii=False),
        "POOL": json.dumps([str(pool.resolve())] if pool else [], ensure_ascii=False),
        "TEST": json.dumps(str(test.resolve()), ensure_ascii=False) if test else "null",
        "SUMMARY": (
            f"{found.labelled:,} labelled images of {len(found.per_class)} classes (largest "
            f"{found.imbalance:.1f} times the smallest), pool of {found.pool_images:,} images and "
            f"{found.pool_archives} archives, short side {found.short_side}."
        ),
    }
    for source in sorted((project / "conf" / "own").glob("*.yml")):
        text = source.read_text(encoding="utf-8")
        if source.name == "globals.yml":
            text = text.split("\n", 2)[2]
        for key, value in values.items():
            text = text.replace(f"__{key}__", str(value))
        target.mkdir(exist_ok=True)
        (target / source.name).write_text(text, encoding="utf-8")
    return target, found


def _cuda() -> bool:
    """Whether an NVIDIA GPU is at hand, without torch's seconds of import."""
    return Path("/proc/driver/nvidia/version").exists()
