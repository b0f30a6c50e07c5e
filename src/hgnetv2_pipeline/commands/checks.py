"""What ingestion will say of labelled images, known to ``hgnetv2 init`` from a few of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.layouts import Layout
    from hgnetv2_pipeline.data.scan.listing import ClassFrom, Listing

MIN_PER_CLASS, MAX_BAD = 3, 0.05
"""As the template ``conf/own`` has them (a test holds that)."""
_SHOWN = 3


@dataclass(frozen=True)
class Look:
    """What a few images are like: median short side in pixels, mean bytes of a file, how many were
    opened, how many of those have transparent pixels, their widths and heights, and which cannot be
    opened, with the reason.
    """

    short_side: int
    size: float
    opened: int
    transparent: int
    shapes: tuple[tuple[int, int], ...]
    refused: tuple[tuple[str, str], ...] = ()


def check_listings(listings: Mapping[str, Listing], layout: Layout, look: Look) -> tuple[str, ...]:
    """What is to be said of them, each in a sentence.

    Raises:
        DataError: fewer than two classes would be left.
    """
    train = listings["train"]
    said = [*_unread(listings), *_links(listings), *_case(train), *_looked_at(look)]
    usable = _usable(train)
    said += _empty(train, layout)
    said += _without(listings)
    if layout.name == "folders":
        said += _few(train, usable)
    said += _bad_share(listings, look)
    return tuple(said)


def _usable(listing: Listing) -> dict[str, int]:
    """Images of each class whose format is read here, by their names."""
    from hgnetv2_pipeline.data.formats import unread_format

    names = list(listing.per_class())
    if listing.table is not None:
        return listing.per_class()
    counts = Counter(
        names[item.label]
        for item in listing.found
        if item.label is not None and unread_format(item.key) is None
    )
    return {name: counts[name] for name in names}


def _unread(listings: Mapping[str, Listing]) -> Iterator[str]:
    """Formats that are not read here, by name, with how to convert them."""
    from hgnetv2_pipeline.data.formats import unread_format

    keys = [item.key for listing in listings.values() for item in listing.found]
    kinds = [kind for key in keys if (kind := unread_format(key)) is not None]
    for kind, count in Counter(kinds).most_common():
        yield (
            f"{count:,} of {len(keys):,} labelled images are {kind.name}, which is not read here: "
            f"{kind.advice}"
        )


def _links(listings: Mapping[str, Listing]) -> Iterator[str]:
    """Links that lead out, and how to allow them."""
    from hgnetv2_pipeline.data.scan.listing import links_out

    for listing in listings.values():
        count, target = links_out(listing.root, listing.walk)
        if count:
            yield (
                f"{count:,} links lead out of the folder, to {target}, and are not followed: with "
                f"--trust {target} they are"
            )


def _case(listing: Listing) -> Iterator[str]:
    """Classes whose names differ in upper and lower case or in spaces alone."""
    alike: dict[str, list[str]] = {}
    for name in listing.classes or ():
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            both = " and ".join(map(repr, names))
            yield f"{both} are two classes; if they are one, put their images into one folder"


def _looked_at(look: Look) -> Iterator[str]:
    if look.refused:
        key, reason = look.refused[0]
        count = len(look.refused)
        total = look.opened + count
        yield f"{count:,} of {total:,} images looked at cannot be used; {key}: {reason}"


def _empty(listing: Listing, layout: Layout) -> Iterator[str]:
    """Folders beside those of the classes that hold no image."""
    if layout.name != "folders" or not listing.root.is_dir():
        return
    folders = (entry for entry in os.scandir(listing.root) if entry.is_dir())
    known = {*(listing.classes or ()), *_lost(listing)}
    names = sorted(e.name for e in folders if e.name not in known and e.name[0] not in "._")
    if names:
        shown = ", ".join(map(repr, names[:_SHOWN])) + (" ..." if len(names) > _SHOWN else "")
        yield f"folders without an image, which are no classes: {len(names)} ({shown})"


def _without(listings: Mapping[str, Listing]) -> Iterator[str]:
    """Classes that the user's own val or test has no image of."""
    names = list(listings["train"].per_class())
    for split, listing in listings.items():
        counts = listing.per_class()
        absent = [name for name in names if not counts.get(name)]
        if split != "train" and listing.found and absent:
            shown = ", ".join(map(repr, absent[:_SHOWN])) + (" ..." if len(absent) > _SHOWN else "")
            yield f"{split} has no image of {len(absent)} of {len(names)} classes: {shown}"


def _few(listing: Listing, usable: Mapping[str, int]) -> list[str]:
    """Classes that ingestion would leave out; DataError where fewer than two would be left."""
    few = {name: count for name, count in usable.items() if count < MIN_PER_CLASS}
    lost = _lost(listing)
    left = len(usable) - len(few)
    shown = ", ".join(f"{name!r} {count}" for name, count in [*few.items()][:_SHOWN])
    more = " ..." if len(few) > _SHOWN else ""
    reason = f"fewer than {MIN_PER_CLASS} images that can be used ({shown}{more})"
    if few and left < 2:
        raise DataError(
            f"{listing.root}: {len(few)} of {len(usable)} classes have {reason}, and "
            f"{'one is' if left else 'none is'} left; at least two are needed: add images"
        )
    said = []
    if few:
        said.append(
            f"{len(few)} of {len(usable)} classes will be left out: {reason}; add images, or lower "
            "data.min_per_class"
        )
    if lost:
        name, reason = next(iter(lost.items()))
        whole = "1 whole class" if len(lost) == 1 else f"{len(lost)} whole classes"
        said.append(f"{whole} will be left out, first {name!r}: {reason}")
    return said


def _lost(listing: Listing) -> dict[str, str]:
    """Class folders of which no file can be taken, each with the first reason."""
    lost: dict[str, str] = {}
    for key, reason, _ in listing.walk.bad:
        top, slash, _ = key.partition("/")
        if slash and top not in (listing.classes or ()):
            lost.setdefault(top, reason)
    return lost


def _bad_share(listings: Mapping[str, Listing], look: Look) -> Iterator[str]:
    """Whether so many images cannot be used that ingestion stops."""
    from hgnetv2_pipeline.data.formats import unread_format

    for split, listing in listings.items():
        unread = sum(unread_format(item.key) is not None for item in listing.found)
        bad = unread + len(listing.walk.bad)
        total = len(listing.found) + len(listing.walk.bad)
        seen = look.opened + len(look.refused)
        broken = [key for key, _ in look.refused if unread_format(key) is None]
        if split == "train" and broken:
            bad += round(len(broken) / seen * (len(listing.found) - unread))
        if bad > MAX_BAD * total:
            where = f" of {split}" if len(listings) > 1 else ""
            yield (
                f"ingestion will stop: about {bad:,} of {total:,} images{where} cannot be used, "
                f"{int(MAX_BAD * total):,} may; mend them, or raise data.max_bad"
            )


def check_test(
    test: Path, classes: Sequence[str], class_from: ClassFrom, trusted: Sequence[Path]
) -> None:
    """DataError where ``--test`` has classes that the labelled images do not have."""
    from hgnetv2_pipeline.data.scan.listing import list_class_folders, walk_parts

    try:
        list_class_folders(walk_parts(test, ("",), trusted), class_from=class_from, classes=classes)
    except DataError as error:
        raise DataError(f"--test: {error}") from error
