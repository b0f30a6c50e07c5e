"""``hgnetv2 init``: look at a user's folders and write an environment with defaults that fit them.

The rules are stated where they are applied; every value they choose stands in
``conf/NAME/parameters.yml``, to be read and changed.
"""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.cpus import available_cpus
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name

RESERVED = {"base", "sample", "imagenet", "own", "local"}
LARGE = 20_000
"""Labelled images from which on the published SGD recipe is taken."""


@dataclass(frozen=True)
class Survey:
    """What a quick look at the folders found; the full scan is ingestion's."""

    per_class: Mapping[str, int]
    pool_images: int
    """Image files of the pool, and those its archives hold, estimated by their size."""
    pool_archives: int
    short_side: int
    unusable: tuple[tuple[str, str], ...] = ()
    """Labelled files that ingestion cannot take as they lie, each with the reason."""
    listed: int | None = None
    """Images of a list of several labels; None: folders, an image a class."""

    @property
    def labelled(self) -> int:
        """Labelled images, by file name."""
        return sum(self.per_class.values()) if self.listed is None else self.listed

    @property
    def imbalance(self) -> float:
        """Largest class over smallest."""
        return max(self.per_class.values()) / max(1, min(self.per_class.values()))

    @property
    def extremes(self) -> str:
        """The largest and the smallest class with their counts, in words."""
        largest = max(self.per_class, key=lambda name: self.per_class[name])
        smallest = min(self.per_class, key=lambda name: self.per_class[name])
        return (
            f"largest {largest!r} {self.per_class[largest]:,}, "
            f"smallest {smallest!r} {self.per_class[smallest]:,}"
        )

    @property
    def pool(self) -> str:
        """The pool in words."""
        if not self.pool_images and not self.pool_archives:
            return "no pool"
        if not self.pool_archives:
            return f"pool of {self.pool_images:,} images"
        archives = "1 archive" if self.pool_archives == 1 else f"{self.pool_archives:,} archives"
        return f"pool of about {self.pool_images:,} images, with those in {archives}"


