"""The nodes of ingestion on tiny folders, without Kedro around them: lists, ledger, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hgnetv2_pipeline.data.index import decoding_in
from hgnetv2_pipeline.data.lists.check import check_lists
from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw, report_lists
from hgnetv2_pipeline.project.ingestion.pool import read_pool
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import DataParams
from tiny_project import SIDE, identity, parameters, picture, run_of

SIDES = ("train", "val")


def ingest(project: Path, data: DataParams) -> tuple[Path, dict[str, Any], Path]:
    """The folder of lists, the summary and the page."""
    run = run_of(identity(project))
    raw = provide_raw(run, data)
    lists = make_lists(run, data, raw)
    summary, _, page, _ = report_lists(run, raw, lists)
    check_lists(lists)
    return lists, json.loads(summary.read_text("utf-8")), page


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of ten, a test folder of which one image is a near copy and one a copy."""
    for kind in range(2):
        for number in range(10):
            picture(tmp_path / "images" / "ab"[kind] / f"{number}.png", 100 * kind + number)
        for number in range(3):
            picture(tmp_path / "final" / "ab"[kind] / f"{number}.png", 1000 + 100 * kind + number)
    picture(tmp_path / "final" / "a" / "enlarged.png", 3, size=2 * SIDE)
    shutil.copyfile(tmp_path / "images/b/4.png", tmp_path / "final/b/copied.png")
    shutil.copyfile(tmp_path / "images/b/5.png", tmp_path / "images/b/again.png")
    (tmp_path / "images" / "b" / "broken.png").write_bytes(b"no image")
    return tmp_path


def test_near_copies_of_the_test_folder_are_reported_and_left_out_if_asked(folders: Path) -> None:
    lists, summary, page = ingest(folders, parameters(test="final", max_bad=0.1, leaks="report"))
    leaks = pd.read_csv(lists / "leaks.csv").set_index("key")
    assert set(leaks.index) == {"images/a/3.png", "images/b/4.png"}
    assert leaks.loc["images/b/4.png", "same_bytes"] and leaks["other_set"].eq("test").all()
    counts = {key: summary[key] for key in ("n_listed", "n_used", "n_quarantined", "n_refused")}
    assert counts == {"n_listed": 30, "n_used": 29, "n_quarantined": 1, "n_refused": 0}
    text = page.read_text("utf-8")
    assert "images/a/3.png" in text and "images/b/broken.png" in text

    lists, summary, page = ingest(folders, parameters(test="final", max_bad=0.1, leaks="clean"))
    assert pd.read_csv(lists / "leaks.csv").empty
    counts = {key: summary[key] for key in counts}
    assert counts == {"n_listed": 30, "n_used": 26, "n_quarantined": 1, "n_refused": 3}
    left_out = pd.read_csv(lists / "quarantine.csv").set_index("key")
    assert dict(left_out["fate"]) == {
        "images/b/broken.png": "quarantined", "images/a/3.png": "refused",
        "images/b/4.png": "refused", "images/b/again.png": "refused",
    }  # fmt: skip
    used = [read_list(lists / f"{name}_list.txt") for name in ("train", "val", "test")]
    assert sum(map(len, used)) == 26
    assert "No image of train or val is in val or test" in page.read_text("utf-8")


