"""From folders, lists and archives to a frame of samples: every image is decoded once.

What cannot be used is never dropped in silence: it is in ``Scan.quarantined`` with its reason.
``walk`` says which files count as images.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.decode import (
    DECODING,
    Decoding,
    PixelFacts,
    decode_and_describe,
)
from hgnetv2_pipeline.data.formats import READABLE
from hgnetv2_pipeline.data.index import read_bytes, samples_frame
from hgnetv2_pipeline.data.lists.files import Fence, split_key
from hgnetv2_pipeline.data.lists.multi_label import (
    label_column,
    read_parsed_multi_label_list,
)
from hgnetv2_pipeline.data.lists.read import read_parsed_list
from hgnetv2_pipeline.data.lists.syntax import ParsedList
from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.data.quarantine import Ledger, quarantine_frame
from hgnetv2_pipeline.data.scan.archives import index_archive
from hgnetv2_pipeline.data.scan.listing import (
    ClassFrom,
    Listing,
    first_reason,
    list_class_folders,
    walk_parts,
)
from hgnetv2_pipeline.data.scan.tones import Tone, Tones, add_tones, count_tones, tone_of
from hgnetv2_pipeline.data.scan.walk import UnopenedFile, Walk
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import Progress

_log = logging.getLogger(__name__)

UNNAMED_CLASSES = (
    "the classes have no names and are called by their numbers; %s/class_map.txt ('id name' a "
    "line) names them"
)
_CHUNK = 32


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        samples: usable images, see ``index.SCHEMA``.
        classes: class names by label; None if the images have no labels or no names are known.
        quarantined: columns key, reason, line (NA unless a list named the image).
        refused: the same columns; usable images left out by a rule (a class too small).
        ignored: number of files that do not claim to be images.
        phash: 64-bit perceptual hash (uint64) by key, if it was asked for.
        examined: images that were decoded, before any rule left some of them out; None: not known.
        transparent: those of them of which some pixel is transparent.
        deep: those of them that have 16 bits a channel; ``levels`` are their lowest and highest.
        flat: those of them that have one colour all over; ``black`` are those that are black.
        folders: the class folders by label (ImageNet's synsets), where labels come from folders.
        tones: how bright and colourful those without transparent pixels are; None: not known.
    """

    samples: pd.DataFrame
    classes: list[str] | None
    quarantined: pd.DataFrame
    refused: pd.DataFrame
    ignored: int = 0
    phash: pd.Series | None = None
    folders: list[str] | None = None
    examined: int | None = None
    transparent: int = 0
    deep: int = 0
    levels: tuple[int, int] | None = None
    flat: int = 0
    black: int = 0
    tones: Tones | None = None

    def ledger(self, max_bad: float) -> Ledger:
        """The account of this scan; ``ledger.check()`` raises if too many images are bad."""
        listed = len(self.samples) + len(self.quarantined) + len(self.refused)
        ledger = Ledger(listed, max_bad)
        for key, reason, line in self.quarantined.itertuples(index=False):
            ledger.quarantine(key, reason, None if pd.isna(line) else int(line))
        for key, reason, line in self.refused.itertuples(index=False):
            ledger.refuse(key, reason, None if pd.isna(line) else int(line))
        return ledger


