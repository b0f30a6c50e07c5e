"""How the images of a data set are arranged, recognised by looking: which layout, why, what else.

Nothing is guessed: where two readings are possible, ``TwoReadingsError`` names both. What is found
is a ``Layout``, from which ``layout_sets`` lists the images of each set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.formats import READABLE
from hgnetv2_pipeline.data.lists.kinds import delimiter_of, kind_of_list
from hgnetv2_pipeline.data.lists.tables import TABLES, Columns, no_column, read_table
from hgnetv2_pipeline.data.scan.listing import (
    ClassFrom,
    Walked,
    class_in,
    links_out,
    walk_parts,
)
from hgnetv2_pipeline.data.scan.shards import are_shards, find_shards, shards_by_split
from hgnetv2_pipeline.data.scan.walk import SPLIT_FOLDERS, natural, split_of
from hgnetv2_pipeline.errors import DataError

LayoutName = Literal[
    "folders", "split_folders", "lists", "multi_label", "imagenet", "webdataset", "sample"
]
SPLITS = tuple(SPLIT_FOLDERS)
CLASS_MAPS = ("class_map.txt", "label_list.txt", "labels.txt", "classes.txt")
"""What files of class names are called."""
_ALLOWED = (
    "a folder per class, train/ val/ test/ of such folders, train_list.txt ('path label' per "
    "line), a CSV, TSV or Parquet of path and label, or WebDataset shards"
)


@dataclass(frozen=True)
class Layout:
    """How the images of a data set are arranged.

    Attributes:
        name: as in ``data.layout``.
        sets: the sets that it divides itself into; others are split off.
        lists: the file of each set, relative to the folder of lists.
        class_map: the file of class names there.
        class_from: which folder names the class.
        delimiter: between path and label, as in ``data.delimiter``.
        columns: of a table.
        why: what was seen, in words.
        instead: what else it could have been, in words, each with how to say so.
    """

    name: LayoutName
    sets: tuple[str, ...] = ("train",)
    lists: Mapping[str, str] = field(default_factory=dict)
    class_map: str | None = None
    class_from: ClassFrom = "first"
    delimiter: str = "auto"
    columns: Columns = Columns()
    why: str = ""
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where to look: images below ``root``, in ``parts`` of it; lists in ``lists``, or that one.

    ``lists`` is None where there are several roots, or a tar, and nothing else was said.
    """

    root: Path
    lists: Path | None
    parts: tuple[str, ...] = ("",)
    trusted: tuple[Path, ...] = ()

    @property
    def folder_of_lists(self) -> Path:
        """The folder that lists are in, or could be."""
        lists = self.lists or self.root
        return lists.parent if lists.is_file() else lists


def place_of(roots: Sequence[Path], lists: Path | None, trusted: Sequence[Path]) -> Place:
    """Where to look, of one folder or of several folders and tars.

    Raises:
        DataError: one of them is inside another.
    """
    if len(roots) == 1 and roots[0].is_dir():
        return Place(roots[0], lists or roots[0], ("",), tuple(trusted))
    places = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100 - links stay
    for place in places:
        above = [other for other in places if other in place.parents]
        if above or places.count(place) > 1:
            inside = f"inside {above[0]}" if above else "named twice"
            raise DataError(f"{place} is {inside}; leave one of them out")
    whole = Path(os.path.commonpath([place.parent for place in places]))
    parts = tuple(place.relative_to(whole).as_posix() for place in places)
    return Place(whole, lists, parts, (*trusted, *places))


class TwoReadingsError(DataError):
    """Two readings are possible; ``readings`` are each in words, and the parameter that says so."""

    def __init__(self, seen: str, readings: Sequence[tuple[str, str, str]]) -> None:
        self.seen = seen
        self.readings = tuple(readings)
        told = " or ".join(f"{words} (data.{key}: {value})" for words, key, value in readings)
        super().__init__(f"{seen}: {told}; say which")


def layout_as(name: str, place: Place, given: Layout, class_from: str = "auto") -> Layout:
    """The layout ``name`` (auto: the one that is recognised), with the sets that are there.

    Raises:
        DataError: as ``recognise_layout``; there is no list.
    """
    if name == "auto":
        return recognise_layout(place, given, class_from)
    said: ClassFrom = "first" if class_from == "auto" else class_from  # type: ignore[assignment]
    given = replace(given, name=name, class_from=said, why="as it was said")  # type: ignore[arg-type]
    if name in ("lists", "multi_label"):
        found = _listed(place, given)
        if found is None:
            raise DataError(
                f"{place.folder_of_lists}: no list of train; {_names_of_lists()} is looked for "
                "(data.lists.train, data.list_root; hgnetv2 init --lists)"
            )
        return replace(found, name=given.name, why=given.why)
    if name in ("imagenet", "sample"):
        test = ("test",) if (place.root / "test_list.txt").is_file() else ()
        return replace(given, sets=("train", "val", *test))
    if name == "webdataset":
        tars = find_shards(place.root, place.parts, place.trusted)
        if not tars:
            raise DataError(f"{place.root}: no .tar, of which a WebDataset is made (data.layout)")
        names = find_class_map(place, given)
        return replace(given, sets=tuple(shards_by_split(tars)), class_map=names)
    if name == "split_folders":
        walked = walk_parts(place.root, place.parts, place.trusted, splits=True)
        inside = [folders for _, folders in walked.places if folders[1:]]
        there = {split_of(folders[0]) for folders in inside}
        return replace(given, sets=tuple(split for split in SPLITS if split in there))
    return given


