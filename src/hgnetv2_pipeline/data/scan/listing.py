"""Labelled images before any is opened: which files, of which class, and what is in the way.

``hgnetv2 init`` counts a listing, ingestion decodes it (``folders.scan_listing``); both see the
same images.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.data.formats import READABLE
from hgnetv2_pipeline.data.lists.files import Fence
from hgnetv2_pipeline.data.scan.walk import UnopenedFile, Walk, folders_of, natural, split_of
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)

ClassFrom = Literal["first", "last", "path"]
"""Which of the folders that an image is in names its class: the first below the root, the last one,
or all of them, joined by /.
"""
OUTSIDE = "is outside any class folder; move it into one"


@dataclass(frozen=True)
class Listing:
    """The labelled images of one set.

    Attributes:
        root: what their paths are relative to.
        found: each with the number of its class; of several labels the row of ``table``.
        walk: what of the folders cannot be used, and how many files are no images.
        classes: class names by number; None: no names are known.
        folders: the class folders by number, where labels come from folders.
        table: [sets, classes] of 0 and 1, where an image may have several labels.
        repeats: lines of a list that repeat an earlier one.
    """

    root: Path
    found: list[UnopenedFile]
    walk: Walk
    classes: list[str] | None
    folders: list[str] | None = None
    table: npt.NDArray[np.uint8] | None = None
    repeats: tuple[tuple[str, int], ...] = field(default=())

    def per_class(self) -> dict[str, int]:
        """Images of each class, by name; of classes without names by number."""
        labels = np.array([item.label for item in self.found], np.int64)
        if self.table is not None:
            counts = self.table[labels].sum(axis=0, dtype=np.int64)
        else:
            counts = np.bincount(labels, minlength=len(self.classes or ()))
        names = self.classes or [str(number) for number in range(len(counts))]
        return dict(zip(names, counts.tolist(), strict=True))


@dataclass(frozen=True)
class Walked:
    """All files below a root that claim to be images, each with the folders it is in."""

    root: Path
    walk: Walk
    places: list[tuple[UnopenedFile, tuple[str, ...]]]


def walk_parts(
    root: Path,
    parts: Sequence[str] = ("",),
    trusted: Sequence[Path] = (),
    *,
    splits: bool = False,
) -> Walked:
    """Walk below ``root``, or below folders and tars of it, each as a root of its own.

    ``splits``: a tar may be the folder of a split.
    """
    whole = Walk(Fence(root, trusted))
    places: list[tuple[UnopenedFile, tuple[str, ...]]] = []
    for part in parts:
        top = root / part if part else root
        if part and top.is_file():
            walk = Walk(Fence(top.parent, trusted))
            walk.archive(top.name)
            part = part.rpartition("/")[0]
        else:
            walk = Walk(Fence(top, trusted))
            walk.run()
        prefix = f"{part}/" if part else ""
        for item in walk.found:
            below = UnopenedFile(prefix + item.key, prefix + item.path, item.offset, item.length)
            places.append((below, folders_of(item, walk.wrapped, splits=splits)))
        whole.bad += [(prefix + key, reason, line) for key, reason, line in walk.bad]
        whole.ignored += walk.ignored
    whole.found = [item for item, _ in places]
    return Walked(Path(root), whole, places)


def class_in(folders: tuple[str, ...], class_from: ClassFrom = "first") -> str | None:
    """The class that an image in these folders has; None where it is in none."""
    if not folders:
        return None
    return {"first": folders[0], "last": folders[-1], "path": "/".join(folders)}[class_from]


def list_class_folders(
    walked: Walked,
    *,
    split: str | None = None,
    class_from: ClassFrom = "first",
    classes: Sequence[str] | None = None,
) -> Listing:
    """The images in class folders, of one split folder where ``split`` is given.

    Labels are 0..n-1 in natural order of the class names (2 before 10), or by ``classes``, if
    another set has fixed them; others are refused.

    Raises:
        DataError: no image is in a class folder; unknown classes.
    """
    root = walked.root
    walk = Walk(walked.walk.fence)
    walk.ignored = walked.walk.ignored if split in (None, "train") else 0
    walk.bad = [row for row in walked.walk.bad if _belongs(row[0], split)]
    named: dict[str, list[UnopenedFile]] = {}
    beside: dict[str, int] = {}
    for item, folders in walked.places:
        if split is not None:
            here = split_of(folders[0]) if folders else None
            if not folders and split == "train":
                walk.quarantine(item.key, "is in no folder of a split (train, val, test)")
            if here != split:
                if folders and here is None and split == "train":
                    beside[folders[0]] = beside.get(folders[0], 0) + 1
                continue
            folders = folders[1:]
        name = class_in(folders, class_from)
        if name is None:
            walk.quarantine(item.key, OUTSIDE)
        elif not name.isprintable() or name != name.strip():
            walk.quarantine(
                item.key, f"class folder {name!r} has a name that no class map can hold"
            )
        else:
            named.setdefault(name, []).append(item)
    for folder, count in beside.items():
        _log.warning("%s: %d images of %s/ are in no split and are left out", root, count, folder)
    walk.ignored += sum(beside.values())
    if not named:
        where = f" of {split}" if split else ""
        raise DataError(
            f"{root}: no images in class folders{where} ({len(walk.bad):,} unusable files"
            f"{first_reason(walk)}, {walk.ignored:,} other files); one folder per class is needed, "
            f"with {READABLE} inside"
        )
    names = list(classes) if classes is not None else sorted(named, key=natural)
    refuse_unknown(root, named, names)
    number = {name: label for label, name in enumerate(names)}
    found = [
        UnopenedFile(item.key, item.path, item.offset, item.length, number[name])
        for name, group in named.items()
        for item in group
    ]
    return Listing(root, found, walk, names, folders=names)


def refuse_unknown(root: Path, named: Iterable[str], names: list[str]) -> None:
    """DataError where a class is not among those that another set has fixed."""
    known = set(names)
    unknown = sorted((name for name in named if name not in known), key=natural)
    if unknown:
        raise DataError(
            f"{root}: class folder {unknown[0]!r} is not among the {len(names)} known classes "
            f"({len(unknown)} such folders{_nearest(unknown[0], names)}); rename or remove it"
        )


def _nearest(name: str, names: Sequence[str]) -> str:
    """A known class that differs in case or spaces alone, in words."""
    plain: Callable[[str], str] = lambda text: "".join(text.split()).casefold()  # noqa: E731
    same = [known for known in names if plain(known) == plain(name)]
    return f"; is it {same[0]!r}?" if same else ""


def links_out(root: Path, walk: Walk) -> tuple[int, str]:
    """How many links lead out of ``root`` and are not followed, and the folder that holds all
    their targets; 0 and nothing where none does.
    """
    places = [
        Path(os.path.realpath(root / key))
        for key, reason, _ in walk.bad
        if reason.startswith(("a link to a folder", "a link leads"))
    ]
    folders = [place if place.is_dir() else place.parent for place in places if place.exists()]
    if not folders:
        return 0, ""
    # Of several linked class folders the one they are in.
    whole = os.path.commonpath(folders)
    return len(folders), whole if len(set(folders)) > 1 else str(folders[0])


def first_reason(walk: Walk) -> str:
    """The first file that cannot be used, and why, behind a colon; empty where all can."""
    return f": {walk.bad[0][0]}: {walk.bad[0][1]}" if walk.bad else ""


def _belongs(key: str, split: str | None) -> bool:
    """Whether what cannot be used belongs to a split; what is in none belongs to train."""
    if split is None:
        return True
    top = key.partition("!")[0].partition("/")[0].removesuffix(".tar")
    return (split_of(top) or "train") == split
