"""ILSVRC2012 as it is found on disks: train by synset, val in any of its three forms.

Labels are the places of the synsets in sorted order, as in every published model. The numbers of
the development kit (``ILSVRC2012_ID``) are in another order and are translated by its ``meta.mat``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.classmap import read_class_map, read_synset_map
from hgnetv2_pipeline.data.decode import DECODING, Decoding
from hgnetv2_pipeline.data.lists.files import MISSING, Fence
from hgnetv2_pipeline.data.scan.folders import Scan, examine, scan_folder_tree, scan_list
from hgnetv2_pipeline.data.scan.walk import UnopenedFile, Walk
from hgnetv2_pipeline.errors import DataError

_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER = re.compile(r"_([0-9]{8})\.[A-Za-z]+$")


def scan_imagenet(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    folders: Sequence[str] | None = None,
    duplicates: str = "refuse",
    trusted_roots: Sequence[Path] = (),
    decoding: Decoding = DECODING,
    threads: int | None = None,
    phash: bool = False,
) -> Scan:
    """Scan ``train`` or ``val`` of the ILSVRC2012 layout.

    ``<split>_list.txt`` decides if it is there. Otherwise ``<split>/`` is read as a folder (or a
    tar) a class, numbered in the order of the synsets; a flat ``val/`` takes its labels from the
    development kit, whose folder is in ``root``. Class names come from ``class_map.txt``
    (``id name``), else from ``LOC_synset_mapping.txt``, else they are the folders of the training
    images. A class map that names the folders themselves also fixes their order.

    Args:
        classes: the names found in ``train`` (``Scan.classes``).
        folders: the class folders found in ``train`` (``Scan.folders``; default ``classes``);
            needed for a ``val`` without a list, whose labels must be those of the training set.
        duplicates: ``refuse`` or ``drop`` lines of a list that repeat a path.

    Raises:
        DataError: neither list nor class folders nor development kit; anything ``scan_list`` and
            ``scan_folder_tree`` refuse.
    """
    root = Path(root)
    listed, folder = root / f"{split}_list.txt", root / split
    named = _class_map(root)
    if listed.is_file():
        scan = scan_list(
            listed,
            root,
            classes=named if named is not None else classes,
            duplicates=duplicates,
            every_class=split == "train",
            trusted_roots=trusted_roots,
            decoding=decoding,
            threads=threads,
            phash=phash,
        )
        found = folders_of_labels(scan.samples)
        known = scan.classes if scan.classes is not None else _names(root, found, None)
        return replace(scan, folders=found, classes=known)
    if not folder.is_dir():
        raise DataError(f"{root}: neither {split}_list.txt nor a folder {split}/ is there")
    in_order = list(folders) if folders is not None else list(classes) if classes else None
    if split != "train" and in_order is None:
        raise DataError(f"{folder}: its labels need the class names of train; scan train first")
    _, inner, files = next(os.walk(folder), ("", [], []))
    if not inner and not any(name.endswith(".tar") for name in files):
        truth = _ground_truth(root) if split == "val" else None
        if truth is None or in_order is None:
            raise DataError(
                f"{folder}: images without class folders; put {split}_list.txt ('path label' a "
                f"line) or the development kit ({_TRUTH} and meta.mat) into {root}, or one folder "
                f"a class into {folder}"
            )
        scan = _scan_flat(folder, _labels(truth, in_order), trusted_roots, decoding, threads, phash)
    else:
        if split == "train":
            in_order = named if _names_folders(named, folder) else None
        scan = scan_folder_tree(
            folder,
            classes=in_order,
            trusted_roots=trusted_roots,
            decoding=decoding,
            threads=threads,
            phash=phash,
        )
        in_order = scan.folders
    known = list(classes) if classes is not None else _names(root, in_order, named)
    return _below(replace(scan, classes=known, folders=in_order), split)


def _class_map(root: Path) -> list[str] | None:
    path = root / "class_map.txt"
    return read_class_map(path) if path.is_file() else None


def _names_folders(named: list[str] | None, folder: Path) -> bool:
    """Whether the class map gives the folders (or tars) themselves as names."""
    present = {
        entry.name.removesuffix(".tar") for entry in folder.iterdir() if entry.name[0] != "."
    }
    return named is not None and bool(present & set(named))


def _names(root: Path, folders: list[str] | None, named: list[str] | None) -> list[str] | None:
    """The class names of these folders."""
    if folders is None:
        return named
    if named is not None:
        if len(named) != len(folders):
            raise DataError(
                f"{root / 'class_map.txt'}: {len(named)} classes, but there are {len(folders)} "
                "class folders; write one line for each"
            )
        return named
    mapping = root / "LOC_synset_mapping.txt"
    if not mapping.is_file():
        return folders
    names = read_synset_map(mapping)
    unknown = [name for name in folders if name not in names]
    if unknown:
        raise DataError(f"{mapping}: no line for the class folder {unknown[0]!r}; add it")
    return [names[name] for name in folders]


def folders_of_labels(samples: pd.DataFrame) -> list[str] | None:
    """The names of the folders, if each label 0..n-1 has one of its own."""
    folders = samples["key"].str.rsplit("/", n=2).str[-2]
    pairs = pd.DataFrame({"label": samples["label"], "folder": folders}).drop_duplicates()
    pairs = pairs.dropna().sort_values("label")
    whole = list(pairs["label"]) == list(range(len(pairs)))
    return list(pairs["folder"]) if whole and pairs["folder"].is_unique and len(pairs) else None


def _ground_truth(root: Path) -> list[str] | None:
    """The synset of each validation image by the development kit; None without one.

    Raises:
        DataError: only half of the kit is there, or the two halves do not fit.
    """
    places = [root, *sorted(root.glob("*devkit*")), *sorted(root.glob("*devkit*/data"))]
    truth = next((place / _TRUTH for place in places if (place / _TRUTH).is_file()), None)
    if truth is None:
        return None
    meta = truth.with_name("meta.mat")
    if not meta.is_file():
        raise DataError(f"{meta} is missing: the numbers of {truth.name} are no labels without it")
    synset = _synsets(meta)
    found = []
    for line, text in enumerate(truth.read_bytes().decode("latin-1").splitlines(), start=1):
        if not re.fullmatch(r"[0-9]{1,4}", text.strip()) or int(text) not in synset:
            raise DataError(f"{truth}:{line}: {text[:40]!r} is no class number of {meta.name}")
        found.append(synset[int(text)])
    return found


def _synsets(meta: Path) -> dict[int, str]:
    """Synset by ``ILSVRC2012_ID``, of the classes without subclasses."""
    from scipy.io import loadmat

    try:
        table = loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {
            int(row["ILSVRC2012_ID"]): str(row["WNID"])
            for row in table.reshape(-1)
            if int(row["num_children"]) == 0
        }
    # A damaged file makes the reader raise almost anything.
    except Exception as error:
        raise DataError(f"{meta}: not the meta.mat of the development kit ({error})") from error


def _labels(truth: list[str], folders: list[str]) -> list[int]:
    number = {name: label for label, name in enumerate(folders)}
    unknown = sorted(set(truth) - set(number))
    if unknown:
        raise DataError(
            f"the development kit names {unknown[0]}, which is no class folder of train "
            f"({len(unknown)} such synsets); train must have one folder (or tar) a synset"
        )
    return [number[name] for name in truth]


def _scan_flat(
    folder: Path,
    labels: list[int],
    trusted_roots: Sequence[Path],
    decoding: Decoding,
    threads: int | None,
    phash: bool,
) -> Scan:
    """Images named ``..._00000001.JPEG`` onwards: the number is the line of the ground truth."""
    walk = Walk(Fence(folder, trusted_roots))
    walk.run()
    listed = []
    absent = set(range(1, len(labels) + 1))
    for item in walk.found:
        named = _NUMBER.search(item.key)
        line = int(named[1]) if named else 0
        if line not in absent:
            walk.quarantine(item.key, f"its name has no number of its own in {_TRUTH}")
            continue
        absent.discard(line)
        listed.append(
            UnopenedFile(item.key, item.path, item.offset, item.length, labels[line - 1], line)
        )
    for line in sorted(absent):
        walk.quarantine(f"ILSVRC2012_val_{line:08d}.JPEG", MISSING, line)
    return examine(folder, listed, walk, None, decoding, threads, phash)


def _below(scan: Scan, folder: str) -> Scan:
    """The scan of ``root/folder`` as one of ``root``."""
    samples = scan.samples.copy()
    samples["key"] = folder + "/" + samples["key"]
    samples["path"] = folder + "/" + samples["path"]
    bad, refused = scan.quarantined.copy(), scan.refused.copy()
    bad["key"], refused["key"] = folder + "/" + bad["key"], folder + "/" + refused["key"]
    phash = None if scan.phash is None else scan.phash.rename(lambda key: f"{folder}/{key}")
    return replace(scan, samples=samples, quarantined=bad, refused=refused, phash=phash)