def _names_of_lists() -> str:
    return "train_list.txt, or a CSV, TSV or Parquet called train,"


def recognise_layout(place: Place, given: Layout | None = None, class_from: str = "auto") -> Layout:
    """The layout that is there.

    Args:
        given: what is known of lists, delimiter, columns and class map.
        class_from: which folder names the class; auto: asked for where folders are nested.

    Raises:
        TwoReadingsError: it may be one of two.
        DataError: it is none.
    """
    given = given or Layout("lists")
    if is_imagenet(place.root):
        return replace(
            given, name="imagenet", sets=("train", "val"), lists={},
            why="train/ and val/ with the development kit or the synset names of ImageNet",
            instead=("train/ and val/ as plain class folders: layout split_folders",),
        )  # fmt: skip
    tars = find_shards(place.root, place.parts, place.trusted)
    if tars and are_shards(place.root, tars):
        sets = tuple(shards_by_split(tars))
        return replace(
            given, name="webdataset", sets=sets, class_map=find_class_map(place, given),
            why=f"{len(tars):,} shards, pictures with a .cls or .json of the same name beside them",
        )  # fmt: skip
    listed = _listed(place, given)
    walked = walk_parts(place.root, place.parts, place.trusted, splits=True)
    if listed is None:
        try:
            return _folders(place, given, walked, class_from)
        except TwoReadingsError:
            raise
        except DataError as error:
            tables = _why_no_tables(place, given.columns)
            raise DataError(f"{error}{tables}") from error
    try:
        other = _folders(place, given, walked, class_from)
    except DataError:
        return listed
    _refuse_contradiction(place, listed, other, walked)
    said = f"{other.why}: layout {other.name}"
    return replace(listed, instead=(*listed.instead, said))


def is_imagenet(root: Path) -> bool:
    """Whether ``root`` is ILSVRC2012 with what comes with it, unpacked or as tars per synset."""
    kit = [*root.glob("*devkit*"), *root.glob("ILSVRC2012_validation_ground_truth.txt")]
    named = (root / "LOC_synset_mapping.txt").is_file()
    lists = any((root / f"{split}_list.txt").is_file() for split in ("train", "val"))
    return (
        bool(kit or named) and (root / "train").is_dir() and (root / "val").is_dir() and not lists
    )


def find_class_map(place: Place, given: Layout) -> str | None:
    """The file of class names; None where there is none.

    Raises:
        DataError: two files name other classes.
    """
    if given.class_map is not None or place.lists is None:
        return given.class_map
    lists = place.folder_of_lists
    names = [name for name in CLASS_MAPS if (lists / name).is_file()]
    names += sorted(path.name for path in lists.glob("*_label_list.txt"))
    known = {name: read_class_map(lists / name) for name in names}
    for name in names[1:]:
        if known[name] != known[names[0]]:
            raise DataError(
                f"{lists}: {names[0]} and {name} name other classes; remove one of them, or say "
                "which: data.lists.class_map"
            )
    return names[0] if names else None


def _listed(place: Place, given: Layout) -> Layout | None:
    """The layout by lists or tables; None where there are none."""
    if place.lists is None:
        return None
    if place.lists.is_file():
        given = replace(given, lists=given.lists or {"train": place.lists.name})
    folder = place.folder_of_lists
    found = dict(given.lists) or _find_lists(folder, given.columns)
    if "train" not in found:
        return None
    given = replace(given, class_map=find_class_map(place, given))
    path = folder / found["train"]
    shown = ", ".join(found.values())
    if path.suffix.lower() in TABLES:
        table = read_table(path, given.columns)
        sets = tuple(table.splits) or tuple(found)
        if "train" not in sets:
            raise DataError(f"{path}: no row of column {table.columns.split} says train")
        what = f"columns {table.columns.path} and {table.columns.label}"
        more = f", divided by {table.columns.split}" if table.splits else ""
        return replace(given, name="lists", sets=sets, lists=found, columns=table.columns,
                       why=f"{shown} ({what}{more})")  # fmt: skip
    kind = kind_of_list(path, delimiter_of(given.delimiter))
    several = kind is not None and kind.several
    return replace(
        given, name="multi_label" if several else "lists", sets=tuple(found), lists=found,
        why=f"{shown} ({kind or 'path label'} per line)",
    )  # fmt: skip


