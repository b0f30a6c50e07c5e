"""The images of each set of a layout, with their classes, before any is opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.lists.duplicates import drop_repeats
from hgnetv2_pipeline.data.lists.files import refuse_unusable
from hgnetv2_pipeline.data.lists.multi_label import read_parsed_multi_label_list
from hgnetv2_pipeline.data.lists.read import check_labels, read_parsed_list
from hgnetv2_pipeline.data.lists.tables import (
    TABLES,
    ImageTable,
    parse_rows,
    read_table,
    table_classes,
)
from hgnetv2_pipeline.data.scan.folders import UNNAMED_CLASSES, listing_of
from hgnetv2_pipeline.data.scan.imagenet import folders_of_labels
from hgnetv2_pipeline.data.scan.layouts import Layout, Place
from hgnetv2_pipeline.data.scan.listing import Listing, list_class_folders, walk_parts
from hgnetv2_pipeline.data.scan.shards import find_shards, list_shards, shards_by_split
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)


def list_sets(place: Place, layout: Layout, *, duplicates: str = "refuse") -> dict[str, Listing]:
    """The images of each of ``layout.sets``; the classes of train are those of all.

    Raises:
        DataError: a list is bad, a file is missing, a class is unknown to train.
    """
    if "train" not in layout.sets:
        raise DataError(f"{place.root}: there is no train set, only {', '.join(layout.sets)}")
    if layout.name == "webdataset":
        return _of_shards(place, layout)
    if layout.name in ("folders", "split_folders"):
        return _of_folders(place, layout)
    folder = place.folder_of_lists
    if (folder / layout.lists["train"]).suffix.lower() in TABLES:
        return _of_tables(folder, place, layout, duplicates)
    return _of_lists(folder, place, layout, duplicates)


def _of_folders(place: Place, layout: Layout) -> dict[str, Listing]:
    splits = layout.name == "split_folders"
    walked = walk_parts(place.root, place.parts, place.trusted, splits=splits)
    found: dict[str, Listing] = {}
    for split in _train_first(layout.sets):
        known = found["train"].classes if "train" in found else None
        found[split] = list_class_folders(
            walked, split=split if splits else None, class_from=layout.class_from, classes=known
        )
    return found


def _of_shards(place: Place, layout: Layout) -> dict[str, Listing]:
    shards = shards_by_split(find_shards(place.root, place.parts, place.trusted))
    names = _class_names(place.folder_of_lists, layout)
    found: dict[str, Listing] = {}
    for split in _train_first(layout.sets):
        found[split] = list_shards(place.root, shards[split], classes=names)
        names = found[split].classes
    return _named(found, place.root)


def _of_lists(folder: Path, place: Place, layout: Layout, duplicates: str) -> dict[str, Listing]:
    several = layout.name == "multi_label"
    names = _class_names(folder, layout)
    found: dict[str, Listing] = {}
    for split in _train_first(layout.sets):
        path = folder / layout.lists[split]
        found[split] = _of_list(path, place, layout, names, duplicates)
        if names is None and not several:
            # Where each label has a folder of its own, the folder names it.
            names = _folder_names(found[split])
            found[split] = replace(found[split], classes=names)
    return _named(found, folder)


def _of_list(
    path: Path, place: Place, layout: Layout, names: list[str] | None, duplicates: str
) -> Listing:
    count = len(names) if names is not None else None
    if layout.name == "multi_label":
        parsed, table = read_parsed_multi_label_list(
            path, place.root, count, duplicates=duplicates, every_class=False,
            trusted_roots=place.trusted, missing_to=None, delimiter=layout.delimiter,
        )  # fmt: skip
        return listing_of(parsed, place.root, names, table=table)
    parsed = read_parsed_list(
        path, place.root, count, duplicates=duplicates,
        every_class=path.name == layout.lists["train"], trusted_roots=place.trusted,
        missing_to=None, delimiter=layout.delimiter,
    )  # fmt: skip
    return listing_of(parsed, place.root, names)


def _of_tables(folder: Path, place: Place, layout: Layout, duplicates: str) -> dict[str, Listing]:
    tables = {
        split: read_table(folder / name, layout.columns) for split, name in layout.lists.items()
    }
    if tables["train"].splits:
        tables = {"train": tables["train"]}
    class_map = _class_names(folder, layout)
    names = table_classes([tables["train"]], class_map)
    found: dict[str, Listing] = {}
    for split in _train_first(layout.sets):
        table = tables.get(split, tables["train"])
        rows = table.rows[table.rows["split"] == split] if table.splits else table.rows
        found[split] = _of_rows(table, rows, names, place, duplicates)
        if class_map is not None:
            count = len(class_map)
            found[split] = replace(found[split], classes=class_map)
            if any((item.label or 0) >= count for item in found[split].found):
                raise DataError(f"{table.file}: a label is outside the {count} classes")
    return _named(found, folder)


def _of_rows(
    table: ImageTable,
    rows: pd.DataFrame,
    names: Sequence[str] | None,
    place: Place,
    duplicates: str,
) -> Listing:
    parsed = drop_repeats(table.file, parse_rows(table, rows, names, place.root), duplicates)
    count = len(names) if names is not None else None
    check_labels(table.file, parsed, count, every_class=False)
    refuse_unusable(table.file, parsed, place.root, place.trusted, None)
    return listing_of(parsed, place.root, list(names) if names is not None else None)


def _class_names(folder: Path, layout: Layout) -> list[str] | None:
    return read_class_map(folder / layout.class_map) if layout.class_map else None


def _folder_names(listing: Listing) -> list[str] | None:
    rows = [(item.key, item.label) for item in listing.found]
    return folders_of_labels(pd.DataFrame(rows, columns=["key", "label"]))


def _named(found: dict[str, Listing], where: Path) -> dict[str, Listing]:
    """Classes without names are called by their numbers, and that is said."""
    names = found["train"].classes
    if names is None:
        _log.warning(UNNAMED_CLASSES, where)
        names = list(found["train"].per_class())
    for split, listing in found.items():
        highest = max((item.label or 0 for item in listing.found), default=0)
        if listing.table is None and highest >= len(names):
            raise DataError(
                f"{where}: {split} has the label {highest}, which is outside the {len(names)} "
                "classes of train"
            )
    return {split: replace(listing, classes=names) for split, listing in found.items()}


def _train_first(sets: Sequence[str]) -> list[str]:
    return sorted(sets, key=lambda split: split != "train")
