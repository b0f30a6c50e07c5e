"""A quick look at a user's folders, before ``hgnetv2 init`` chooses values that fit them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import DataError


@dataclass(frozen=True)
class Survey:
    """What a quick look at the folders found; the full scan is ingestion's."""

    per_class: Mapping[str, int]
    pool_images: int
    """Image files of the pool, and those its archives hold, estimated by their size."""
    pool_archives: int
    short_side: int
    unusable: tuple[tuple[str, str], ...] = ()
    """Labelled files that ingestion cannot take as they are, each with the reason."""
    transparent: int = 0
    """Labelled images with transparent pixels, among the few that were looked at."""
    looked_at: int = 0
    shapes: tuple[tuple[int, int], ...] = ()
    """Width and height, upright, of the labelled images that were looked at."""
    listed: int | None = None
    """Images of a list of several labels; None: folders, one class per image."""

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.listed is not None

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
    """Count images by name, with the rules of ingestion, and look at a few of them.

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
        more = f"; {loose:,} images are outside any class folder" if loose else ""
        bad = f"; {walk.bad[0][0]}: {walk.bad[0][1]}" if walk.bad else ""
        raise DataError(
            f"--labelled {labelled} needs one folder per class, at least two with images; found "
            f"{len(counts)}: {', '.join(counts) or 'none'}{more}{bad}"
        )
    per_class = {name: counts[name] for name in sorted(counts, key=natural)}
    shown = [path for paths in files.values() for path in paths[:: max(1, len(paths) // 5)][:5]]
    look = _look(shown[:200])
    images = archives = 0
    if pool is not None:
        images, archives = _survey_pool(pool, look.size)
    unusable = tuple((key, reason) for key, reason, _ in walk.bad)
    return Survey(
        per_class, images, archives, look.short_side, unusable, look.transparent, look.opened,
        look.shapes,
    )  # fmt: skip


def _has_several_labels(path: Path) -> bool:
    """Whether the first line of a list, if there is one, is of the kind ``path<TAB>0,1,0``."""
    from hgnetv2_pipeline.data.regular import open_or_refuse

    if not path.is_file():
        return False
    with open_or_refuse(path, "list") as file:
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
    look = _look([path for path in shown if path.is_file()])
    per_class = dict(zip(classes or [], map(int, counts), strict=True))
    return Survey(
        per_class, 0, 0, look.short_side, transparent=look.transparent, looked_at=look.opened,
        shapes=look.shapes, listed=len(paths),
    )  # fmt: skip


def _survey_pool(pool: Path, size: float) -> tuple[int, int]:
    """Images (those in archives of images of ``size`` bytes too) and archives below ``pool``."""
    from hgnetv2_pipeline.data.decode import IMAGE_SUFFIXES, READABLE

    if not pool.is_dir():
        raise DataError(f"--pool {pool} is not a folder")
    images = archives = packed = 0
    for where, _, names in os.walk(pool):
        for name in names:
            ending = Path(name).suffix.lower()
            images += ending in IMAGE_SUFFIXES
            if ending == ".tar":
                archives += 1
                with suppress(OSError):  # ingestion names it
                    packed += (Path(where) / name).stat().st_size
    if not images and not archives:
        raise DataError(f"--pool {pool} holds neither images ({READABLE}) nor tar archives")
    # A member takes whole blocks of 512 bytes and a header of one.
    return images + round(packed / (size + 768)), archives


@dataclass(frozen=True)
class _Look:
    """What a few images are like: median short side in pixels, mean bytes of a file, how many were
    opened, how many of those have transparent pixels, and their widths and heights.
    """

    short_side: int
    size: float
    opened: int
    transparent: int
    shapes: tuple[tuple[int, int], ...] = ()


def _look(images: list[Path]) -> _Look:
    """What those images are like that open."""
    from hgnetv2_pipeline.data.decode import (
        decode_and_describe,
        may_be_transparent,
        open_image,
        orientation,
        read_regular_file,
    )

    if not images:
        # All labelled images are in archives; ingestion opens those.
        return _Look(224, 100_000.0, 0, 0)
    shapes, sizes, transparent = [], [], 0
    for path in images:
        try:
            content = read_regular_file(path)
            image = open_image(content)
            # Only these are decoded; of photographs the header is enough.
            see_through = (
                may_be_transparent(image) and decode_and_describe(content).pixels.transparent
            )
        except DataError:
            continue  # ingestion names it
        width, height = image.size
        shapes.append((height, width) if orientation(image) > 4 else (width, height))
        sizes.append(len(content))
        transparent += see_through
    if not shapes:
        raise DataError(f"none of {len(images)} labelled images looked at can be opened")
    short = int(statistics.median(map(min, shapes)))
    return _Look(short, statistics.fmean(sizes), len(shapes), transparent, tuple(shapes))
