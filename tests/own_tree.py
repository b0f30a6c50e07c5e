"""A user's folders, drawn by NumPy: coloured shapes, names that are hard, files that are broken."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# Spaces, umlauts, Chinese, and a quote: what folders of real users are called.
CLASSES = ("Äpfel rot", "Bob's tiles", "blue rings", "猫")
PER_CLASS = {"Äpfel rot": 36, "Bob's tiles": 28, "blue rings": 30, "猫": 26}
COPIED = 5


@dataclass(frozen=True)
class Tree:
    """What was written where, and how many files of each kind."""

    labelled: Path
    pool: Path
    n_labelled: int
    n_bad_labelled: int
    n_pool: int
    n_bad_pool: int
    near_group: tuple[str, ...]
    copied: tuple[str, ...]


def draw(kind: int, rng: np.random.Generator) -> Image.Image:
    """A picture of class ``kind``: disc, checks, ring or stripes, on a noisy ground."""
    side = int(rng.integers(48, 65))
    y, x = np.mgrid[0:side, 0:side]
    cx, cy = rng.uniform(0.35, 0.65, 2) * side
    radius = np.hypot(x - cx, y - cy)
    size = rng.uniform(0.2, 0.33) * side
    shape = (
        radius < size,
        ((x // int(rng.integers(5, 9)) + y // int(rng.integers(5, 9))) % 2).astype(bool),
        np.abs(radius - size) < 4,
        (x + y * rng.uniform(0.5, 2)) % 14 < 6,
    )[kind % 4]
    paint = np.array([(200, 40, 40), (60, 160, 60), (40, 70, 210), (210, 180, 40)][kind % 4])
    ground = rng.integers(0, 110, 3)
    pixels = np.where(shape[..., None], paint + rng.integers(-30, 31, 3), ground)
    pixels = pixels + rng.normal(0, 12, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, style: str = "PNG", **options: int) -> bytes:
    """The image as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, style, **options)
    return out.getvalue()


def write_tree(root: Path, seed: int = 0) -> Tree:
    """Labelled folders and a pool (a folder tree and a tar) below ``root``."""
    rng = np.random.default_rng(seed)
    labelled, pool = root / "my labelled images", root / "the pool"
    for kind, name in enumerate(CLASSES):
        (labelled / name).mkdir(parents=True)
        for number in range(PER_CLASS[name]):
            image = draw(kind, rng)
            # Both endings; JPEG as cameras write it.
            if number % 2:
                image.save(labelled / name / f"bild {number:02d}.JPG", "JPEG", quality=92)
            else:
                image.save(labelled / name / f"bild {number:02d}.png")
    # Three recodings of one picture: they must end on one side of the split.
    original = labelled / CLASSES[0] / "bild 00.png"
    near = [f"{CLASSES[0]}/bild 00.png"]
    with Image.open(original) as image:
        for quality in (60, 75, 90):
            name = f"{CLASSES[0]}/kopie {quality}.jpg"
            (labelled / name).write_bytes(encoded(image, "JPEG", quality=quality))
            near.append(name)
    (labelled / CLASSES[1] / "broken.jpg").write_bytes(
        (labelled / CLASSES[1] / "bild 01.JPG").read_bytes()[:200]
    )
    (labelled / CLASSES[2] / "empty.png").write_bytes(b"")
    (labelled / CLASSES[2] / "notes.txt").write_text("not an image")

    folder = pool / "von Ömer" / "2024"
    folder.mkdir(parents=True)
    for number in range(60):
        draw(number, rng).save(folder / f"img {number}.png")
    copied = tuple(f"{name}/bild 04.png" for name in CLASSES) + (f"{CLASSES[3]}/bild 06.png",)
    with tarfile.open(pool / "archiv mit Ümlaut.tar", "w") as tar:
        for number in range(60):
            _add(tar, f"räume/图像 {number}.png", encoded(draw(number, rng)))
        for number, name in enumerate(copied):
            _add(tar, f"copy/{number}.png", (labelled / name).read_bytes())
        _add(tar, "räume/kaputt.png", b"\x89PNG\r\n\x1a\n but no more")
    return Tree(
        labelled, pool,
        n_labelled=sum(PER_CLASS.values()) + 3 + 2, n_bad_labelled=2,
        n_pool=60 + 60 + len(copied) + 1, n_bad_pool=1,
        near_group=tuple(near), copied=copied,
    )  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_pool(root: Path, images: int) -> None:
    """A folder of ``images`` unlabelled images of the first two classes in turn."""
    rng = np.random.default_rng(1)
    root.mkdir(parents=True)
    for number in range(images):
        draw(number % 2, rng).save(root / f"{number}.png")


def write_classes(root: Path, classes: Sequence[str], per_class: int = 8) -> None:
    """A folder per class with ``per_class`` small images, each class of another shape."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            draw(kind, rng).save(root / name / f"{number}.png")