def _find_lists(folder: Path, columns: Columns) -> dict[str, str]:
    """The list or table of each set by its usual name; else the one table of path and label."""
    found: dict[str, str] = {}
    endings = (*(f"_list{ending}" for ending in (".txt", *TABLES)), *TABLES, ".txt")
    for split, names in SPLIT_FOLDERS.items():
        for name in (name + ending for ending in endings for name in names):
            path = folder / name
            if path.is_file() and _is_list(path, columns):
                found.setdefault(split, name)
    if found:
        return found
    tables = [
        path.name
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in TABLES and path.is_file() and _is_list(path, columns)
    ]
    if len(tables) > 1:
        raise DataError(
            f"{folder}: {', '.join(tables)} each have paths and labels; say which: "
            f"data.lists.train (hgnetv2 init --lists {folder / tables[0]})"
        )
    return {"train": tables[0]} if tables else {}


def _is_list(path: Path, columns: Columns) -> bool:
    """Whether a file has a label for each image; ``*_list.txt`` says so by its name."""
    if path.suffix.lower() in TABLES:
        try:
            table = read_table(path, columns)
        except DataError:
            if columns != Columns():
                raise
            return "may each be" in _why_no_table(path, columns)
        return table.columns.label is not None
    return path.stem.endswith("_list") or kind_of_list(path) is not None


def _why_no_tables(place: Place, columns: Columns) -> str:
    """What is missing in the tables beside the images, for those who meant them."""
    if place.lists is None:
        return ""
    said = []
    for path in sorted(place.folder_of_lists.iterdir()):
        if path.suffix.lower() in TABLES and path.is_file():
            try:
                table = read_table(path, columns)
            except DataError as error:
                said.append(str(error))
            else:
                said.append(str(no_column(path, "label", list(table.names))))
    return "".join(f"; {each}" for each in said[:3])


def _why_no_table(path: Path, columns: Columns) -> str:
    try:
        read_table(path, columns)
    except DataError as error:
        return str(error)
    return ""


def _folders(place: Place, given: Layout, walked: Walked, class_from: str) -> Layout:
    """The layout by folders and tars."""
    root = place.root
    inside = [folders for _, folders in walked.places if folders]
    tops = sorted({folders[0] for folders in inside}, key=natural)
    named = {split: [top for top in tops if split_of(top) == split] for split in SPLITS}
    splits = [split for split in SPLITS if named[split]]
    classes = {
        split: {folders[1] for folders in inside if split_of(folders[0]) == split and folders[1:]}
        for split in splits
    }
    given = replace(given, class_map=None, lists={})
    if splits and _divides(root, tops, named, classes):
        flat = [split for split in splits if not classes[split]]
        others = [top for top in tops if split_of(top) is None]
        instead = [f"{len(tops)} classes called {', '.join(tops[:4])}: layout folders"]
        instead += [f"{split}/ has no class folders and is left out" for split in flat]
        held = {top: sum(folders[0] == top for folders in inside) for top in others}
        instead += [
            f"{top}/ with {held[top]:,} images is no split and is left out" for top in others
        ]
        sets = tuple(split for split in splits if split not in flat)
        below = [folders[1:] for folders in inside if split_of(folders[0])]
        said = _class_folder(root, _loose(walked, below, 1), below, class_from)
        tops = [top for split in sets for top in named[split]]
        why = f"{'/, '.join(tops)}/ with the same class folders below"
        return replace(
            given, name="split_folders", sets=sets, class_from=said, why=why, instead=tuple(instead)
        )
    if len(tops) < 2:
        raise _no_classes(place, walked, tops)
    said = _class_folder(root, _loose(walked, inside, 0), inside, class_from)
    why = {
        "first": "one folder per class", "last": "the last folder is the class",
        "path": "the whole path of folders is the class",
    }[said]  # fmt: skip
    names = tuple(f"{top!r} is taken as a class, not as a split" for top in tops if split_of(top))
    return replace(given, name="folders", sets=("train",), class_from=said, why=why, instead=names)


