"""Lists of several labels per image: read, refused, written; the same rules for paths as ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline.data.index import read_index, samples_frame, write_index
from hgnetv2_pipeline.data.leaks import clean_sets, find_leaks
from hgnetv2_pipeline.data.lists.multi_label import (
    images_per_class,
    label_column,
    label_matrix,
    label_text,
    write_multi_label_list,
)
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.lists.syntax import why_unlistable
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.data.report import summarise_sets
from hgnetv2_pipeline.data.split import conflicting_copies, split_samples
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.input.loader import eval_batches
from multi_label_pictures import scan_multi_label


def test_labels_become_a_matrix_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbfmy cat.jpg\t0,1,0\r\n\r\n# note\r\n./#x.jpg\t1,1,0\r\nc.jpg\t0,1,0"
    )
    frame = read_list(path, num_classes=3, multi_label=True)
    assert list(frame["path"]) == ["my cat.jpg", "#x.jpg", "c.jpg"]
    assert label_matrix(frame).tolist() == [[0, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert label_matrix(frame).dtype == np.uint8
    assert label_matrix(frame.iloc[[2, 1]]).tolist() == [[0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a.jpg\t0,1\nb.jpg\t1\n", ":2: 1 labels where 2 are expected"),
        (b"a.jpg 1\n", ":1: no tab in 'a.jpg 1'; write"),
        (b"a.jpg\t0,2\n", ":1: labels '0,2'"),
        (b"a.jpg\t\n", ":1: labels ''"),
        (b"a.jpg\t0,1,\n", ":1: labels '0,1,'"),
        (b"a.jpg\t1 ,0\n", ":1: labels '1 ,0'"),
        (b"a.jpg\t0;1\n", ":1: labels '0;1'"),
        (b"a.jpg \t0,1\n", ":1: a space around the path"),
        (b"a\tb.jpg\t0,1\n", ":1: control character 0x09"),
        (b"../a.jpg\t0,1\n", ":1: .*leads out of the root"),
        (b"/a.jpg\t0,1\n", ":1: absolute path"),
        (b"a.jpg\t0,1\ncaf\xe9\t0,1\n", ":2: byte 0xe9 is not UTF-8 at byte 13"),
        (b"a.jpg\t0,1\n\0\t0,1\n", ":2: a NUL byte at byte 10"),
        ("a.jpg\t0,1\n".encode("utf-16"), ":1: UTF-16"),
        (b"a.jpg\t0,1\na.jpg\t0,1\n", ":2: 'a.jpg' is listed already in line 1"),
        (b"a.jpg\t0,1\na.jpg\t1,1\n", ":2: 'a.jpg' has label 1,1 here and 0,1 in line 1"),
        (b"# nothing\n", "0 samples"),
        (b"a.jpg\t" + b"0," * 1_000_000 + b"1\n", ":1: the line is longer than"),
    ],
)
def test_a_bad_line_is_refused_with_place_and_remedy(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"list\.txt.*{said}"):
        read_list(path, multi_label=True)


def test_files_classes_and_duplicates_are_checked_as_in_other_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    (tmp_path / "a.jpg").write_bytes(b"x")
    path.write_text("a.jpg\t0,1\nb.jpg\t0,1\nb.jpg\t0,1\n")
    assert len(read_list(path, multi_label=True, duplicates="drop")) == 2
    with pytest.raises(DataError, match="list.txt:2: 1 of 2 files cannot be used.*missing"):
        read_list(path, tmp_path, multi_label=True, duplicates="drop")
    with pytest.raises(DataError, match="1 of 2 classes have no image, class 0"):
        read_list(path, multi_label=True, duplicates="drop", every_class=True)
    with pytest.raises(DataError, match=":1: 2 labels where 5 are expected"):
        read_list(path, num_classes=5, multi_label=True)
    with pytest.raises(ParameterError, match="has labels or has none"):
        read_list(path, multi_label=True, labelled=False)
    with pytest.raises(DataError, match="the list is missing"):
        read_list(tmp_path / "no.txt", multi_label=True)


NAME = st.text("abé日 #.-/", min_size=1, max_size=9)


@settings(max_examples=60)
@given(st.lists(NAME, min_size=1, max_size=6, unique=True), st.integers(1, 5), st.integers(0, 9))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], classes: int, seed: int
) -> None:
    names = [name for name in names if why_unlistable(name) is None]
    if not names:
        return
    labels = np.random.default_rng(seed).integers(0, 2, (len(names), classes), np.uint8)
    path = write_multi_label_list(tmp_path_factory.getbasetemp() / "multi.txt", names, labels)
    frame = read_list(path, multi_label=True)
    assert list(frame["path"]) == names and np.array_equal(label_matrix(frame), labels)


def test_what_is_no_matrix_of_labels_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for labels in (np.zeros((2, 3)), np.full((1, 3), 2), np.zeros(3)):
        with pytest.raises(DataError, match="a matrix of 0 and 1"):
            write_multi_label_list(path, ["a.jpg"], labels)
    with pytest.raises(DataError, match="cannot be in a list"):
        write_multi_label_list(path, ["../a.jpg"], np.zeros((1, 3), np.uint8))
    assert not path.exists()


def frame_of(labels: np.ndarray, digests: list[str] | None = None) -> pd.DataFrame:
    keys = [f"{n:05d}.png" for n in range(len(labels))]
    digests = digests or [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    rows = zip(keys, digests, strict=True)
    frame = samples_frame((k, k, -1, 9, pd.NA, 4, 4, "PNG", d) for k, d in rows)
    return frame.assign(labels=label_column(labels.astype(np.uint8)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven images, a list of six in order backwards, and names of three classes."""
    for n in range(7):
        Image.fromarray(np.full((40, 40, 3), 30 * n, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [(5, "1,0,0"), (4, "0,1,0"), (3, "1,1,0"), (2, "0,0,0"), (1, "1,0,1"), (0, "1,0,0")]
    (tmp_path / "train_list.txt").write_text("".join(f"{n}.png\t{text}\n" for n, text in rows))
    (tmp_path / "class_map.txt").write_text("0 red\n1 green\n2 blue\n")
    return tmp_path


def test_labels_travel_from_the_list_through_the_index_into_batches(pictures: Path) -> None:
    scan = scan_multi_label(pictures, "train")
    assert scan.classes == ["red", "green", "blue"]
    write_index(pictures / "index.parquet", scan.samples)
    read = read_index(pictures / "index.parquet")
    pd.testing.assert_frame_equal(read, scan.samples)
    assert read["label"].isna().all()
    assert label_text(read).tolist() == ["0", "0,2", "", "0,1", "1", "0"]
    assert images_per_class(read, 3).tolist() == [4, 2, 1]
    batches = list(
        eval_batches(
            read, pictures, preprocess=Preprocess(32, 32), batch_size=4, workers=0,
            ledger=Ledger(6, 0.0),
        )
    )  # fmt: skip
    assert np.concatenate([b.labels.numpy() for b in batches]).tolist() == (
        label_matrix(read).tolist()
    )
    again = write_index(pictures / "again.parquet", read)
    assert again.read_bytes() == (pictures / "index.parquet").read_bytes()


@pytest.mark.parametrize(
    ("content", "named", "said"),
    [
        ("0.png\t0,1\n1.png 1\n", True, "train_list.txt:1: 2 labels where 3"),
        ("0.png\t0,1,0\n1.png 1\n", True, "train_list.txt:2: no tab in '1.png 1'"),
        ("0.png\t0,1,0\n1.png\t0,1\n", False, "train_list.txt:2: 2 labels where 3"),
        ("0.png\t0,1,0\n9.png\t0,1,1\n", False, "train_list.txt:2: 1 of 2 files cannot"),
    ],
)
def test_mixed_lists_and_wrong_widths_name_their_line(
    pictures: Path, content: str, named: bool, said: str
) -> None:
    (pictures / "train_list.txt").write_text(content)
    if not named:
        (pictures / "class_map.txt").unlink()
    with pytest.raises(DataError, match=said):
        scan_multi_label(pictures, "train")


def test_unreadable_images_of_a_list_are_quarantined_with_their_line(pictures: Path) -> None:
    (pictures / "3.png").write_bytes(b"no image")
    (pictures / "class_map.txt").unlink()
    scan = scan_multi_label(pictures, "train")
    assert scan.classes == ["0", "1", "2"]
    assert scan.quarantined[["key", "line"]].values.tolist() == [["3.png", 3]]
    assert label_text(scan.samples).tolist() == ["0", "0,2", "", "1", "0"]


def test_the_summary_counts_images_of_each_class_and_labels_of_each_image(pictures: Path) -> None:
    pool = samples_frame([("p.png", "p.png", -1, 9, pd.NA, 4, 4, "PNG", "f" * 64)])
    found = summarise_sets(
        {"train": scan_multi_label(pictures, "train").samples, "pool": pool}, ["r", "g", "b"]
    )
    train = found["sets"]["train"]
    assert [row["n"] for row in train["class_counts"]] == [4, 2, 1]
    assert train["labels_per_image"] == {"mean": 7 / 6, "images": [[0, 1], [1, 3], [2, 2]]}
    assert train["n_labelled"] == 6 and found["sets"]["pool"]["n_labelled"] == 0
    assert "labels_per_image" not in found["sets"]["pool"]


def test_copies_under_other_labels_are_found_and_left_out() -> None:
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 1], [1, 0]])
    samples = frame_of(labels, ["a" * 64, "a" * 64, "b" * 64, "b" * 64, "c" * 64])
    assert conflicting_copies(samples)["label"].tolist() == ["0", "1", "0,1", "1"]
    sets = {"train": samples, "val": samples.iloc[:0]}
    with pytest.raises(DataError, match="class 'two' has no image in train"):
        clean_sets(sets, find_leaks(sets, None), ["one", "two"])


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000), classes=st.integers(1, 12), val=st.floats(0.05, 0.4),
    test=st.sampled_from([0.0, 0.15]),
)  # fmt: skip
def test_a_split_of_several_labels_meets_the_shares_of_every_class(
    seed: int, classes: int, val: float, test: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random((300, classes)) < rng.uniform(0.02, 0.5, classes)
    samples = frame_of(labels)
    parts = split_samples(samples, val=val, test=test, seed=seed)
    shuffled = samples.sample(frac=1, random_state=seed)
    again = split_samples(shuffled, val=val, test=test, seed=seed)
    sides = {name: part["key"].tolist() for name, part in parts.items()}
    assert sides == {name: part["key"].tolist() for name, part in again.items()}
    assert sorted(sum(sides.values(), [])) == samples["key"].tolist()
    whole = images_per_class(samples, classes)
    for name, share in (("val", val), ("test", test)):
        got = images_per_class(parts[name], classes)
        # A class may exceed its share by what the rarer classes of its images had to bring.
        assert (np.abs(got - whole * share) <= 2 + 0.04 * whole).all(), (name, got, whole * share)
        assert (got[whole >= 3] > 0).all() or share == 0
        assert abs(len(parts[name]) - 300 * share) <= 15


def test_groups_and_copies_stay_together_in_a_split_of_several_labels() -> None:
    rng = np.random.default_rng(1)
    samples = frame_of(rng.random((120, 5)) < 0.2)
    groups = pd.Series([f"g{n // 4}" for n in range(120)], samples["key"])
    parts = split_samples(samples, val=0.25, test=0.0, seed=3, groups=groups)
    train, val = ({groups[key] for key in parts[name]["key"]} for name in ("train", "val"))
    assert not train & val and len(val) in range(6, 10)


def test_a_split_balances_better_than_chance() -> None:
    """The worst class's distance from its share, against random splits of the same size."""
    rng = np.random.default_rng(5)
    labels = rng.random((1000, 30)) < rng.uniform(0.01, 0.2, 30)
    samples = frame_of(labels)
    val = split_samples(samples, val=0.1, test=0.0, seed=0)["val"]
    wanted = labels.sum(axis=0) * 0.1

    def worst(chosen: np.ndarray) -> float:
        return float(np.abs(chosen.sum(axis=0) / wanted - 1).max())

    chance = [worst(labels[rng.permutation(1000)[: len(val)]]) for _ in range(20)]
    assert worst(label_matrix(val)) < 0.5 * min(chance)
