"""Layouts, lists and pictures as people have them: what ``init`` and ingestion make of each.

Of every case that is taken: the layout, the classes, and how many images each set gets. Of every
other one: the words in which it is refused. None is passed over in silence.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from kedro.framework.startup import bootstrap_project
from scipy.io import savemat

from hgnetv2_pipeline.commands import checks
from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.data.lists.tables import Columns
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.data.scan.layouts import Layout
from hgnetv2_pipeline.deployment.inputs import expand_inputs
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw, report_lists
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.sets import decides_lists
from hgnetv2_pipeline.project.ingestion.sources import labelled_place, layout_of
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import DataParams
from layout_cases import (
    as_json,
    class_tar,
    content,
    lists,
    members,
    put,
    shard,
    table,
    tree,
)
from project_copies import ROOT, copy_project, run_here
from tiny_project import identity, parameters, run_of

CATS = ["cat", "dog", "red panda"]
XX = ["xx0", "xx1", "xx2"]
NUMBERS = ["0", "1", "2"]
JXL = b"\xff\x0a" + bytes(40)
SPLIT = {"train__a": 6, "train__b": 6, "val__a": 3, "val__b": 3}


@dataclass(frozen=True)
class Case:
    """A tree, what it is given to init as, and what comes of it.

    ``sets`` are the images that ingestion puts into each set, those that it divides itself as one
    number under ``all``. ``said``: patterns that init prints. ``refused``: init stops with them.
    """

    build: Callable[[Path], Any]
    layout: str = ""
    sets: dict[str, int] = field(default_factory=dict)
    classes: list[str] = field(default_factory=lambda: ["a", "b"])
    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    data: str = "data"


def _links(root: Path) -> None:
    tree(root / "elsewhere", a=6, b=6)
    (root / "data").mkdir()
    for name in "ab":
        (root / "data" / name).symlink_to(root / "elsewhere" / name)


def _linked_files(root: Path) -> None:
    tree(root / "store", a=6, b=6)
    for path in sorted((root / "store").rglob("*.png")):
        link = root / "data" / path.relative_to(root / "store")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


def _odd_formats(root: Path) -> None:
    tree(root / "data", a=12, b=12)
    for number in range(4):
        (root / "data" / "a" / f"{number}.jxl").write_bytes(JXL)


def _jxl_alone(root: Path) -> None:
    for name in "ab":
        (root / "data" / name).mkdir(parents=True)
        for number in range(3):
            (root / "data" / name / f"{number}.jxl").write_bytes(JXL)


def _imagenet(root: Path, flat: bool = True) -> None:
    synsets = ("n01440764", "n02100735", "n02119789")
    tree(root / "data", **{f"train__{synset}": 5 for synset in synsets})
    if flat:
        kit = root / "data" / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
        rows = [(3 - at, synset, 0) for at, synset in enumerate(synsets)]
        savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n3\n")
        for number in range(4):
            put(root / "data", f"val/ILSVRC2012_val_{number + 1:08d}.JPEG", style="JPEG")
    else:
        tree(root / "data", **{f"val__{synset}": 2 for synset in synsets})
        text = "".join(f"{s} {name}\n" for s, name in zip(synsets, CATS, strict=True))
        (root / "data" / "LOC_synset_mapping.txt").write_text(text)


def _endings(root: Path) -> None:
    tree(root / "data", a=3, b=8)
    for name, style in (("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x.dib", "BMP"), ("x", "PNG"),
                        ("x.avif", "AVIF"), ("x.jp2", "JPEG2000")):  # fmt: skip
        put(root / "data" / "a", name, 0, style)


def _paddlex(root: Path, names: str = "cat\ndog\nred panda\n", file: str = "labels.txt") -> None:
    lists(root / "data", place="xx{}/{}.png")
    (root / "data" / file).write_text(names)


def _wrong_list(root: Path) -> None:
    lists(root / "data", lambda name, kind: f"{name} {int(name[-5]) % 2}", place="xx{}/{}.png")


def _split_tars(root: Path) -> None:
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        class_tar(root / "data" / f"{split}.tar", {"a": count, "b": count})


def _shards(root: Path, ending: str, label: Callable[[int], str], flat: bool = True) -> None:
    base = root / "data"
    shard(base / "train-000000.tar", 9, label, ending)
    shard(base / "train-000001.tar", 6, label, ending)
    shard(base / "val-000000.tar", 6, label, ending)
    if not flat:
        (base / "labels.txt").write_text("cat\ndog\nred panda\n")


def _elsewhere(root: Path) -> None:
    """Lists beside the folder that they begin with."""
    lists(root / "data", lambda name, kind: f"data/{name} {kind}")


def _absolute(root: Path) -> None:
    lists(root / "data", lambda name, kind: f"{root}/data/{name} {kind}")


def _one_split_column(root: Path) -> None:
    rows = ["file,species,subset"]
    for split, count in (("train", 5), ("valid", 3), ("test", 2)):
        rows += [
            f"{put(root / 'data', f'jpg/{split}{kind}{number}.png', kind)},{CATS[kind]},{split}"
            for number in range(count) for kind in range(3)
        ]  # fmt: skip
    (root / "data" / "all.csv").write_text("\n".join(rows))


def _parquet(root: Path) -> None:
    import pandas as pd

    rows = [
        (put(root / "data", f"jpg/{kind}_{number}.png", kind), kind)
        for kind in range(3) for number in range(8)
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["path", "label"]).to_parquet(root / "data" / "images.parquet")


def _kaggle(root: Path) -> None:
    """Ids without endings, pictures in train/, and a table of the test set without labels."""
    rows = [
        (put(root / "data", f"train/{kind}{number:02}.png", kind)[6:-4], CATS[kind])
        for kind in range(3) for number in range(8)
    ]  # fmt: skip
    text = "".join(f"{name},{label}\n" for name, label in rows)
    (root / "data" / "train.csv").write_text("id,breed\n" + text)
    (root / "data" / "test.csv").write_text("id\n9999\n")


def _two_lists_of_names(root: Path) -> None:
    _paddlex(root)
    (root / "data" / "class_map.txt").write_text("0 a\n1 b\n2 c\n")


def _extra(root: Path) -> None:
    tree(root / "data", **SPLIT)
    tree(root / "data", unlabelled=5)


def _mixed(root: Path) -> None:
    tree(root / "data", a=6, b=6)
    (root / "data" / "train_list.txt").write_text("a/0.png\t1\nb/0.png\t0,1\n")


def _vector(line: str) -> Callable[[Path], Path]:
    vectors = ["1,0,0", "0,1,0", "0,1,1"]
    return lambda root: lists(
        root / "data", lambda name, kind: line.format(name, vectors[kind]), sets={"train": 10}
    )


TAKEN = {
    "class folders": Case(lambda root: tree(root / "data", a=10, b=10), "folders", {"all": 20},
                          said=("layout folders: one folder per class",)),
    "a class folder without images": Case(
        lambda root: (tree(root / "data", a=10, b=10) / "none").mkdir(), "folders", {"all": 20},
        said=(r"folders without an image, which are no classes: 1 \('none'\)",)),
    "val without a class": Case(
        lambda root: tree(root / "data", train__a=6, train__b=6, val__a=3), "split_folders",
        {"train": 12, "val": 3}, said=("val has no image of 1 of 2 classes: 'b'",)),
    "class folders, numbered": Case(
        lambda root: tree(root / "data", **{str(n): 5 for n in (1, 2, 10)}), "folders",
        {"all": 15}, ["1", "2", "10"]),
    "train and val": Case(
        lambda root: tree(root / "data", **SPLIT), "split_folders", {"train": 12, "val": 6},
        said=("train/, val/ with the same class folders below", "not taken: 2 classes called train",
              "there is no test set")),
    "train, valid and test": Case(
        lambda root: tree(root / "data", train__a=6, train__b=6, valid__a=3, valid__b=3,
                          test__a=2, test__b=2),
        "split_folders", {"train": 12, "val": 6, "test": 4}, said=("division is kept whole",)),
    "Training and Validation": Case(
        lambda root: tree(root / "data", Training__a=6, Training__b=6, Validation__a=3,
                          Validation__b=3), "split_folders", {"train": 12, "val": 6}),
    "train and test": Case(
        lambda root: tree(root / "data", train__a=10, train__b=10, test__a=3, test__b=3),
        "split_folders", {"all": 20, "test": 6}),
    "train alone": Case(
        lambda root: tree(root / "data", train__a=10, train__b=10), "split_folders", {"all": 20}),
    "splits beside a pool": Case(_extra, "split_folders", {"train": 12, "val": 6},
                                 said=("unlabelled/ with 5 images is no split and is left out",)),
    "a class called train": Case(
        lambda root: tree(root / "data", bus=6, car=6, train=6), "folders", {"all": 18},
        ["bus", "car", "train"], said=("'train' is taken as a class, not as a split",)),
    "split tars": Case(_split_tars, "split_folders", {"train": 12, "val": 6, "test": 6}),
    "a tar per class": Case(
        lambda root: [class_tar(root / "data" / f"{n}.tar", {"": 8}) for n in "ab"], "folders",
        {"all": 16}),
    "one tar, named": Case(
        lambda root: class_tar(root / "data.tar", {"a": 8, "b": 8}, "set/"), "folders",
        {"all": 16}, data="data.tar"),
    "one tar with splits": Case(
        lambda root: class_tar(root / "data.tar", {"train/a": 6, "train/b": 6, "val/a": 3,
                                                   "val/b": 3}),
        "split_folders", {"train": 12, "val": 6}, data="data.tar"),
    "two folders of class folders": Case(
        lambda root: [tree(root / "data", a=6, b=6), tree(root / "more", a=4, c=4)], "folders",
        {"all": 20}, ["a", "b", "c"], words=("--labelled", "more")),
    "a folder and a tar": Case(
        lambda root: [tree(root / "data", a=6, b=6),
                      class_tar(root / "more.tar", {"a": 4, "b": 4})],
        "folders", {"all": 20}, words=("--labelled", "more.tar")),
    "a folder of splits and a tar of one": Case(
        lambda root: [tree(root / "data", **SPLIT),
                      class_tar(root / "more.tar", {"train/a": 4, "train/b": 4})],
        "split_folders", {"train": 20, "val": 6}, words=("--labelled", "more.tar")),
    "a tar per split, each in its folder": Case(
        lambda root: [class_tar(root / "data" / f"{split}.tar", {"a": 5, "b": 5}, f"{split}/")
                      for split in ("train", "valid")],
        "split_folders", {"train": 10, "val": 10}),
    "two folders of splits": Case(
        lambda root: [tree(root / name, **SPLIT) for name in ("data", "more")], "split_folders",
        {"train": 24, "val": 12}, words=("--labelled", "more")),
    "nested, the first folder": Case(
        lambda root: tree(root / "data", a__x=6, a__y=6, b__z=6), "folders", {"all": 18},
        words=("--class-from", "first")),
    "nested, all folders": Case(
        lambda root: tree(root / "data", a__x=6, a__y=6, b__z=6), "folders", {"all": 18},
        ["a/x", "a/y", "b/z"], words=("--class-from", "path")),
    "nested, the last folder": Case(
        lambda root: tree(root / "data", s1__a=4, s1__b=4, s2__a=4, s2__b=4), "folders",
        {"all": 16}, words=("--class-from", "last")),
    "splits, nested": Case(
        lambda root: tree(root / "data", train__s1__a=5, train__s2__b=5, val__s1__a=3,
                          val__s1__b=3), "split_folders", {"train": 10, "val": 6},
        words=("--class-from", "last")),
    "PaddleClas": Case(
        lambda root: lists(root / "data"), "lists", {"train": 15, "val": 9, "test": 6}, NUMBERS,
        said=("train_list.txt, val_list.txt, test_list.txt .one number behind a space per line",)),
    "PaddleClas, train alone": Case(
        lambda root: lists(root / "data", sets={"train": 10}), "lists", {"all": 30}, NUMBERS),
    "PaddleClas, label_list.txt": Case(
        lambda root: [lists(root / "data"), (root / "data" / "label_list.txt").write_text(
            "0 cat\n1 dog\n2 red panda\n")], "lists", {"train": 15, "val": 9, "test": 6}, CATS,
        said=("class names from label_list.txt",)),
    "PaddleX": Case(_paddlex, "lists", {"train": 15, "val": 9, "test": 6}, CATS,
                    said=("not taken: one folder per class: layout folders",)),
    "PaddleX without names": Case(
        lambda root: lists(root / "data", place="xx{}/{}.png"), "lists",
        {"train": 15, "val": 9, "test": 6}, XX),
    "lists, a tab": Case(
        lambda root: lists(root / "data", "{}\t{}".format, classes=2, sets={"train": 10}), "lists",
        {"all": 20}, ["0", "1"], said=("one number behind a tab",)),
    "lists, a comma": Case(
        lambda root: lists(root / "data", "{},{}".format), "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS),
    "lists, a bar": Case(
        lambda root: lists(root / "data", "{}|{}".format), "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS),
    "lists, a semicolon": Case(
        lambda root: lists(root / "data", "{};{}".format), "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS, words=("--delimiter", ";")),
    "lists, spaces in names": Case(
        lambda root: lists(root / "data", place="my {} pictures/{} of it.png"), "lists",
        {"train": 15, "val": 9, "test": 6}, [f"my {n} pictures" for n in range(3)]),
    "lists, CRLF and a mark": Case(
        lambda root: lists(root / "data", "{} {}\r".format, first="\ufeff"), "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS),
    "lists, absolute paths": Case(_absolute, "lists", {"train": 15, "val": 9, "test": 6}, NUMBERS),
    "lists called train.txt": Case(
        lambda root: lists(root / "data", named="{}.txt".format), "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS),
    "lists elsewhere": Case(
        lambda root: [lists(root / "data"), (root / "meta").mkdir(), [shutil.move(p, root / "meta")
                      for p in (root / "data").glob("*.txt")]], "lists",
        {"train": 15, "val": 9, "test": 6}, NUMBERS, words=("--lists", "meta")),
    "lists that repeat the folder": Case(
        _elsewhere, "lists", {"train": 15, "val": 9, "test": 6}, NUMBERS, data=".",
        words=("--lists", "data")),
    "one list": Case(
        lambda root: lists(root / "data", sets={"train": 10}, named=lambda _: "all.txt"), "lists",
        {"all": 30}, NUMBERS, data="data/all.txt"),
    "several labels": Case(_vector("{}\t{}"), "multi_label", {"all": 30}, NUMBERS,
                           said=("a 0 or 1 for every class behind a tab",)),
    "several labels, a bar": Case(_vector("{}|{}"), "multi_label", {"all": 30}, NUMBERS),
    "a CSV": Case(lambda root: table(root / "data", {"images": 10}, "path,label"), "lists",
                  {"all": 30}, CATS, said=("images.csv .columns path and label",)),
    "a CSV of other columns": Case(
        lambda root: table(root / "data", {"x": 10}, "bild,art"), "lists", {"all": 30}, CATS,
        words=("--columns", "path=bild,label=art")),
    "CSV per split": Case(
        lambda root: table(root / "data", {"train": 5, "val": 3, "test": 2}, "Filename;Class", ";"),
        "lists", {"train": 15, "val": 9, "test": 6}, CATS),
    "a TSV": Case(
        lambda root: table(root / "data", {"images": 10}, "image\tspecies", "\t", named="{}.tsv"),
        "lists", {"all": 30}, CATS),
    "a CSV with splits": Case(_one_split_column, "lists", {"train": 15, "val": 9, "test": 6}, CATS,
                              said=("divided by subset",)),
    "a Parquet of numbers": Case(_parquet, "lists", {"all": 24}, NUMBERS),
    "WebDataset, numbers": Case(
        lambda root: _shards(root, "cls", lambda n: str(n % 3), flat=False), "webdataset",
        {"train": 15, "val": 6}, CATS, said=("3 shards, pictures with a .cls or .json",)),
    "WebDataset, names": Case(
        lambda root: _shards(root, "json", as_json), "webdataset", {"train": 15, "val": 6},
        ["cat", "dog", "fox"]),
    "every ending": Case(_endings, "folders", {"all": 17}),
    "ImageNet, development kit": Case(
        _imagenet, "imagenet", {"train": 15, "val": 4}, ["n01440764", "n02100735", "n02119789"],
        said=("train/ and val/ with the development kit", "not taken: .*layout split_folders")),
    "ImageNet, names of synsets": Case(
        lambda root: _imagenet(root, flat=False), "imagenet", {"train": 15, "val": 6}, CATS),
    "a few JPEG XL": Case(_odd_formats, "folders", {},
                       said=("4 of 28 labelled images are JPEG XL, which is not read here: convert",
                             "ingestion will stop: about 4 of 28 images cannot be used, 1 may")),
    "Cat and cat": Case(
        lambda root: tree(root / "data", Cat=5, cat=5), "folders", {"all": 10}, ["Cat", "cat"],
        said=("'Cat' and 'cat' are two classes; if they are one",)),
    "a class of two": Case(
        lambda root: tree(root / "data", a=8, b=8, c=2), "folders", {"all": 16},
        said=("1 of 3 classes will be left out: fewer than 3 images that can be used .'c' 2",)),
    "a class that no list can name": Case(
        lambda root: tree(root / "data", a=40, b=40, **{" lead": 3}), "folders", {"all": 80},
        said=("1 whole class will be left out, first ' lead': its name has a space",)),
    "linked class folders": Case(_links, "folders", {"all": 12}, words=("--trust", "elsewhere")),
    "linked images": Case(_linked_files, "folders", {"all": 12}, words=("--trust", "store")),
    "an own test set": Case(
        lambda root: [tree(root / "data", a=10, b=10), tree(root / "held out", a=3, b=3)],
        "folders", {"all": 20, "test": 6}, words=("--test", "held out")),
}  # fmt: skip

REFUSED = {
    "nested": Case(lambda root: tree(root / "data", a__x=4, a__y=4, b__z=4), refused=(
        "nested, as a/x/; 2 classes a, b, and what is below are groups of them: hgnetv2 init mine "
        "--labelled data --class-from first; or 3 classes a/x, a/y, b/z: hgnetv2 init mine "
        "--labelled data --class-from path",)),
    "nested, the same below": Case(
        lambda root: tree(root / "data", s1__a=4, s1__b=4, s2__a=4, s2__b=4), refused=(
            "2 classes s1, s2, .*--class-from first; or 2 classes a, b: .*--class-from last",)),
    "a folder around everything": Case(
        lambda root: tree(root / "data", inner__a=4, inner__b=4), refused=(
            "one folder per class, at least two with images .* found 1: inner; its folders are "
            "called a, b: name data/inner instead",)),
    "splits of other classes": Case(
        lambda root: tree(root / "data", train__a=4, train__b=4, test__c=4), refused=(
            "train/ are called as splits, and their folders are not the same classes; .*--layout "
            "folders; or they are splits: .*--layout split_folders",)),
    "splits without classes": Case(
        lambda root: tree(root / "data", train=4, test=4), refused=(
            "have no class folders below, so that labels are missing .*--layout folders",)),
    "val and validation": Case(
        lambda root: tree(root / "data", **SPLIT, validation__a=2), refused=(
            "val/ and validation/ are both val; keep one",)),
    "a test class that is unknown": Case(
        lambda root: [tree(root / "data", cat=4, dog=4), tree(root / "more", Cat=3)], refused=(
            "--test: .*class folder 'Cat' is not among the 2 known classes .*is it 'cat'",),
        words=("--test", "more")),
    "two test sets": Case(
        lambda root: [tree(root / "data", **SPLIT, test__a=2), tree(root / "more", a=3)], refused=(
            "--test more, but data has a test set of its own",), words=("--test", "more")),
    "a val class that is unknown": Case(
        lambda root: tree(root / "data", **SPLIT, val__c=2), refused=(
            "class folder 'c' is not among the 2 known classes",)),
    "one class left": Case(lambda root: tree(root / "data", a=9, b=2, c=1), refused=(
        "2 of 3 classes have fewer than 3 images that can be used .'b' 2, 'c' 1.*one is left",)),
    "lists, backslashes": Case(
        lambda root: lists(root / "data", lambda n, k: n.replace("/", "\\") + f" {k}",
                           place="xx{}/{}.png"),
        refused=(r"15 of 15 files cannot be used.*with / for \\ 15 of 15 missing files would be "
                 r"found: sed -i 's#\\\\#/#g' .*train_list.txt",)),
    "lists, one folder too many": Case(_elsewhere, refused=(
        "without the leading data/ 15 of 15 missing files would be found: set data.root: .* and "
        "data.list_root: .*data .hgnetv2 init NAME --labelled .* --lists .*data",)),
    "lists, one folder too few": Case(
        lambda root: lists(root / "data", lambda n, k: f"{n[4:]} {k}"), refused=(
            "below jpg/ 15 of 15 missing files would be found: set data.root: data/jpg",)),
    "lists, absolute elsewhere": Case(
        lambda root: lists(root / "data", lambda n, k: f"/home/x/{n} {k}"), refused=(
            "absolute path in '/home/x/jpg/0_1.png 0' that is not below the root",)),
    "lists, labels from 1": Case(
        lambda root: lists(root / "data", lambda n, k: f"{n} {k + 1}"), refused=(
            "1 of 4 classes have no image: 0; the labels begin at 1: subtract 1",)),
    "lists, names as labels": Case(
        lambda root: lists(root / "data", lambda n, k: f"{n} {CATS[k][:3]}"), refused=(
            "label 'cat' is not a class number; .* CSV with the columns path and label",)),
    "lists, a no-break space": Case(
        lambda root: lists(root / "data", "{}\xa0{}".format), refused=(
            "no label in .* is a no-break space.; write 'path label'",)),
    "lists that contradict the folders": Case(_wrong_list, refused=(
        "train_list.txt and the class folders say other classes .2 labels, 3 folders.; "
        "train_list.txt is right: .*--layout lists; or .*--layout folders",)),
    "a list of both kinds": Case(_mixed, refused=(
        "train_list.txt:2: .* has a 0 or 1 for every class behind a tab, the lines before it have "
        "one number behind a tab",)),
    "a list that may be two": Case(lambda root: lists(
        root / "data", lambda name, kind: f"{name} {kind % 2},1", place="{}/{}",
        sets={"train": 4}), refused=(
        "is a 0 or 1 for every class behind a space or one number behind a comma, and so is every "
        "line; say which: data.delimiter",)),
    "two files of names": Case(_two_lists_of_names, refused=(
        "class_map.txt and labels.txt name other classes",)),
    "a label beyond the names": Case(lambda root: _paddlex(root, "cat\ndog\n"), refused=(
        "label 2 is outside the 2 classes 0-1",)),
    "ids of Kaggle": Case(_kaggle, refused=(
        "24 of 24 files cannot be used: .* below train/ with .png added 24 of 24 missing files "
        "would be found: write the paths with their endings, and set data.root: data/train",)),
    "a CSV with two labels": Case(
        lambda root: table(root / "data", {"train": 4}, "path,label,class"), refused=(
            "columns label, class may each be the label; say which: data.columns.label",)),
    "flat pictures": Case(lambda root: [put(root / "data", f"{n}.png") for n in range(5)], refused=(
        "found 0: none; 5 images are outside any class folder; or a folder per class, train/",)),
    "links": Case(_links, refused=(
        "found 0: none; 2 links lead out to .*elsewhere: hgnetv2 init --trust .*elsewhere;",)),
    "a table of 0 and 1": Case(
        lambda root: [put(root / "data", f"{n}.png") for n in range(4)] and (
            root / "data" / "labels.csv").write_text("file,red,round\n0.png,1,0\n"), refused=(
            "labels.csv: no column of the label; it has file, red, round; name it by",)),
    "one folder within another": Case(lambda root: tree(root / "data", a=4, b=4), refused=(
        "data/a is inside data; leave one",), words=("--labelled", "data/a")),
    "JPEG XL alone": Case(_jxl_alone, refused=(
        "none of 6 labelled images looked at can be opened.*JPEG XL is not read here",)),
}  # fmt: skip


def init(project: Path, root: Path, case: Case, name: str = "mine") -> Result:
    """``hgnetv2 init`` as typed beside the tree."""
    case.build(root)
    shutil.copytree(ROOT / "conf", project / "conf", dirs_exist_ok=True)
    words = [str(root / word) if (root / word).exists() else word for word in case.words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return CliRunner().invoke(main, ["init", name, "--labelled", str(root / case.data), *words])


def ingest(project: Path, **more: Any) -> tuple[Lists, DataParams, Identity]:
    """Ingestion of ``conf/mine`` in this process."""
    conf = [project / "conf" / name / "parameters.yml" for name in ("base", "mine")]
    base, own = (yaml.safe_load(path.read_text(encoding="utf-8"))["data"] for path in conf)
    values = base | own | {"split": base["split"] | own["split"], "workers": 1} | more
    data = DataParams.model_validate(values)
    run = run_of(identity(project))
    raw = provide_raw(run, data)
    return Lists(make_lists(run, data, raw)), data, run.identity


@pytest.mark.parametrize("name", TAKEN)
def test_a_layout_is_recognised_said_written_down_and_ingested(tmp_path: Path, name: str) -> None:
    case = TAKEN[name]
    project = tmp_path / "project"
    done = init(project, tmp_path / "tree", case)
    assert done.exit_code == 0, done.output
    assert f"layout {case.layout}: " in done.output
    for pattern in case.said:
        assert re.search(pattern, done.output), done.output
    if not case.sets:
        return
    known, data, who = ingest(project)
    assert data.layout == case.layout
    assert known.classes == case.classes
    counts = {split: len(known.frame(split)) for split in known.sets}
    own = {split: count for split, count in case.sets.items() if split != "all"}
    assert {split: counts.pop(split, 0) for split in own} == own
    assert sum(counts.values()) == case.sets.get("all", 0)
    found = re.search(r"found ([0-9,]+) labelled images", done.output)
    assert found is not None
    if name not in ("a class of two", "a class that no list can name", "an own test set"):
        assert int(found[1]) == sum(case.sets.values())
    # Looked at again, it is the same: what was written down, and what auto would take.
    place = labelled_place(data, who.project, project / "data" / "01_raw" / "mine")
    said = layout_of(data, place)
    if not case.words and name != "one list":
        assert layout_of(data.model_copy(update={"layout": "auto"}), place).name == said.name
    assert said.class_from == ("first" if data.class_from == "auto" else data.class_from)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_or_one_of_two_is_refused_with_the_way_on(tmp_path: Path, name: str) -> None:
    case = REFUSED[name]
    project = tmp_path / "project"
    done = init(project, tmp_path / "tree", case)
    assert done.exit_code in (2, 3), done.output
    said = done.output.replace(f"{tmp_path}/tree/", "")
    for pattern in case.refused:
        assert re.search(pattern, said), done.output
    assert len(said.strip().splitlines()[-1]) == len(said.strip().splitlines()[-1].strip())
    assert not (project / "conf" / "mine").exists()


def test_auto_takes_what_init_would_and_asks_where_init_asks(tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert init(project, tmp_path / "tree", TAKEN["train and val"]).exit_code == 0
    by_name, _, who = ingest(project)
    manifest = (by_name.folder / "manifest.json").read_bytes()
    again, _, _ = ingest(project, layout="auto")
    assert (again.folder / "manifest.json").read_bytes() == manifest
    root = tree(tmp_path / "nested", a__x=4, a__y=4, b__z=4)
    said = r"2 classes a, b, and .* \(data.class_from: first\) or 3 classes .*class_from: path"
    with pytest.raises(DataError, match=said):
        ingest(project, layout="auto", class_from="auto", root=str(root))
    assert who.project == project


def test_what_was_assumed_is_on_the_page_of_the_dataset(tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert init(project, tmp_path / "tree", TAKEN["PaddleX"]).exit_code == 0
    known, _, who = ingest(project, layout="auto")
    page, *_ = report_lists(run_of(who), project / "data/01_raw/mine", known.folder)
    text = page.with_name("dataset_report.html").read_text(encoding="utf-8")
    assert (
        "The layout is lists (train_list.txt, val_list.txt, test_list.txt (one number behind a"
        in text
    )
    assert "with the sets train, val, test; train train_list.txt" in text
    assert (
        "test test_list.txt, class_map labels.txt. The class of an image is the first folder"
        in text
    )


def test_lists_made_before_layouts_were_known_are_the_same(tmp_path: Path) -> None:
    """Their manifest has the parameters of then; other names, columns or folders are others."""
    data = parameters()
    assert decides_lists(data, Layout("folders")) == {
        "layout": "folders", "min_per_class": 2, "duplicates": "refuse", "leaks": "refuse",
        "split": data.split.model_dump(mode="json"),
    }  # fmt: skip
    usual = {split: f"{split}_list.txt" for split in ("train", "val")}
    old = decides_lists(data, Layout("multi_label", lists=usual, class_map="class_map.txt"))
    assert old == decides_lists(data, Layout("folders")) | {"layout": "multi_label"}
    for other in (
        Layout("lists", lists={"train": "a.csv"}), Layout("lists", class_map="labels.txt"),
        Layout("lists", delimiter="tab"), Layout("lists", columns=Columns(label="y")),
        Layout("lists", class_from="path"),
    ):  # fmt: skip
        assert decides_lists(data, other) != decides_lists(data, Layout("lists"))


def test_one_folder_of_images_becomes_several_and_one_again(tmp_path: Path) -> None:
    """The links are ours; what lies behind them, and links of the user's own, stay."""
    project = tmp_path / "project"
    assert init(project, tmp_path / "tree", TAKEN["two folders of class folders"]).exit_code == 0
    both = [str(tmp_path / "tree" / name) for name in ("data", "more")]
    for root, images in ((both, 20), (both[0], 12), (both, 20), ([both[0]], 12)):
        known, _, _ = ingest(project, root=root)
        assert sum(len(known.frame(name)) for name in known.sets) == images
    own = project / "data/01_raw/other/images"
    own.mkdir(parents=True)
    for name in "ab":
        (own / name).symlink_to(tmp_path / "tree" / "data" / name)
    who = identity(project).model_copy(update={"dataset": "other"})
    data = parameters(root=str(own), trusted_roots=[both[0]])
    provide_raw(run_of(who), data)
    assert sorted(path.name for path in own.iterdir()) == ["a", "b"]
    assert len(list((tmp_path / "tree").rglob("*.png"))) == 20