def _divides(
    root: Path, tops: list[str], named: dict[str, list[str]], classes: dict[str, set[str]]
) -> bool:
    """Whether the top folders are splits; DataError where they are, and cannot be used so."""
    only = all(split_of(top) for top in tops)
    trained = classes.get("train", set())
    shared = any(trained & classes[split] for split in classes if split != "train")
    several = [split for split in named if len(named[split]) > 1]
    if (shared or only) and several:
        both = " and ".join(f"{name}/" for name in named[several[0]])
        raise DataError(f"{root}: {both} are both {several[0]}; keep one of them")
    if shared or only and len(tops) == 1 and trained:
        return True
    if not only or len(tops) < 2:
        return False
    seen = f"{root}: {'/, '.join(tops)}/ are called as splits"
    if "train" in classes and not trained:
        raise TwoReadingsError(
            f"{seen} and have no class folders below, so that labels are missing (a list or table "
            "of them may be elsewhere: hgnetv2 init --lists)",
            [(f"the classes are {', '.join(tops)}", "layout", "folders")],
        )
    raise TwoReadingsError(
        f"{seen}, and their folders are not the same classes",
        [
            (f"the classes are {', '.join(tops)}", "layout", "folders"),
            ("they are splits", "layout", "split_folders"),
        ],
    )


def _loose(walked: Walked, folders: list[tuple[str, ...]], skip: int) -> list[tuple[str, ...]]:
    """Those folders that hold files themselves: what is inside an archive is no nested class."""
    loose = {places[skip:] for item, places in walked.places if item.offset < 0}
    return [each for each in folders if each in loose]


def _class_folder(
    root: Path, loose: list[tuple[str, ...]], inside: list[tuple[str, ...]], class_from: str
) -> ClassFrom:
    """Which folder names the class; asked for where class folders are nested."""
    if class_from in ("first", "last", "path"):
        return class_from  # type: ignore[return-value]
    deep = sorted((folders for folders in loose if len(folders) > 1), key=_natural_path)
    if not deep:
        return "first"
    by_first = {folders[0] for folders in inside if folders}
    seconds: dict[str, set[str]] = {}
    for folders in deep:
        seconds.setdefault(folders[-1], set()).add(folders[0])
    again = any(len(tops) > 1 for tops in seconds.values())
    example = "/".join(deep[0])
    other: ClassFrom = "last" if again else "path"
    names = sorted({class_in(folders, other) or "" for folders in inside if folders}, key=natural)
    raise TwoReadingsError(
        f"{root}: folders are nested, as {example}/",
        [
            (f"{_counted(sorted(by_first, key=natural))}, and what is below are groups of them",
             "class_from", "first"),
            (_counted(names), "class_from", other),
        ],
    )  # fmt: skip


def _natural_path(folders: tuple[str, ...]) -> tuple[object, ...]:
    return natural("/".join(folders))


def _counted(names: list[str]) -> str:
    return f"{len(names):,} classes {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"


def _no_classes(place: Place, walked: Walked, tops: list[str]) -> DataError:
    """What was found where there are no two classes, and what would do."""
    loose = sum(not folders for _, folders in walked.places)
    more = f"; {loose:,} images are outside any class folder" if loose else ""
    bad = f"; {walked.walk.bad[0][0]}: {walked.walk.bad[0][1]}" if walked.walk.bad else ""
    count, target = links_out(place.root, walked.walk)
    if count:
        bad = f"; {count:,} links lead out to {target}: hgnetv2 init --trust {target}"
    below = {folders[1] for _, folders in walked.places if folders[1:]}
    if len(tops) == 1 and len(below) > 1 and place.parts == ("",):
        more += f"; its folders are called {', '.join(sorted(below, key=natural)[:3])}: name "
        more += f"{place.root / tops[0]} instead"
    return DataError(
        f"{place.root} needs one folder per class, at least two with images ({READABLE}); found "
        f"{len(tops)}: {', '.join(tops) or 'none'}{more}{bad}; or {_ALLOWED}"
    )


def _refuse_contradiction(place: Place, listed: Layout, other: Layout, walked: Walked) -> None:
    """TwoReadingsError where the labels of a list are not those of the class folders."""
    if other.name != "folders" or listed.name == "multi_label":
        return
    path = place.folder_of_lists / listed.lists["train"]
    if path.suffix.lower() in TABLES:
        rows = read_table(path, listed.columns).rows
        pairs = zip(rows["path"], rows["label"], strict=True)
    else:
        from hgnetv2_pipeline.data.lists.read import read_list

        try:
            frame = read_list(path, duplicates="drop", delimiter=listed.delimiter)
        except DataError:
            return  # said when the list is read
        pairs = zip(frame["path"], frame["label"].astype(str), strict=True)
    folder_of = {item.key: class_in(folders, other.class_from) for item, folders in walked.places}
    seen = {(folder_of[key], label) for key, label in pairs if folder_of.get(key)}
    folders, labels = {folder for folder, _ in seen}, {label for _, label in seen}
    if len(seen) > max(len(folders), len(labels)) or len(folders) != len(labels):
        raise TwoReadingsError(
            f"{place.root}: {path.name} and the class folders say other classes "
            f"({len(labels):,} labels, {len(folders):,} folders)",
            [(f"{path.name} is right", "layout", "lists"),
             ("the folders are, and are divided again", "layout", "folders")],
        )  # fmt: skip
