"""The embedded sample, the summary of data sets, contact sheets and the ledger."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hgnetv2_pipeline.data.classmap import read_class_map
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.report import contact_sheet, summarise_sets
from hgnetv2_pipeline.data.sample import CLASSES, is_outdated, tree_sha256, write_sample
from hgnetv2_pipeline.data.sample import _load as load_sample
from hgnetv2_pipeline.data.sample_rng import epoch_order
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.data.scan.imagenet import scan_imagenet
from hgnetv2_pipeline.errors import DataError, ParameterError

PINNED_LABELLED = "020d521c604e546b"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "sample"
    write_sample(root)
    return root


@pytest.fixture(scope="module")
def scans(sample):
    train = scan_imagenet(sample, "train")
    return {
        "train": train,
        "val": scan_imagenet(sample, "val", classes=train.classes),
        "test": scan_imagenet(sample, "test", classes=train.classes),
        "pool": scan_unlabelled(sample / "pool"),
    }


def test_the_sample_has_the_stated_counts(sample, scans):
    assert read_class_map(sample / "class_map.txt") == list(CLASSES) == scans["train"].classes
    train = read_list(sample / "train_list.txt", sample, 10, every_class=True)
    val = read_list(sample / "val_list.txt", sample, 10, every_class=True)
    assert train["label"].value_counts().to_dict() == dict.fromkeys(range(10), 4)
    assert val["label"].value_counts().to_dict() == dict.fromkeys(range(10), 50)
    test = read_list(sample / "test_list.txt", sample, 10, every_class=True)
    assert test["label"].value_counts().to_dict() == dict.fromkeys(range(10), 40)
    for path, label in train.itertuples(index=False):
        assert path.startswith(f"train/{CLASSES[label]}/")
    truth = pd.read_csv(sample / "pool_truth.csv", dtype=str)
    assert len(truth) == 857 + 400 + 60 == len(scans["pool"].samples)
    assert (truth["truth"] == "distractor").sum() == 400
    assert sorted(truth["key"]) == sorted("pool/" + scans["pool"].samples["key"])
    for scan in scans.values():
        assert (scan.samples["width"] == 32).all() and (scan.samples["height"] == 32).all()
        assert len(scan.quarantined) == 0


def test_the_same_seed_gives_the_same_bytes(sample, tmp_path):
    write_sample(tmp_path / "again")
    assert tree_sha256(tmp_path / "again") == tree_sha256(sample)
    write_sample(tmp_path / "other", seed=1)
    assert tree_sha256(tmp_path / "other") != tree_sha256(sample)


def test_the_labelled_files_are_the_same_on_every_machine(sample):
    digest = hashlib.sha256()
    for folder in ("train", "val", "test"):
        for file in sorted((sample / folder).rglob("*.png")):
            digest.update(file.read_bytes())
    for name in (
        "train_list.txt",
        "val_list.txt",
        "test_list.txt",
        "planted.csv",
        "pool_truth.csv",
    ):
        digest.update((sample / name).read_bytes())
    assert digest.hexdigest()[:16] == PINNED_LABELLED


def test_planted_images_are_what_they_claim(sample):
    planted = pd.read_csv(sample / "planted.csv")
    assert planted["kind"].value_counts().to_dict() == {"exact": 20, "jpeg75": 20, "mirror": 20}
    assert planted["val_key"].is_unique
    for pool_key, val_key, kind in planted.itertuples(index=False):
        pool, val = sample / pool_key, sample / val_key
        pixels, original = np.asarray(Image.open(pool)), np.asarray(Image.open(val))
        if kind == "exact":
            assert pool.read_bytes() == val.read_bytes()
        elif kind == "mirror":
            assert np.array_equal(pixels, original[:, ::-1]) and pool.suffix == ".png"
        else:
            assert Image.open(pool).format == "JPEG" and pool.suffix == ".jpg"
            assert 0 < np.abs(pixels.astype(int) - original).mean() < 12


def test_no_digit_is_in_two_sets(scans):
    report = summarise_sets({name: scan.samples for name, scan in scans.items()}, CLASSES)
    shared = {(row["first"], row["second"]): row["n_images"] for row in report["shared"]}
    assert shared == {
        ("train", "val"): 0, ("train", "test"): 0, ("train", "pool"): 0, ("val", "test"): 0,
        ("val", "pool"): 20, ("test", "pool"): 0,
    }  # fmt: skip
    pool = report["sets"]["pool"]
    assert pool["formats"] == {"JPEG": 20, "PNG": 1297} and pool["n_labelled"] == 0
    assert report["sets"]["val"]["imbalance"] == 1.0
    assert report["sets"]["train"]["class_counts"][3] == {"label": 3, "name": "three", "n": 4}
    assert report["conflicting_labels"] == []


def test_an_intact_sample_is_kept_and_a_damaged_one_is_written_again(sample, tmp_path, monkeypatch):
    root = shutil.copytree(sample, tmp_path / "s")
    before = (root / "sample.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)
        write_sample(root)
    assert (root / "sample.json").stat().st_mtime_ns == before
    (root / "val" / "val_00000001.png").write_bytes(b"damaged")
    write_sample(root)
    assert tree_sha256(root) == tree_sha256(sample)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_no_test_image_was_labelled_before_there_was_a_test_set(sample):
    """Until edition 2 the first 4 and the next 70 of each class were train and val."""
    digits, labels, _ = load_sample()
    order = epoch_order(len(labels), 0, 0)
    before = {
        digits[row].tobytes() for label in range(10) for row in order[labels[order] == label][:74]
    }
    now = {np.asarray(Image.open(file)).tobytes() for file in (sample / "test").iterdir()}
    assert len(now) == 400 and not now & before


def test_a_sample_of_an_earlier_edition_is_written_again(sample, tmp_path):
    root = shutil.copytree(sample, tmp_path / "s")
    assert not is_outdated(root) and not is_outdated(tmp_path)
    marker = json.loads((root / "sample.json").read_text())
    del marker["edition"]
    (root / "sample.json").write_text(json.dumps(marker))
    assert is_outdated(root)
    write_sample(root)
    assert json.loads((root / "sample.json").read_text())["edition"] == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="other files"):
        write_sample(tmp_path)
    with pytest.raises(DataError, match="in the way"):
        write_sample(tmp_path / "holiday.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_summary_counts_copies_and_conflicts(scans):
    val = scans["val"].samples
    other = val.head(6).copy()
    other["key"] = "copy/" + other["key"]
    other["label"] = (other["label"] + 1) % 10
    quarantined = pd.DataFrame({"key": ["x"], "reason": ["empty"], "line": [pd.NA]})
    report = summarise_sets({"a": val, "b": other}, None, {"a": quarantined})
    assert report["shared"][0]["n_images"] == 6 and len(report["conflicting_labels"]) == 12
    assert report["sets"]["a"]["n_quarantined"] == 1
    assert report["sets"]["a"]["unreadable"] == [{"key": "x", "reason": "empty"}]
    both = pd.concat([val, other], ignore_index=True)
    copies = summarise_sets({"all": both}, None)["sets"]["all"]["exact_copies"]
    assert copies["n_images"] == 6


def test_a_contact_sheet_shows_every_image(sample, scans):
    frame = scans["pool"].samples.head(7).copy()
    sheet = contact_sheet(frame, sample / "pool", columns=3, cell=64, captions=["a caption"] * 7)
    assert sheet.size == (3 * 66 + 2, 3 * 80 + 2)
    first = np.asarray(
        Image.open(sample / "pool" / frame["path"][0]).resize((64, 64), Image.NEAREST)
    )
    assert np.array_equal(np.asarray(sheet)[2:66, 2:66, 0], first)
    frame.loc[1, "path"] = "gone.png"
    crossed = np.asarray(contact_sheet(frame, sample / "pool", columns=3, cell=64))
    assert (crossed[2 + 10, 68 + 10] == (178, 34, 34)).all()
    for captions in (["one"], None):
        with pytest.raises(DataError, match="one each is needed"):
            contact_sheet(frame if captions else frame.iloc[:0], sample, captions=captions)


def test_the_ledger_always_adds_up(tmp_path):
    ledger = Ledger(10, 0.2)
    ledger.quarantine("b", "empty", 3)
    ledger.quarantine("b", "again")
    ledger.refuse("a", "a copy\nof b")
    ledger.refuse("b", "counted already")
    ledger.quarantine("a", "counted already")
    assert ledger.summary() == {"n_listed": 10, "n_used": 8, "n_quarantined": 1, "n_refused": 1}
    assert "a" in ledger and "c" not in ledger
    ledger.quarantine("c", "cut")
    ledger.check()
    ledger.quarantine("d", "cut")
    with pytest.raises(DataError, match=r"3 of 10 images cannot be used, 2 may.*b: empty; c: cut"):
        ledger.check()
    written = ledger.write(tmp_path / "quarantine.csv").read_text()
    assert written == "key,reason,line\na,a copy\\nof b,\nb,empty,3\nc,cut,\nd,cut,\n"
    assert Ledger(3000, 0.001).allowed == 3 and Ledger(5, 0).allowed == 0
    with pytest.raises(ParameterError, match="0 to 1"):
        Ledger(5, 2)
    short = Ledger(1, 1)
    short.quarantine("x", "r")
    short.quarantine("y", "r")
    with pytest.raises(DataError, match="only 1 listed"):
        short.summary()