def scan_folder_tree(
    root: Path,
    *,
    class_from: ClassFrom = "first",
    classes: Sequence[str] | None = None,
    min_per_class: int = 1,
    trusted_roots: Sequence[Path] = (),
    decoding: Decoding = DECODING,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan a folder-per-class tree.

    The class of an image is the first folder below ``root``, however deep the image is. A tar in
    a class folder belongs to that class; of a tar directly below ``root`` the members' first folder
    names the class (one folder around everything is looked through), or, without folders, the
    tar's own name, as in ImageNet-21k. Labels are 0..n-1 in natural order of the class names
    (2 before 10); folders without images are no classes.

    Args:
        class_from: which of the folders that an image is in names its class.
        classes: the class names by label, if another set has fixed them; others are refused.
        min_per_class: classes with fewer usable images are left out (``Scan.refused``).
        trusted_roots: folders outside ``root`` into which symbolic links may lead.
        threads: decoding threads, default one a CPU.
        phash: also compute perceptual hashes, for a split that knows near-duplicates.

    Raises:
        DataError: no images, no class folders, a class without a readable image, unknown classes.
    """
    walked = walk_parts(root, trusted=trusted_roots)
    listing = list_class_folders(walked, class_from=class_from, classes=classes)
    scan = scan_listing(listing, decoding, threads, phash)
    return with_enough(scan, listing, min_per_class, classes is not None)


def scan_unlabelled(
    root: Path,
    *,
    trusted_roots: Sequence[Path] = (),
    decoding: Decoding = DECODING,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan all images below ``root``, in folders and tars; labels are NA.

    Raises:
        DataError: there is no image, or none is readable.
    """
    walk = Walk(Fence(root, trusted_roots))
    walk.run()
    if not walk.found:
        raise DataError(
            f"{root}: 0 images found ({len(walk.bad):,} unusable files{first_reason(walk)}, "
            f"{walk.ignored:,} other files); expected {READABLE} or tar archives of them"
        )
    return examine(Path(root), walk.found, walk, None, decoding, threads, phash)


def scan_list(
    list_path: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    labelled: bool = True,
    multi_label: bool = False,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
    delimiter: str = "auto",
    decoding: Decoding = DECODING,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan the images of a list file; see ``lists.read_list`` for the checks of the list.

    Args:
        classes: class names by label; sets ``num_classes``.
        multi_label: lines are ``path<TAB>0,1,0``; the samples have the column ``labels``.

    Raises:
        DataError: the list is bad, a file is missing, or no image is readable.
    """
    root = Path(root)
    count = len(classes) if classes is not None else num_classes
    table = None
    if multi_label:
        parsed, table = read_parsed_multi_label_list(
            list_path, root, count, duplicates=duplicates, every_class=every_class,
            trusted_roots=trusted_roots, missing_to=missing_to, delimiter=delimiter,
        )  # fmt: skip
    else:
        parsed = read_parsed_list(
            list_path, root, count, duplicates=duplicates, every_class=every_class,
            trusted_roots=trusted_roots, missing_to=missing_to,
            delimiter=delimiter if labelled else None,
        )  # fmt: skip
    names = list(classes) if classes is not None else None
    listing = listing_of(parsed, root, names, labelled=labelled, table=table)
    return scan_listing(listing, decoding, threads, phash)


def listing_of(
    parsed: ParsedList,
    root: Path,
    classes: list[str] | None,
    *,
    labelled: bool = True,
    table: npt.NDArray[np.uint8] | None = None,
) -> Listing:
    """The lines of a list as images to be opened, those in archives by their places there."""
    archives: dict[str, dict[str, tuple[int, int]]] = {}
    found = []
    for key, label, line in zip(parsed.paths, parsed.labels, parsed.lines, strict=True):
        key = key.as_py()
        path, offset, length = key, -1, -1
        if ".tar!" in key:
            path, member = split_key(key)
            if path not in archives:
                index = index_archive(root / path)
                archives[path] = {m.name: (m.offset, m.length) for m in index.members}
            offset, length = archives[path][member]
        found.append(
            UnopenedFile(key, path, offset, length, int(label) if labelled else None, int(line))
        )
    return Listing(root, found, Walk(Fence(root)), classes, table=table, repeats=parsed.dropped)


def scan_listing(listing: Listing, decoding: Decoding, threads: int | None, phash: bool) -> Scan:
    """Decode what was listed.

    Raises:
        DataError: none of it can be used.
    """
    scan = examine(
        listing.root, listing.found, listing.walk, listing.classes, decoding, threads, phash
    )
    again: list[tuple[str, str, int | None]] = [
        (f"{name} (again in line {line})", "an earlier line of the list names it", line)
        for name, line in listing.repeats
    ]
    samples = scan.samples
    if listing.table is not None:
        sets = label_column(listing.table[samples["label"].to_numpy(np.int64)])
        unknown = pd.Series(pd.NA, samples.index, dtype="Int64")
        samples = samples.assign(label=unknown, labels=sets)
    return replace(scan, samples=samples, refused=quarantine_frame(again), folders=listing.folders)


def examine(
    root: Path,
    found: list[UnopenedFile],
    walk: Walk,
    classes: list[str] | None,
    decoding: Decoding,
    threads: int | None,
    phash: bool,
) -> Scan:
    """Decode each found image once; what ``walk`` or the decoder refuses is quarantined."""
    hashes: dict[str, int] = {}
    transparent = flat = black = 0
    deep: list[tuple[int, int]] = []
    tones = count_tones([])

    def usable() -> Iterator[tuple[object, ...]]:
        nonlocal transparent, flat, black, tones
        # By key, as the frame will be: sorting millions of rows would hold them twice.
        ordered = sorted(found, key=attrgetter("key"))
        workers = threads or available_cpus()
        with Progress(len(found), "scan", "images") as progress:
            for results in _in_order(root, ordered, decoding, phash, workers):
                here: list[Tone] = []
                for item, result in results:
                    if isinstance(result, str):
                        walk.quarantine(item.key, result, item.line)
                        continue
                    length, width, height, kind, digest, code, seen, tone = result
                    here += [] if seen.transparent else [tone]
                    transparent += seen.transparent
                    flat += seen.flat
                    black += seen.black
                    deep.extend([] if seen.levels is None else [seen.levels])
                    if code is not None:
                        hashes[item.key] = code
                    yield (
                        (item.key, item.path, item.offset, length, item.label)
                        + (width, height, kind, digest)
                    )
                tones = add_tones([tones, count_tones(here)])
                progress.advance(len(results))

    samples = samples_frame(usable())
    if not len(samples):
        key, reason, _ = walk.bad[0]
        raise DataError(f"{root}: none of {len(walk.bad):,} images can be used; {key}: {reason}")
    if walk.bad:
        _log.warning("%s: %d files are quarantined", root, len(walk.bad))
    codes = samples["key"].map(hashes).to_numpy("uint64") if phash else None
    return Scan(
        samples=samples,
        classes=classes,
        quarantined=quarantine_frame(sorted(walk.bad, key=lambda row: row[:2])),
        refused=quarantine_frame([]),
        ignored=walk.ignored,
        phash=None if codes is None else pd.Series(codes, index=samples["key"], name="phash64"),
        examined=len(samples),
        transparent=transparent,
        deep=len(deep),
        levels=(min(low for low, _ in deep), max(high for _, high in deep)) if deep else None,
        flat=flat,
        black=black,
        tones=tones,
    )


_Facts = tuple[int, int, int, str, str, int | None, PixelFacts, Tone]


def _in_order(
    root: Path, found: list[UnopenedFile], decoding: Decoding, phash: bool, workers: int
) -> Iterator[list[tuple[UnopenedFile, _Facts | str]]]:
    def examine(first: int) -> list[tuple[UnopenedFile, _Facts | str]]:
        chunk = found[first : first + _CHUNK]
        return [(item, _facts(root, item, decoding, phash)) for item in chunk]

    starts = range(0, len(found), _CHUNK)
    if workers == 1:
        yield from map(examine, starts)
        return
    with ThreadPoolExecutor(workers) as pool:
        # A window of chunks in flight, so that a million results do not wait in memory.
        window = workers * 4
        waiting = [pool.submit(examine, first) for first in starts[:window]]
        for at in range(len(starts)):
            yield waiting[at % window].result()
            if at + window < len(starts):
                waiting[at % window] = pool.submit(examine, starts[at + window])


def _facts(root: Path, item: UnopenedFile, decoding: Decoding, phash: bool) -> _Facts | str:
    """Length, width, height, format, SHA-256, perceptual hash, what its pixels are like and its
    tones; or why it cannot be used.
    """
    try:
        content = read_bytes((item.path, item.offset, item.length), root)
        found = decode_and_describe(content, decoding)
    except DataError as error:
        return str(error)
    digest = hashlib.sha256(content).hexdigest()
    image = found.image
    code = phash64(image) if phash else None
    size, kind = (len(content), image.width, image.height), found.format
    return *size, kind, digest, code, found.pixels, tone_of(image)


def with_enough(scan: Scan, listing: Listing, min_per_class: int, fixed: bool) -> Scan:
    """Without the classes that have too few usable images; labels counted again.

    With ``fixed`` the classes are those of another set, and all stay.

    Raises:
        DataError: a class has no readable image; every class has too few.
    """
    root, names = listing.root, listing.classes or []
    named = {names[item.label] for item in listing.found if item.label is not None}
    counts = scan.samples["label"].value_counts()
    usable = {name: int(counts.get(label, 0)) for label, name in enumerate(names)}
    broken = [name for name, count in usable.items() if count == 0 and name in named]
    if broken and min_per_class <= 1:
        raise DataError(
            f"{root}: class {broken[0]!r} has no readable image ({len(broken)} such classes); "
            "repair or remove the folder, or leave such classes out by data.min_per_class"
        )
    small = [name for name, count in usable.items() if name in named and count < min_per_class]
    if not small or fixed:
        return scan
    few = set(small)
    kept = [name for name in names if name not in few]
    if not kept:
        raise DataError(
            f"{root}: every class has fewer than {min_per_class} images (data.min_per_class)"
        )
    _log.warning(
        "%s: %d classes with fewer than %d images are left out, first %r (data.min_per_class)",
        root,
        len(small),
        min_per_class,
        small[0],
    )
    number = {name: label for label, name in enumerate(kept)}
    labels = {old: number[name] for old, name in enumerate(names) if name in number}
    stays = scan.samples["label"].isin(list(labels))
    samples = scan.samples[stays].reset_index(drop=True)
    samples["label"] = samples["label"].map(labels).astype("Int64")
    reasons: list[tuple[str, str, int | None]] = [
        (
            key,
            f"class {names[label]!r} has {usable[names[label]]} images, "
            f"{min_per_class} are needed (data.min_per_class)",
            None,
        )
        for key, label in scan.samples.loc[~stays, ["key", "label"]].itertuples(index=False)
    ]
    phash = None if scan.phash is None else scan.phash[samples["key"]]
    return replace(
        scan, samples=samples, classes=kept, refused=quarantine_frame(reasons), phash=phash,
        folders=kept,
    )  # fmt: skip