def test_the_checks_of_init_are_those_of_its_template() -> None:
    text = (ROOT / "conf" / "own" / "parameters.yml").read_text(encoding="utf-8")
    assert f"min_per_class: {checks.MIN_PER_CLASS}\n" in text
    assert f"max_bad: {checks.MAX_BAD} " in text


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_training_and_prediction_take_the_same_files_for_pictures(
    tmp_path: Path, kind: str
) -> None:
    """One table: endings, names without one, hidden files, and formats that are not read."""
    names = ["a.jpg", "b.jfif", "c.jpe", "d.dib", "e.tif", "f.gif", "g.webp", "h.PNG", "i.avif",
             "j.jp2", "k.jxl", "l.svg", "m.mpo", "n.txt", "o.csv", "._p.jpg", ".q.png",
             "__MACOSX/r.png", "s/t.png", ".u/v.png"]  # fmt: skip
    files = [(name, content()) for name in names]
    if kind == "folder":
        for name, data in [*files, ("w", content()), ("x", b"no picture")]:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        given = tmp_path / "in"
        below = given
    else:
        (tmp_path / "in").mkdir()
        members(tmp_path / "in" / "x.tar", files)
        given, below = tmp_path / "in", tmp_path / "in"
    scan = scan_unlabelled(below, threads=1)
    trained = {*scan.samples["key"], *scan.quarantined["key"]}
    predicted = {Path(one.name).relative_to(given).as_posix() for one in expand_inputs([given])}
    assert trained == predicted
    assert len(trained) == 14 + (kind == "folder")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in TAKEN.items() if case.sets])
