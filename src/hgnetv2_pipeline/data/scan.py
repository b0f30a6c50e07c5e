"""From folders, lists and archives to a frame of samples: every image is decoded once.

What cannot be used is never dropped in silence: it is in ``Scan.quarantined`` with its reason.
``walk`` says which files count as images.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.archives import index_archive
from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.decode import MAX_PIXELS, decode_with_format
from hgnetv2_pipeline.data.index import read_bytes, samples_frame
from hgnetv2_pipeline.data.listing import Fence, split_key
from hgnetv2_pipeline.data.lists import checked_list
from hgnetv2_pipeline.data.perceptual import phash64
from hgnetv2_pipeline.data.quarantine import Ledger, quarantine_frame
from hgnetv2_pipeline.data.walk import READABLE, Found, Walk, class_of, natural
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.progress import Progress

_log = logging.getLogger(__name__)

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
    """

    samples: pd.DataFrame
    classes: list[str] | None
    quarantined: pd.DataFrame
    refused: pd.DataFrame
    ignored: int = 0
    phash: pd.Series | None = None

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
    classes: Sequence[str] | None = None,
    min_per_class: int = 1,
    trusted_roots: Sequence[Path] = (),
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan a folder-per-class tree.

    The class of an image is the first folder below ``root``, however deep the image lies. A tar in
    a class folder belongs to that class; of a tar directly below ``root`` the members' first folder
    names the class (one folder around everything is looked through), or, without folders, the
    tar's own name, as in ImageNet-21k. Labels are 0..n-1 in natural order of the class names
    (2 before 10); folders without images are no classes.

    Args:
        classes: the class names by label, if another set has fixed them; others are refused.
        min_per_class: classes with fewer usable images are left out (``Scan.refused``).
        trusted_roots: folders outside ``root`` into which symbolic links may lead.
        threads: decoding threads, default one a CPU.
        phash: also compute perceptual hashes, for a split that knows near-duplicates.

    Raises:
        DataError: no images, no class folders, a class without a readable image, unknown classes.
    """
    walk = Walk(Fence(root, trusted_roots))
    walk.run()
    named: dict[str, list[Found]] = {}
    for found in walk.found:
        name = class_of(found, walk.wrapped)
        if name is None:
            walk.quarantine(found.key, "lies outside any class folder; move it into one")
        elif not name.isprintable() or name != name.strip():
            walk.quarantine(
                found.key, f"class folder {name!r} has a name that no class map can hold"
            )
        else:
            named.setdefault(name, []).append(found)
    if not named:
        raise DataError(
            f"{root}: no images in class folders ({len(walk.bad):,} unusable files, "
            f"{walk.ignored:,} other files); one folder a class is needed, with {READABLE} inside"
        )
    names = list(classes) if classes is not None else sorted(named, key=natural)
    unknown = sorted(set(named) - set(names), key=natural)
    if unknown:
        raise DataError(
            f"{root}: class folder {unknown[0]!r} is not among the {len(names)} known classes "
            f"({len(unknown)} such folders); rename or remove it"
        )
    number = {name: label for label, name in enumerate(names)}
    listed = [
        Found(found.key, found.path, found.offset, found.length, number[name])
        for name, group in named.items()
        for found in group
    ]
    scan = _examine(Path(root), listed, walk, names, max_pixels, threads, phash)
    return _with_enough(scan, names, root, named, min_per_class, classes is not None)


def scan_unlabelled(
    root: Path,
    *,
    trusted_roots: Sequence[Path] = (),
    max_pixels: int = MAX_PIXELS,
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
            f"{root}: 0 images found ({len(walk.bad):,} unusable files, {walk.ignored:,} other "
            f"files); expected {READABLE} or tar archives of them"
        )
    return _examine(Path(root), walk.found, walk, None, max_pixels, threads, phash)


def scan_list(
    list_path: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    labelled: bool = True,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan the images of a list file; see ``lists.read_list`` for the checks of the list.

    Args:
        classes: class names by label; sets ``num_classes``.

    Raises:
        DataError: the list is bad, a file is missing, or no image is readable.
    """
    root = Path(root)
    parsed = checked_list(
        list_path,
        root,
        len(classes) if classes is not None else num_classes,
        labelled=labelled,
        duplicates=duplicates,
        every_class=every_class,
        trusted_roots=trusted_roots,
        missing_to=missing_to,
    )
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
        found.append(Found(key, path, offset, length, int(label) if labelled else None, int(line)))
    names = list(classes) if classes is not None else None
    return _examine(root, found, Walk(Fence(root)), names, max_pixels, threads, phash)