def survey(labelled: Path, pool: Path | None) -> Survey:
    """Count images by name, with the rules of ingestion, and read the size of a few of them.

    Raises ``DataError`` where the folders cannot make a data set: not there, fewer than two
    classes, none that opens, an empty pool.
    """
    from hgnetv2_pipeline.data.lists.files import Fence
    from hgnetv2_pipeline.data.scan.walk import Walk, class_of, natural

    if not labelled.is_dir():
        raise DataError(f"--labelled {labelled} is not a folder")
    if _has_several_labels(labelled / "train_list.txt"):
        return _survey_lists(labelled)
    walk = Walk(Fence(labelled))
    walk.run()
    counts: dict[str, int] = {}
    files: dict[str, list[Path]] = {}
    loose = 0
    for found in walk.found:
        name = class_of(found, walk.wrapped)
        if name is None:
            loose += 1
            continue
        counts[name] = counts.get(name, 0) + 1
        if found.offset < 0:
            files.setdefault(name, []).append(labelled / found.path)
    if len(counts) < 2:
        more = f"; {loose:,} images lie outside any class folder" if loose else ""
        bad = f"; {walk.bad[0][0]}: {walk.bad[0][1]}" if walk.bad else ""
        raise DataError(
            f"--labelled {labelled} needs one folder a class, at least two with images; found "
            f"{len(counts)}: {', '.join(counts) or 'none'}{more}{bad}"
        )
    per_class = {name: counts[name] for name in sorted(counts, key=natural)}
    shown = [path for paths in files.values() for path in paths[:: max(1, len(paths) // 5)][:5]]
    side, size = _sizes(shown[:200])
    images = archives = 0
    if pool is not None:
        images, archives = _survey_pool(pool, size)
    unusable = tuple((key, reason) for key, reason, _ in walk.bad)
    return Survey(per_class, images, archives, side, unusable)


def _has_several_labels(path: Path) -> bool:
    """Whether the first line of a list, if there is one, is of the kind ``path<TAB>0,1,0``."""
    from hgnetv2_pipeline.data.regular import opened

    if not path.is_file():
        return False
    with opened(path, "list") as file:
        lines = (line for line in file if line.strip() and not line.startswith(b"#"))
        return b"\t" in next(lines, b"")


def _survey_lists(labelled: Path) -> Survey:
    """The images of each class in the lists of train and val, where one may have several."""
    from hgnetv2_pipeline.data.classmap import read_class_map
    from hgnetv2_pipeline.data.lists.multi_label import label_matrix
    from hgnetv2_pipeline.data.lists.read import read_list

    names = labelled / "class_map.txt"
    classes = read_class_map(names) if names.is_file() else None
    matrices, paths = [], []
    for path in (labelled / "train_list.txt", labelled / "val_list.txt"):
        if path.is_file():
            width = len(classes) if classes else None
            frame = read_list(path, num_classes=width, multi_label=True, duplicates="drop")
            matrices.append(label_matrix(frame))
            classes = classes or [str(number) for number in range(matrices[0].shape[1])]
            paths += frame["path"].tolist()
    counts = sum(matrix.sum(axis=0, dtype=int) for matrix in matrices)
    shown = [labelled / path for path in paths[:: max(1, len(paths) // 200)]]
    side, _ = _sizes([path for path in shown if path.is_file()])
    return Survey(
        dict(zip(classes or [], map(int, counts), strict=True)), 0, 0, side, listed=len(paths)
    )


def _survey_pool(pool: Path, size: float) -> tuple[int, int]:
    """Images (those in archives of images of ``size`` bytes too) and archives below ``pool``."""
    from hgnetv2_pipeline.data.scan.walk import READABLE

    if not pool.is_dir():
        raise DataError(f"--pool {pool} is not a folder")
    endings = {f".{ending}" for ending in READABLE.split()}
    images = archives = packed = 0
    for where, _, names in os.walk(pool):
        for name in names:
            ending = Path(name).suffix.lower()
            images += ending in endings
            if ending == ".tar":
                archives += 1
                with suppress(OSError):  # ingestion names it
                    packed += (Path(where) / name).stat().st_size
    if not images and not archives:
        raise DataError(f"--pool {pool} holds neither images ({READABLE}) nor tar archives")
    # A member takes whole blocks of 512 bytes and a header of one.
    return images + round(packed / (size + 768)), archives


def _sizes(images: list[Path]) -> tuple[int, float]:
    """Median short side in pixels and mean bytes of those images that open."""
    from hgnetv2_pipeline.data.decode import MAX_PIXELS, open_image, read_regular_file

    if not images:
        # All labelled images lie in archives; ingestion opens those.
        return 224, 100_000.0
    sides, sizes = [], []
    for path in images:
        try:
            content = read_regular_file(path)
            image = open_image(content, MAX_PIXELS)
        except DataError:
            continue  # ingestion names it
        sides.append(min(image.size))
        sizes.append(len(content))
    if not sides:
        raise DataError(f"none of {len(images)} labelled images looked at can be opened")
    return int(statistics.median(sides)), statistics.fmean(sizes)


def choose(
    found: Survey, *, variant: str | None, test: bool, cuda: bool, cores: int, teacher_file: bool
) -> dict[str, Any]:
    """Values for the template, from what was found. The rules:

    - variant: B4 with a GPU, B0 without.
    - images: 224 pixels; smaller ones keep their own size, rounded down to a multiple of 32.
    - optimiser: the published SGD recipe from 20,000 labelled images on, AdamW below (2e-3 was
      measured on the embedded sample, whose runs are short; half of it from 2,000 images on).
    - teacher: PPHGNet_small, fine-tuned from its official weights, if they lie in weights/; else
      the mean of two students trained on the labelled images.
    - epochs from scratch: 200 as published with a GPU, 90 without, and up to 240 for a data set so
      small that fewer would not show it 9,600 images. Stage 1: 60, fewer without a GPU where that
      would be more than 300,000 images, but at least 10. Stage 2: 20.
    - how much is mined is left to the rule of mining, 28 % of the pool.
    - classes are drawn equally often when the largest is more than 3 times the smallest.
    - several labels an image: AdamW at the rates of recipe_multi_label.yml, whatever their number.
    - loader processes: 16 at most with a GPU, 2 without, where they would take the network's cores;
      none for images so small that starting them costs more than they do.
    """
    from hgnetv2_pipeline.mining.selection import default_target

    train = max(1, round(found.labelled * (0.85 if test else 0.7)))
    several = found.listed is not None
    large, medium = found.labelled >= LARGE and not several, found.labelled >= 2_000
    chosen = variant or ("b4" if cuda else "b0")
    size = 224 if found.short_side >= 224 else max(32, found.short_side // 32 * 32)
    scratch = max(200 if cuda else 90, min(240, round(9_600 / train)))
    pool = found.pool_images
    mined = train + (default_target(pool, len(found.per_class)) if pool else 0)
    stage1 = 60 if cuda else max(10, min(60, round(300_000 / mined)))
    batch = 128 if large else min(64, max(8, train // 3))
    lr, lower, lowest = (0.5, 0.05, 0.005) if large else (2.0e-3, 5.0e-4, 2.0e-4)
    if medium and not large:
        lr = 1.0e-3
    if several:
        lr, lower = 1.0e-3, 3.0e-4
    workers = min(16 if cuda else 2, max(0, cores - 1)) if size >= 128 else 0
    return {
        "VARIANT": chosen,
        "TEACHER": "hgnet_small" if teacher_file else f"two_{chosen}",
        "ARCH": "hgnet_small" if teacher_file else chosen,
        "MEMBERS": 1 if teacher_file else 2,
        "TEACHER_INIT": "hgnet_small.ssld" if teacher_file else "scratch",
        "TEACHER_EPOCHS": 30 if teacher_file else scratch,
        "TEACHER_LR": lower if teacher_file else lr,
        "EPOCHS": scratch,
        "STAGE1_EPOCHS": stage1,
        "STAGE2_EPOCHS": 20,
        "LR": lr,
        "STAGE2_LR": lowest,
        "FINETUNE_LR": lower,
        "LR_BATCH": 1024 if large else "null",
        "WARMUP": 5 if medium else 1,
        "OPTIMIZER": (
            "{name: sgd, momentum: 0.9, weight_decay: 2.0e-5, betas: null}"
            if large
            else "{name: adamw, momentum: null, weight_decay: 0.05, betas: [0.9, 0.999]}"
        ),
        "BATCH": batch,
        "SCORE_BATCH": 256 if cuda else 64,
        "SIZE": size,
        "RESIZE": 232 if size == 224 else size,
        "WORKERS": workers,
        "AMP": "bf16" if cuda else "off",
        "BALANCE": "sampler" if found.imbalance > 3 and not several else "none",
        "LAYOUT": "multi_label" if several else "folders",
        "LOSS": "{name: bce, label_smoothing: 0.0}" if several else "{name: label_smoothing}",
        "EVAL_EVERY": 1 if large else 10,
        "TEST_SHARE": 0.0 if test else 0.15,
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
) -> tuple[Path, Survey, dict[str, Any]]:
    """Write ``conf/NAME`` from the template ``conf/own``, whole or not at all, and DVC's stages.

    Returns the folder, what was found, and the values chosen.
    """
    from hgnetv2_pipeline.project.identity import VARIANTS

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ParameterError(f"NAME {name!r}: use letters, digits, _ and -, a letter first")
    if name in RESERVED:
        raise ParameterError(f"NAME {name!r} is taken by this project; choose another")
    if variant is not None and variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS, "--variant")
    target = project / "conf" / name
    taken = f"conf/{name} exists already: edit it, or choose another NAME"
    if target.exists():
        raise ParameterError(taken)
    if test is not None and not test.is_dir():
        raise DataError(f"--test {test} is not a folder")
    for option, folder in (("--labelled", labelled), ("--pool", pool), ("--test", test)):
        if folder is not None and "${" in str(folder.resolve()):
            # In a configuration that names a value to look up, which a path never does.
            raise ParameterError(f"{option} {folder}: rename it, ${{ cannot stand in a path")
    for option, folder in (("--pool", pool), ("--test", test)):
        if folder is not None and folder.resolve().is_relative_to(labelled.resolve()):
            raise DataError(
                f"{option} {folder} lies inside --labelled {labelled}, where every folder is a "
                "class; move one of the two out"
            )
    found = survey(labelled, pool)
    if found.listed is not None and (pool or test):
        raise ParameterError(
            f"{'--pool' if pool else '--test'} with lists of several labels in {labelled}: SSLD "
            "mines for one label an image, and test_list.txt beside the others is the final test"
        )
    held_out = labelled / "test_list.txt"
    chosen = choose(
        found,
        variant=variant,
        test=test is not None or (found.listed is not None and held_out.is_file()),
        cuda=_cuda(),
        cores=available_cpus(),
        teacher_file=(project / "weights" / "PPHGNet_small_ssld_pretrained.pdparams").is_file(),
    )
    # JSON strings are YAML strings, whatever quotes, colons or non-ASCII letters a path holds.
    values = chosen | {
        "NAME": name,
        "COMMAND": f"kedro run --env {name}" + ("" if pool else " --pipeline train"),
        "LABELLED": json.dumps(str(labelled.resolve()), ensure_ascii=False),
        "POOL": json.dumps([str(pool.resolve())] if pool else [], ensure_ascii=False),
        "TEST": json.dumps(str(test.resolve()), ensure_ascii=False) if test else "null",
        "FINETUNE_INIT": (
            "ssld_stage1/${identity:variant}/${identity:run}"
            if pool
            else "import_weights/${identity:variant}/ssld_stage1"
        ),
        "SUMMARY": (
            f"{found.labelled:,} labelled images of {len(found.per_class)} classes (largest "
            f"{found.imbalance:.1f} times the smallest), {found.pool}, short side "
            f"{found.short_side}."
        ),
    }
    with ownership.made_aside(target) as folder:
        aside = folder / name
        aside.mkdir()
        for source in sorted((project / "conf" / "own").glob("*.yml")):
            lines = source.read_text(encoding="utf-8").splitlines()
            if source.name == "globals.yml":
                lines = lines[2:]
            text = "".join(_filled(line, values) + "\n" for line in lines)
            (aside / source.name).write_text(text, encoding="utf-8")
        if target.exists():  # by another command, in the meantime
            raise ParameterError(taken)
        aside.rename(target)
    if (project / "dvc.yaml").is_file():
        from hgnetv2_pipeline.project.stages import write_stages

        write_stages(project, name)
    return target, found, chosen


def _filled(line: str, values: Mapping[str, Any]) -> str:
    """A line of the template with its values; a comment behind them stays in its column."""

    def fill(text: str) -> str:
        # In one pass: a path may itself hold what looks like a placeholder.
        return re.sub(r"__([A-Z0-9_]+?)__", lambda found: str(values[found[1]]), text)

    code, mark, comment = line.partition("  # ")
    if not mark:
        return fill(line)
    return f"{fill(code.rstrip()):<{len(code)}}  # {fill(comment)}"


def _cuda() -> bool:
    """Whether an NVIDIA GPU is at hand, without torch's seconds of import."""
    return Path("/proc/driver/nvidia/version").exists()
