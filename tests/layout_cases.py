"""Small trees of pictures as people have them: folders, splits, lists, tables, shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
_made = iter(range(1, 10**9))


def picture(kind: int = 0) -> Image.Image:
    """A picture that is like no other: noise with a bright channel by class."""
    pixels = np.random.default_rng(next(_made)).integers(0, 256, (6, 6, 3), np.uint8)
    pixels[..., kind % 3] //= 3
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def content(kind: int = 0, style: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture(kind).save(out, style)
    return out.getvalue()


def put(root: Path, name: str, kind: int = 0, style: str = "PNG") -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(kind, style))
    return name


def tree(root: Path, **folders: int) -> Path:
    """Folders by name, ``__`` for a slash, each with so many pictures."""
    for kind, (name, count) in enumerate(folders.items()):
        for number in range(count):
            put(root, f"{name.replace('__', '/')}/{number}.png", kind)
    return root


def members(path: Path, names: Iterable[tuple[str, bytes]]) -> None:
    """A plain tar of these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def lists(
    root: Path,
    line: Callable[[str, int], str] = "{} {}".format,
    *,
    sets: dict[str, int] | None = None,
    place: str = "jpg/{}_{}.png",
    classes: int = 3,
    named: Callable[[str], str] = "{}_list.txt".format,
    first: str = "",
) -> Path:
    """Pictures and lists of them, so many of each class in each set."""
    number = 0
    for split, count in (sets or {"train": 5, "val": 3, "test": 2}).items():
        rows = []
        for _ in range(count):
            number += 1
            for kind in range(classes):
                rows.append((put(root, place.format(kind, number), kind), kind))
        text = first + "".join(line(name, kind) + "\n" for name, kind in rows)
        path = root / named(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def table(root: Path, sets: dict[str, int], header: str, mark: str = ",", **more: str) -> Path:
    """Tables train.csv, val.csv ... of named classes."""
    names = ("cat", "dog", "red panda")
    return lists(
        root, lambda name, kind: f"{name}{mark}{names[kind]}", sets=sets, first=header + "\n",
        named=more.get("named", "{}.csv").format,
    )  # fmt: skip


def shard(path: Path, count: int, label: Callable[[int], str], ending: str = "cls") -> None:
    files: list[tuple[str, bytes]] = []
    for number in range(count):
        key = f"{path.stem}/{number:06d}"
        files += [(f"{key}.png", content(number % 3)), (f"{key}.{ending}", label(number).encode())]
    members(path, files)


def class_tar(path: Path, folders: dict[str, int], prefix: str = "") -> None:
    members(
        path,
        [
            (f"{prefix}{name}/{number}.png" if name else f"{prefix}{number}.png", content(kind))
            for kind, (name, count) in enumerate(folders.items())
            for number in range(count)
        ],
    )


def as_json(number: int) -> str:
    return json.dumps({"label": ["cat", "dog", "fox"][number % 3]})