def scan_imagenet(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    trusted_roots: Sequence[Path] = (),
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan ``train`` or ``val`` of the ILSVRC2012 layout.

    ``<split>_list.txt`` decides if it is there; otherwise ``<split>/`` is read as a folder (or a
    tar) a class, numbered in the order of the synsets. Class names come from ``class_map.txt``
    (``id name``) if it is there, otherwise from the folders of the training images.

    Args:
        classes: the names found in ``train``; needed for a ``val`` of folders, whose labels must be
            those of the training set.

    Raises:
        DataError: neither list nor class folders; anything ``scan_list`` and
            ``scan_folder_tree`` refuse.
    """
    root = Path(root)
    listed, map_file = root / f"{split}_list.txt", root / "class_map.txt"
    if map_file.is_file():
        classes = read_class_map(map_file)
    if listed.is_file():
        scan = scan_list(
            listed,
            root,
            classes=classes,
            every_class=split == "train",
            trusted_roots=trusted_roots,
            max_pixels=max_pixels,
            threads=threads,
            phash=phash,
        )
        if scan.classes is None:
            return _replaced(scan, classes=_names_from_folders(scan.samples))
        return scan
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{root}: neither {split}_list.txt nor a folder {split}/ is there")
    if not any(entry.is_dir() or entry.suffix == ".tar" for entry in folder.iterdir()):
        raise DataError(
            f"{folder}: images without class folders; put {split}_list.txt ('path label' a line) "
            f"into {root}, or one folder a class into {folder}"
        )
    if split != "train" and classes is None:
        raise DataError(f"{folder}: its labels need the class names of train; scan train first")
    scan = scan_folder_tree(
        folder,
        classes=None if map_file.is_file() and split == "train" else classes,
        trusted_roots=trusted_roots,
        max_pixels=max_pixels,
        threads=threads,
        phash=phash,
    )
    return _below(scan, split)


def _replaced(scan: Scan, classes: list[str] | None) -> Scan:
    return Scan(scan.samples, classes, scan.quarantined, scan.refused, scan.ignored, scan.phash)


def _names_from_folders(samples: pd.DataFrame) -> list[str] | None:
    """The names of the folders, if each label 0..n-1 has one of its own."""
    folders = samples["key"].str.rsplit("/", n=2).str[-2]
    pairs = pd.DataFrame({"label": samples["label"], "folder": folders}).drop_duplicates()
    pairs = pairs.dropna().sort_values("label")
    whole = list(pairs["label"]) == list(range(len(pairs)))
    return list(pairs["folder"]) if whole and pairs["folder"].is_unique and len(pairs) else None


def _below(scan: Scan, folder: str) -> Scan:
    """The scan of ``root/folder`` as one of ``root``."""
    samples = scan.samples.copy()
    samples["key"] = folder + "/" + samples["key"]
    samples["path"] = folder + "/" + samples["path"]
    bad, refused = scan.quarantined.copy(), scan.refused.copy()
    bad["key"], refused["key"] = folder + "/" + bad["key"], folder + "/" + refused["key"]
    phash = None if scan.phash is None else scan.phash.rename(lambda key: f"{folder}/{key}")
    return Scan(samples, scan.classes, bad, refused, scan.ignored, phash)


def _examine(
    root: Path,
    found: list[Found],
    walk: Walk,
    classes: list[str] | None,
    max_pixels: int,
    threads: int | None,
    phash: bool,
) -> Scan:
    """Decode each found image once and sort the good from the bad."""
    rows: list[tuple[object, ...]] = []
    hashes: dict[str, int] = {}
    chunks = [found[at : at + _CHUNK] for at in range(0, len(found), _CHUNK)]
    workers = threads or os.cpu_count() or 1
    with Progress(len(found), "scan", "images") as progress:
        for results in _in_order(root, chunks, max_pixels, phash, workers):
            for item, result in results:
                if isinstance(result, str):
                    walk.quarantine(item.key, result, item.line)
                else:
                    length, width, height, kind, digest, code = result
                    label = pd.NA if item.label is None else item.label
                    rows.append(
                        (item.key, item.path, item.offset, length, label)
                        + (width, height, kind, digest)
                    )
                    if code is not None:
                        hashes[item.key] = code
            progress.advance(len(results))
    if not rows:
        key, reason, _ = walk.bad[0]
        raise DataError(f"{root}: none of {len(walk.bad):,} images can be used; {key}: {reason}")
    if walk.bad:
        _log.warning("%s: %d files are quarantined", root, len(walk.bad))
    samples = samples_frame(rows)
    codes = samples["key"].map(hashes).to_numpy("uint64") if phash else None
    return Scan(
        samples=samples,
        classes=classes,
        quarantined=quarantine_frame(sorted(walk.bad, key=lambda row: row[:2])),
        refused=quarantine_frame([]),
        ignored=walk.ignored,
        phash=None if codes is None else pd.Series(codes, index=samples["key"], name="phash64"),
    )


_Facts = tuple[int, int, int, str, str, int | None]


def _in_order(
    root: Path, chunks: list[list[Found]], max_pixels: int, phash: bool, workers: int
) -> Iterable[list[tuple[Found, _Facts | str]]]:
    def examine(chunk: list[Found]) -> list[tuple[Found, _Facts | str]]:
        return [(item, _facts(root, item, max_pixels, phash)) for item in chunk]

    if workers == 1:
        yield from map(examine, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        # A window of chunks in flight, so that a million results do not wait in memory.
        window = workers * 4
        waiting = [pool.submit(examine, chunk) for chunk in chunks[:window]]
        for at in range(len(chunks)):
            yield waiting[at % window].result()
            if at + window < len(chunks):
                waiting[at % window] = pool.submit(examine, chunks[at + window])


def _facts(root: Path, item: Found, max_pixels: int, phash: bool) -> _Facts | str:
    """Length, width, height, format, SHA-256 and perceptual hash; or why it cannot be used."""
    try:
        content = read_bytes((item.path, item.offset, item.length), root)
        image, kind = decode_with_format(content, max_pixels)
    except DataError as error:
        return str(error)
    digest = hashlib.sha256(content).hexdigest()
    code = phash64(image) if phash else None
    return len(content), image.width, image.height, kind, digest, code


def _with_enough(
    scan: Scan,
    names: list[str],
    root: Path,
    named: dict[str, list[Found]],
    min_per_class: int,
    fixed: bool,
) -> Scan:
    """Without the classes that have too few usable images; labels counted anew."""
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
    kept = [name for name in names if name not in set(small)]
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
    labels = {old: kept.index(name) for old, name in enumerate(names) if name in set(kept)}
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
    return Scan(samples, kept, scan.quarantined, quarantine_frame(reasons), scan.ignored, phash)
