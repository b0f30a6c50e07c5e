"""A quick look at a user's folders, before ``hgnetv2 init`` chooses values that fit them.

What layout it is, which images there are and of which class is answered by the functions that
ingestion asks; here they are counted, and a few of them opened.
"""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.commands.checks import Look, check_listings
from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.layouts import Layout, Place
    from hgnetv2_pipeline.data.scan.listing import Listing
    from hgnetv2_pipeline.data.scan.walk import UnopenedFile


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

    layout: Layout | None = None
    """How the images are arranged; None where nobody looked."""
    sets: Mapping[str, int] = field(default_factory=dict)
    """Images of each set that the layout has."""
    warnings: tuple[str, ...] = ()
    """What ingestion will say of the images, as far as that is known from their names."""

    @property
    def several(self) -> bool:
        """Whether an image may have several labels."""
        return self.listed is not None

    @property
    def labelled(self) -> int:
        """Labelled images, by file name."""
        if self.sets:
            return sum(self.sets.values())
        return sum(self.per_class.values()) if self.listed is None else self.listed

    @property
    def imbalance(self) -> float:
        """Largest class over smallest."""
        return max(self.per_class.values()) / max(1, min(self.per_class.values()))

    @property
    def extremes(self) -> str:
        """The largest and the smallest class with their counts, in words."""
        if self.imbalance == 1:
            return f"{min(self.per_class.values()):,} of each class"
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


@dataclass(frozen=True)
class Asked:
    """What the user says of the arrangement of the images, where looking is not enough.

    Attributes:
        layout: as in ``data.layout``.
        lists: the folder of lists and class names, or one list or table.
        class_from: as in ``data.class_from``.
        delimiter: as in ``data.delimiter``.
        columns: role and name of columns of a table, as in ``data.columns``.
        trusted: folders that links may lead into.
    """

    layout: str = "auto"
    lists: Path | None = None
    class_from: str = "auto"
    delimiter: str = "auto"
    columns: tuple[tuple[str, str], ...] = ()
    trusted: tuple[Path, ...] = ()


def survey(
    labelled: Path | Sequence[Path],
    pool: Path | None,
    asked: Asked = Asked(),  # noqa: B008
) -> Survey:
    """Recognise the layout, count images by name, with the rules of ingestion, look at a few.

    Raises ``DataError`` where the folders cannot make a data set: not there, fewer than two
    classes, none that opens, an empty pool, no layout or one of two.
    """
    from hgnetv2_pipeline.data.scan.listing import walk_parts

    place = place_asked(labelled, asked)
    layout = layout_asked(place, asked)
    listings = _list(place, layout)
    sets = {split: len(listing.found) for split, listing in listings.items()}
    if layout.name == "imagenet":
        sets["val"] = len(walk_parts(place.root / "val", trusted=place.trusted).places)
    per_class: dict[str, int] = {}
    for listing in listings.values():
        for name, count in listing.per_class().items():
            per_class[name] = per_class.get(name, 0) + count
    look = _look(listings["train"].root, _some(listings["train"]))
    checked = check_listings(listings, layout, look)
    images = archives = 0
    if pool is not None:
        images, archives = _survey_pool(pool, look.size)
    unusable = tuple(
        (key, reason) for listing in listings.values() for key, reason, _ in listing.walk.bad
    )
    return Survey(
        per_class, images, archives, look.short_side, unusable, look.transparent, look.opened,
        listed=sum(sets.values()) if layout.name == "multi_label" else None,
        layout=layout, sets=sets, warnings=checked, shapes=look.shapes,
    )  # fmt: skip


def place_asked(labelled: Path | Sequence[Path], asked: Asked) -> Place:
    """Where to look; DataError for what is neither folder, .tar nor list.

    A list or table in place of a folder has its images below the folder it is in.
    """
    from hgnetv2_pipeline.data.scan.layouts import Place, place_of

    roots = [labelled] if isinstance(labelled, Path) else list(labelled)
    for root in roots:
        if not root.is_dir() and not (root.is_file() and root.suffix.lower() == ".tar"):
            if is_list_given(roots):
                folder = root.parent
                return Place(folder, root, ("",), asked.trusted)
            raise DataError(
                f"--labelled {root} is not a folder, nor a .tar or a list of images"
                if root.exists()
                else f"--labelled {root} does not exist"
            )
    if asked.lists is not None and not asked.lists.exists():
        raise DataError(f"--lists {asked.lists} does not exist")
    return place_of(roots, asked.lists, asked.trusted)