def test_copies_in_the_test_folder_stop_ingestion_and_near_ones_do_not(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = parameters(test="final", max_bad=0.1)
    said = (
        r"images of train or val that are in val or test too: 1 with the same bytes, first "
        r"images/b/4\.png of (train|val) as test/b/copied\.png of test \(1 more look alike\).*"
        r"set data\.leaks: clean to leave them out, report to keep them"
    )
    with pytest.raises(DataError, match=said):
        ingest(folders, data)
    assert not (folders / "data/02_intermediate/mine/train_list.txt").exists()
    (folders / "final/b/copied.png").unlink()
    lists, summary, _ = ingest(folders, data)
    assert pd.read_csv(lists / "leaks.csv")["key"].tolist() == ["images/a/3.png"]
    assert "looks like" in caplog.text and summary["n_refused"] == 0


def test_classes_that_the_test_set_lacks_are_named(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (folders / "final/b").iterdir():
        path.unlink()
    picture(folders / "final/a/own.png", 77)
    ingest(folders, parameters(test="final", max_bad=0.1))
    assert "test has images of 1 of 2 classes, none of 'b'" in caplog.text
    assert "val has images" not in caplog.text


def test_a_review_that_removes_a_whole_class_from_train_stops_ingestion(folders: Path) -> None:
    data = parameters(max_bad=0.1)
    lists, _, _ = ingest(folders, data)
    train = read_list(lists / "train_list.txt")
    before = (lists / "train_list.txt").read_bytes()
    gone = [path for path in train["path"] if path.startswith("images/b/")]
    review = folders / "data/01_raw/mine/review.csv"
    review.write_text("list,key,decision\n" + "".join(f"labels,{key},remove\n" for key in gone))
    with pytest.raises(DataError, match="review.csv leaves class 'b' without an image in train"):
        ingest(folders, data)
    assert (lists / "train_list.txt").read_bytes() == before, "the old lists are as they were"
    review.write_text("list,key,decision\n" + f"labels,{gone[0]},remove\n")
    lists, _, _ = ingest(folders, data)
    assert len(read_list(lists / "train_list.txt")) == len(train) - 1


def grouped(path: str) -> DataParams:
    split = {"val": 0.3, "test": 0.0, "group_pattern": None, "groups": path}
    return parameters(max_bad=0.1, split={**split, "near_duplicates": False})


def test_images_of_one_group_of_a_table_stay_together(folders: Path) -> None:
    names = [f"{'ab'[n % 2]}/{n // 2}.png" for n in range(20)]
    rows = "".join(f"{name},patient {n // 4}\n" for n, name in enumerate(names))
    (folders / "groups.csv").write_text("path,group\n" + rows)
    lists, _, _ = ingest(folders, grouped("groups.csv"))
    side = {
        path.removeprefix("images/"): name
        for name in ("train", "val")
        for path in read_list(lists / f"{name}_list.txt")["path"]
    }
    for first in range(0, 20, 4):
        assert len({side[name] for name in names[first : first + 4]}) == 1
    assert set(side.values()) == {"train", "val"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("file,group\na/1.png,x\n", "has the columns file, group; path .* and group are needed"),
        ("path,group\na/1.png,x\na/1.png,y\n", "names 'a/1.png' twice"),
        ("path,group\nimages/a/1.png,x\n", "names none of the images, such as 'a/0.png'"),
        ("", "cannot be read"),
    ],
)
def test_a_table_of_groups_that_does_not_fit_is_refused(
    folders: Path, content: str, said: str
) -> None:
    (folders / "groups.csv").write_text(content)
    with pytest.raises(DataError, match=f"data.split.groups: .*{said}"):
        ingest(folders, grouped("groups.csv"))


def write_list_layout(root: Path, splits: dict[str, int] | None = None) -> None:
    for split, seed in (splits or {"train": 0, "val": 500}).items():
        lines = []
        for number in range(8):
            picture(root / split / f"{number}.png", seed + number)
            lines.append(f"{split}/{number}.png {number % 2}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))


def test_a_test_list_beside_the_others_is_the_final_test(tmp_path: Path) -> None:
    write_list_layout(tmp_path / "images", {"train": 0, "val": 500, "test": 900})
    lists, summary, _ = ingest(tmp_path, parameters(layout="imagenet"))
    test = read_list(lists / "test_list.txt")
    assert list(test["path"]) == [f"images/test/{number}.png" for number in range(8)]
    assert list(test["label"]) == [0, 1] * 4 and summary["n_used"] == 24
    shutil.copyfile(tmp_path / "images/val/1.png", tmp_path / "images/test/2.png")
    with pytest.raises(DataError, match="images/val/1.png of val as images/test/2.png of test"):
        ingest(tmp_path, parameters(layout="imagenet"))


def test_repeated_lines_are_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    write_list_layout(tmp_path / "images")
    with (tmp_path / "images" / "train_list.txt").open("a") as file:
        file.write("train/3.png 1\ntrain/3.png 1\n")
    with pytest.raises(DataError, match="train_list.txt:9: .*listed already in line 4.*duplicates"):
        ingest(tmp_path, parameters(layout="imagenet"))
    lists, summary, _ = ingest(tmp_path, parameters(layout="imagenet", duplicates="drop"))
    assert (summary["n_listed"], summary["n_used"], summary["n_refused"]) == (18, 16, 2)
    assert pd.read_csv(lists / "quarantine.csv")["line"].tolist() == [9, 10]


def test_an_image_listed_for_train_and_val_stops_ingestion(tmp_path: Path) -> None:
    write_list_layout(tmp_path / "images")
    with (tmp_path / "images" / "val_list.txt").open("a") as file:
        file.write("train/3.png 1\n")
    with pytest.raises(DataError, match="'images/train/3.png' is listed in train and in val"):
        ingest(tmp_path, parameters(layout="imagenet"))
    assert not (tmp_path / "data/02_intermediate/mine/train_list.txt").exists()


def spoil_cut(root: Path) -> None:
    path = root / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_label(root: Path) -> None:
    path = root / "train_list.txt"
    path.write_text(path.read_text().replace("train/3.png 1", "train/3.png 7"))
    (root / "class_map.txt").write_text("0 a\n1 b\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "train/2.png").unlink(), r"train_list\.txt:3: 1 of 8 files cannot"),
        (lambda root: (root / "train_list.txt").write_text(""), r"train_list\.txt: 0 samples"),
        (spoil_label, r"train_list\.txt:4: label 7 is outside the 2 classes 0-1"),
        (spoil_cut, r"1 of 8 images cannot be used, 0 may.*images/train/1\.png.*raise data\.max_b"),
        (lambda root: (shutil.rmtree(root / "val"), (root / "val_list.txt").unlink()),
         r"data\.root: .*neither val_list\.txt nor a folder val/"),
    ],
    ids=["a missing image", "an empty list", "a label outside", "an unreadable image", "no val"],
)  # fmt: skip
def test_a_bad_list_stops_ingestion_and_leaves_no_lists(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    write_list_layout(tmp_path / "images")
    spoil(tmp_path / "images")
    with pytest.raises(DataError, match=said):
        ingest(tmp_path, parameters(layout="imagenet"))
    made = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    known = (".hashes", "review.csv")
    assert [path.name for path in made if not any(part in path.name for part in known)] == []


def test_an_unreadable_image_within_max_bad_is_left_out_and_counted(tmp_path: Path) -> None:
    write_list_layout(tmp_path / "images")
    spoil_cut(tmp_path / "images")
    lists, summary, _ = ingest(tmp_path, parameters(layout="imagenet", max_bad=0.2))
    assert len(read_list(lists / "train_list.txt")) == 7
    assert (summary["n_listed"], summary["n_quarantined"]) == (16, 1)
    report = tmp_path / "data/08_reporting/mine/quarantine/ingestion.csv"
    assert "images/train/1.png" in report.read_text()


@pytest.mark.parametrize("listed", [False, True])
def test_a_limit_that_is_lowered_refuses_lists_that_were_made_under_a_higher_one(
    folders: Path, listed: bool
) -> None:
    if listed:
        images = folders / "images"
        for name, first in (("train", 0), ("val", 5)):
            lines = [f"{kind}/{n}.png {at}\n" for at, kind in enumerate("ab")
                     for n in range(first, first + 5)]  # fmt: skip
            (images / f"{name}_list.txt").write_text("".join(lines))
        with (images / "val_list.txt").open("a") as file:
            file.write("b/broken.png 1\n")
        (images / "class_map.txt").write_text("0 a\n1 b\n")
    how: dict[str, Any] = {"layout": "imagenet" if listed else "folders", "leaks": "report"}
    run, n = run_of(identity(folders)), 11 if listed else 22
    data = parameters(max_bad=0.2, **how)
    raw = provide_raw(run, data)
    lists = make_lists(run, data, raw)
    before = {path: path.stat().st_mtime_ns for path in lists.iterdir()}
    with pytest.raises(DataError, match=rf"1 of {n} images cannot be used, 0 may .max_bad 0.01"):
        make_lists(run, parameters(max_bad=0.01, **how), raw)
    make_lists(run, parameters(max_bad=0.1, **how), raw)
    assert {path: path.stat().st_mtime_ns for path in lists.iterdir()} == before


def test_lists_need_no_split_of_their_own(tmp_path: Path) -> None:
    write_list_layout(tmp_path / "images")
    split = {"val": 0.2, "test": 0.2, "group_pattern": None, "groups": None}
    split["near_duplicates"] = True
    lists, _, _ = ingest(tmp_path, parameters(layout="imagenet", split=split))
    assert not (lists / "test_list.txt").exists()


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Sixty images of three classes, each in none, one or two of them; one is broken."""
    lines = []
    for number in range(60):
        picture(tmp_path / "images" / f"{number}.png", number)
        lines.append(f"{number}.png\t{number % 2},{int(number % 3 == 0)},{int(number % 20 == 0)}\n")
    (tmp_path / "images" / "7.png").write_bytes(b"no image")
    (tmp_path / "images" / "train_list.txt").write_text("".join(lines))
    (tmp_path / "images" / "class_map.txt").write_text("0 odd\n1 third\n2 rare\n")
    return tmp_path


def test_one_list_of_several_labels_is_split_and_reported(
    several: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = parameters(layout="multi_label", max_bad=0.1, min_per_class=4)
    lists, summary, page = ingest(several, data)
    counts = {key: summary[key] for key in ("n_listed", "n_used", "n_quarantined", "n_refused")}
    assert counts == {"n_listed": 60, "n_used": 59, "n_quarantined": 1, "n_refused": 0}
    known = Lists(lists)
    assert known.multi_label and known.classes == ["odd", "third", "rare"]
    found = {name: read_list(lists / f"{name}_list.txt", multi_label=True) for name in SIDES}
    assert [len(found[name]) for name in SIDES] == [47, 12]
    assert label_matrix(found["val"]).sum(axis=0).tolist() == [6, 4, 1]
    assert "1 of 3 classes have fewer than 4 images" in caplog.text and "'rare'" in caplog.text
    assert summary["sets"]["train"]["labels_per_image"]["images"][0][0] == 0
    assert "labels per image" in page.read_text("utf-8")


def test_lists_of_several_labels_of_their_own_are_taken_as_they_are(several: Path) -> None:
    folder = several / "images"
    lines = (folder / "train_list.txt").read_text().splitlines(keepends=True)
    del lines[7]
    (folder / "train_list.txt").write_text("".join(lines[:40]))
    (folder / "val_list.txt").write_text("".join(lines[40:50]))
    (folder / "test_list.txt").write_text("".join(lines[50:]))
    lists, _, _ = ingest(several, parameters(layout="multi_label"))
    assert [len(Lists(lists).frame(name)) for name in (*SIDES, "test")] == [40, 10, 9]
    (folder / "val_list.txt").write_text("50.png\t1,0\n")
    with pytest.raises(DataError, match=r"data.root: .*val_list.txt:1: 2 labels where 3"):
        ingest(several, parameters(layout="multi_label"))


def test_layouts_of_one_label_and_of_several_do_not_mix(several: Path) -> None:
    with pytest.raises(DataError, match="data.layout: multi_label"):
        ingest(several, parameters(layout="imagenet"))
    with pytest.raises(ParameterError, match=r"test_list.txt in data.root"):
        ingest(several, parameters(layout="multi_label", max_bad=0.1, test="images"))


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    """Two classes of six and a pool of three; every third image is transparent in its left half."""
    from PIL import Image

    for place, count in (("images/a", 6), ("images/b", 6), ("unlabelled", 3)):
        for number in range(count):
            path = tmp_path / place / f"{number}.png"
            picture(path, len(place) * 100 + number)
            if number % 3 == 0:
                image = Image.open(path).convert("RGBA")
                image.paste((255, 0, 255, 0), (0, 0, SIDE // 2, SIDE))
                image.save(path)
    return tmp_path


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        ("drop", "5 of 15 images have transparent pixels; data.alpha = drop: the networks see"),
        (
            "white",
            "5 of 15 images have transparent pixels; data.alpha = white: they are composited on",
        ),
        ([9, 8, 7], "5 of 15 images have transparent pixels; data.alpha = [9, 8, 7]: they are"),
    ],
)
def test_transparent_images_are_counted_and_their_treatment_is_said(
    icons: Path, alpha: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = parameters(alpha=alpha, pool=["unlabelled"], leaks="report")
    lists, summary, page = ingest(icons, given)
    assert summary["transparency"] == {"images": 15, "transparent": 5, "alpha": alpha}
    text = page.read_text("utf-8")
    assert said in text
    lines = [record for record in caplog.records if "transparent pixels" in record.getMessage()]
    warned = [record.getMessage() for record in lines if record.levelname == "WARNING"]
    assert len(lines) - len(warned) == 1 and len(warned) == (alpha == "drop")
    assert all("set data.alpha: white" in line and "conf/mine" in line for line in warned)
    expected = {"drop": None, "white": (255, 255, 255)}.get(str(alpha), (9, 8, 7))
    for name in Lists(lists).sets:
        assert decoding_in(Lists(lists).index(name)).background == expected


def test_lists_are_made_again_for_another_background_and_stand_when_there_is_none(
    icons: Path,
) -> None:
    def manifest() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((lists / "manifest.json").read_text("utf-8"))
        return found

    lists, _, _ = ingest(icons, parameters(pool=["unlabelled"], leaks="report"))
    dropped = manifest()
    # As it was before one could choose.
    assert "alpha" not in dropped["params"] and "transparency.json" not in dropped["outputs"]
    sources = Lists(lists).pool_sources()
    ingest(icons, parameters(pool=["unlabelled"], leaks="report", alpha="white"))
    white = manifest()
    assert white["params"] == dropped["params"] | {"alpha": "white"}
    assert white["fingerprint"] != dropped["fingerprint"]
    after, before = white["outputs"], dropped["outputs"]
    changed = {name for name in after if after[name] != before[name]}
    assert {"index_train.parquet", "index_val.parquet", "index_pool.parquet"} <= changed
    assert Lists(lists).pool_sources() != sources, "its scores are made again"
    ingest(icons, parameters(pool=["unlabelled"], leaks="report"))
    assert manifest() == dropped


def test_images_without_transparency_leave_no_word_of_it(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    lists, summary, page = ingest(folders, parameters(max_bad=0.1, leaks="report"))
    assert "transparency" not in summary and "transparent pixels" not in page.read_text("utf-8")
    assert not (lists / "transparency.json").exists()
    assert "0 of 21 images have transparent pixels; data.alpha = drop" in caplog.text


def test_a_pool_that_an_older_version_scanned_is_not_counted(icons: Path) -> None:
    given = parameters(pool=["unlabelled"], leaks="report")
    ingest(icons, given)
    (old,) = (icons / "data" / "03_primary" / "mine" / "pool").glob("*/ignored.json")
    counts = json.loads(old.read_text("utf-8"))
    assert (counts["examined"], counts["transparent"]) == (3, 1)
    scan = read_pool(identity(icons), given, icons / "data" / "01_raw" / "mine")
    assert [one.examined for one in scan.values()] == [3]
    old.write_text(json.dumps({"files": counts["files"]}))
    (before,) = read_pool(identity(icons), given, icons / "data" / "01_raw" / "mine").values()
    assert (before.examined, before.transparent) == (None, 0)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Two classes of six grey images of 12 bits in 16, a pool of two of 11 bits, a black image."""
    import numpy as np
    from PIL import Image

    for seed, (place, count) in enumerate((("images/a", 6), ("images/b", 6), ("unlabelled", 2))):
        (tmp_path / place).mkdir(parents=True)
        for number in range(count):
            levels = np.random.default_rng(100 * seed + number).integers(0, 2000, (40, 40))
            levels[0, 0] = 4095 if (seed, number) == (0, 3) else 1999
            Image.fromarray(levels.astype(np.uint16)).save(tmp_path / place / f"{number}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "b" / "black.png")
    return tmp_path


@pytest.mark.parametrize(
    ("depth", "found", "said"),
    [
        ("auto", 12, "data.depth = auto is the upper 8 of 12 bits"),
        (16, 16, "are 16 of the 256 that networks see: data.depth: [0, 4095]"),
        ([0, 2047], (0, 2047), "levels beyond 0 to 2,047 become 0 or 255"),
    ],
)
def test_one_depth_is_found_for_all_images_and_said(
    deep: Path, depth: Any, found: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = parameters(depth=depth, pool=["unlabelled"], leaks="report")
    lists, summary, page = ingest(deep, given)
    assert said in caplog.text
    assert summary["levels"] == {
        "deep": 14, "lowest": 0, "highest": 4095, "flat": 1, "black": 1,
        "depth": found if isinstance(found, int) else list(found),
    }  # fmt: skip
    text = page.read_text("utf-8")
    assert "14 images have 16 bits a channel, with levels from 0 to 4,095" in text
    assert "1 images have one colour all over, 1 of them are black" in text
    for name in Lists(lists).sets:
        assert decoding_in(Lists(lists).index(name)).depth == found
    manifest = json.loads((lists / "manifest.json").read_text("utf-8"))
    assert ("depth" in manifest["params"]) == (depth != "auto"), "older lists stand"


def test_images_of_8_bits_leave_no_word_of_depth(folders: Path) -> None:
    lists, summary, _ = ingest(folders, parameters(max_bad=0.1, leaks="report"))
    assert "levels" not in summary and not (lists / "levels.json").exists()
    assert "background" not in Lists(lists).frame("train")


def test_the_page_says_what_a_square_view_shows(folders: Path) -> None:
    _, summary, page = ingest(folders, parameters(max_bad=0.1, leaks="report"))
    aspect = summary["sets"]["train"]["aspect"]
    assert 0 < aspect["square_share"] <= 1 and aspect["n_below_half"] == 0
    assert "images shown less than half" in page.read_text("utf-8")


def test_a_pool_twice_as_bright_as_the_labelled_images_is_said_on_the_page(folders: Path) -> None:
    for number in range(24):
        picture(folders / "web" / f"{number}.png", 5000 + number)
    for path in (folders / "images").rglob("[0-9]*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    data = parameters(pool=["web"], max_bad=0.1)
    lists, summary, page = ingest(folders, data)
    differs = {m["name"]: m["differs"] for m in summary["likeness"]["measures"]}
    assert differs["brightness"] == "higher" and differs["short side"] is None
    assert summary["likeness"]["grey"]["pool"] == [0, 24]
    said = "The images of the pool are brighter than the labelled ones, in 9"
    text = page.read_text("utf-8")
    assert said in text
    assert f"The short side of every image of train, val and pool is {SIDE} pixels." in text
    # Lists and scans that an older version made know no tones: the page says what counts them.
    (lists / "tones.json").unlink()
    run = run_of(identity(folders), redo=["all"])
    older = report_lists(run, folders / "data/01_raw/mine", lists)[2].read_text("utf-8")
    assert said not in older and "redo=ingestion" in older