def test_every_layout_trains_and_answers_a_new_picture(tmp_path: Path, name: str) -> None:
    _train_and_predict(tmp_path, TAKEN[name])


@pytest.mark.parametrize("name", ["train, valid and test"])
def test_a_layout_trains_and_answers_a_new_picture(tmp_path: Path, name: str) -> None:
    _train_and_predict(tmp_path, TAKEN[name])


STEPS = "train.epochs=null,train.steps=2,train.eval_every=1,train.warmup_epochs=0,mlflow=false"


def _run(project: Path, *words: str) -> None:
    """``kedro run`` in this process, which saves the seconds in which libraries load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        bootstrap_project(project)
        code, said = run_here(*words)
    assert code == 0, said


def _train_and_predict(base: Path, case: Case) -> None:
    project = copy_project(base / "project")
    assert init(project, base / "tree", case).exit_code == 0
    _run(project, "--env", "mine", "--pipeline", "train", "--params", STEPS)
    put(base, "new.png")
    model = project / "data/06_models/mine/train/b0/seed=0/student.safetensors"
    done = CliRunner().invoke(main, ["predict", "--model", str(model), str(base / "new.png")])
    assert done.exit_code == 0, done.output
    assert any(name in done.output for name in case.classes), done.output


def test_without_a_pool_the_chain_is_the_shorter_one(tmp_path: Path) -> None:
    """D20: train, choose, evaluate, export, time, answer, report, by one command."""
    project = copy_project(tmp_path / "project")
    assert init(project, tmp_path / "tree", TAKEN["PaddleX"]).exit_code == 0
    short = "latency.warmup=1,latency.runs=3,latency.turns=1,latency.cold_starts=1,latency.beside="
    _run(project, "--env", "mine", "--params", f"{STEPS},{short}")
    made = project / "data"
    evaluated = made / "08_reporting/mine/evaluation/best/b0/seed=0/test-torch-fp32.json"
    assert json.loads(evaluated.read_text(encoding="utf-8"))["n_used"] == 6
    bundle = made / "07_model_output/mine/best/b0/seed=0"
    assert (bundle / "labels.txt").read_text(encoding="utf-8").splitlines() == CATS
    assert (made / "08_reporting/mine/report/report.html").is_file()
    assert not (made / "06_models/mine/ssld_stage1").exists()
    # One pipeline of it by its name, which mines nothing either.
    _run(project, "--env", "mine", "--pipeline", "evaluation", "--params", f"{STEPS},{short}")
    # Our own names of classes are taken where a class map is.
    words = ["--class-map", str(bundle / "labels.txt"), str(tmp_path / "tree/data/xx0/1.png")]
    answer = CliRunner().invoke(main, ["predict", "--model", str(bundle / "model.onnx"), *words])
    assert answer.exit_code == 0 and any(name in answer.output for name in CATS), answer.output