def is_list_given(roots: Sequence[Path]) -> bool:
    """Whether ``--labelled`` is a list or table of images."""
    from hgnetv2_pipeline.data.lists.tables import TABLES

    endings = {*TABLES, ".txt", ".lst"}
    return len(roots) == 1 and roots[0].is_file() and roots[0].suffix.lower() in endings


def layout_asked(place: Place, asked: Asked) -> Layout:
    """The layout, as it was said or recognised."""
    from hgnetv2_pipeline.data.lists.tables import Columns
    from hgnetv2_pipeline.data.scan.layouts import Layout, layout_as

    unknown = [role for role, _ in asked.columns if role not in ("path", "label", "split")]
    if unknown:
        raise ParameterError(f"--columns {unknown[0]}=...: path, label and split are known")
    given = Layout("lists", delimiter=asked.delimiter, columns=Columns(**dict(asked.columns)))
    return layout_as(asked.layout, place, given, asked.class_from)


def _list(place: Place, layout: Layout) -> dict[str, Listing]:
    """The images of each set; of ImageNet's own layout those of train."""
    from hgnetv2_pipeline.data.scan.layout_sets import list_sets
    from hgnetv2_pipeline.data.scan.listing import list_class_folders, walk_parts

    if layout.name not in ("imagenet", "sample"):
        return list_sets(place, layout)
    walked = walk_parts(place.root / "train", ("",), place.trusted)
    return {"train": list_class_folders(walked)}


def _some(listing: Listing) -> list[UnopenedFile]:
    """At most 200 images, five of each class, drawn: every second file may be of one shape."""
    groups: dict[int | None, list[UnopenedFile]] = {}
    for item in listing.found:
        groups.setdefault(item.label, []).append(item)
    drawn = random.Random(0)  # noqa: S311 - the same images each time
    some = [item for one in groups.values() for item in drawn.sample(one, min(5, len(one)))]
    return drawn.sample(some, min(200, len(some)))


def _survey_pool(pool: Path, size: float) -> tuple[int, int]:
    """Images (those in archives of images of ``size`` bytes too) and archives of ``pool``."""
    from hgnetv2_pipeline.data.formats import READABLE, claims_picture, unread_format

    if pool.is_file() and pool.suffix.lower() != ".tar":
        from hgnetv2_pipeline.data.lists.syntax import parse_list

        return len(parse_list(pool, labelled=False).paths), 0
    if not pool.exists():
        raise DataError(f"--pool {pool} does not exist")
    images = archives = packed = 0
    walked = [(str(pool.parent), [], [pool.name])] if pool.is_file() else os.walk(pool)
    for where, _, names in walked:
        for name in names:
            images += claims_picture(name, lambda: b"") and unread_format(name) is None
            if name.lower().endswith(".tar"):
                archives += 1
                with suppress(OSError):  # ingestion names it
                    packed += (Path(where) / name).stat().st_size
    if not images and not archives:
        raise DataError(f"--pool {pool} holds neither images ({READABLE}) nor tar archives")
    # A member takes whole blocks of 512 bytes and a header of one.
    return images + round(packed / (size + 768)), archives


def _look(root: Path, images: Sequence[UnopenedFile]) -> Look:
    """What those images are like that open."""
    from hgnetv2_pipeline.data.decode import (
        decode_and_describe,
        may_be_transparent,
        open_image,
        orientation,
    )
    from hgnetv2_pipeline.data.index import read_bytes

    shapes, sizes, transparent = [], [], 0
    refused: list[tuple[str, str]] = []
    for item in images:
        try:
            content = read_bytes((item.path, item.offset, item.length), root)
            image = open_image(content)
            # Only these are decoded; of photographs the header is enough.
            see_through = (
                may_be_transparent(image) and decode_and_describe(content).pixels.transparent
            )
        except DataError as error:
            refused.append((item.key, str(error)))
            continue
        width, height = image.size
        shapes.append((height, width) if orientation(image) > 4 else (width, height))
        sizes.append(len(content))
        transparent += see_through
    if not shapes:
        why = f"; {refused[0][0]}: {refused[0][1]}" if refused else ""
        raise DataError(f"none of {len(images)} labelled images looked at can be opened{why}")
    return Look(
        int(statistics.median(map(min, shapes))), statistics.fmean(sizes), len(shapes), transparent,
        tuple(shapes), tuple(refused),
    )  # fmt: skip
