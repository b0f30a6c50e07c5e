"""The same picture in two sets: found, cleaned, and lists that agree with what is beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline.data.classmap import write_class_map
from hgnetv2_pipeline.data.index import samples_frame, write_index
from hgnetv2_pipeline.data.leaks import clean_sets, find_leaks
from hgnetv2_pipeline.data.lists.check import check_lists
from hgnetv2_pipeline.data.lists.read import write_list
from hgnetv2_pipeline.errors import DataError


def frame(
    keys: list[str], labels: list[int] | None = None, digests: list[str] | None = None
) -> pd.DataFrame:
    digests = digests or [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    rows = zip(keys, labels or [0] * len(keys), digests, strict=True)
    return samples_frame((key, key, -1, 9, label, 4, 4, "PNG", sha) for key, label, sha in rows)


@settings(max_examples=60)
@given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 8), st.integers(0, 99))
def test_leaks_equal_an_exhaustive_search(n: int, m: int, distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 4, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (n + m, 5), np.uint64)
    codes = base[rng.integers(0, 4, n + m)] ^ np.bitwise_or.reduce(flips, axis=1)
    train, val = [f"t{i:02d}" for i in range(n)], [f"v{i:02d}" for i in range(m)]
    phash = pd.Series(codes, index=[*train, *val])
    sets = {"train": frame(train), "val": frame(val)}
    found = find_leaks(sets, phash, distance)
    apart = np.bitwise_count(codes[:n, None] ^ codes[None, n:])
    near = {train[i]: int(apart[i].min()) for i in range(n) if m and apart[i].min() <= distance}
    assert dict(zip(found["key"], found["distance"], strict=True)) == near
    for row in found.itertuples():
        assert apart[train.index(row.key), val.index(row.other_key)] == row.distance


def test_the_set_that_is_measured_on_keeps_the_picture_and_every_reason_is_told() -> None:
    sets = {
        "train": frame(["a", "b", "c", "d", "e", "f"], [0, 0, 1, 1, 0, 1],
                       ["1", "1", "2", "3", "4", "5"]),
        "val": frame(["g", "h"], [0, 1], ["3", "6"]),
        "test": frame(["i", "j"], [0, 1], ["6", "7"]),
        "pool": frame(["p"], [0], ["1"]),
    }  # fmt: skip
    codes = dict.fromkeys("abcdefghij", 0)
    codes = {key: (2**9 - 1) << (6 * at) for at, key in enumerate(codes)}
    codes["e"] = codes["j"] ^ 0b11
    phash = pd.Series(codes, dtype="uint64")
    leaks = find_leaks(sets, phash)
    told = leaks[["set", "key", "other_set", "other_key", "distance", "same_bytes"]]
    assert told.values.tolist() == [
        ["train", "d", "val", "g", 0, True],
        ["train", "e", "test", "j", 2, False],
        ["val", "h", "test", "i", 0, True],
    ]
    cleaned, refused = clean_sets(sets, leaks, ["x", "y"])
    assert {name: list(part["key"]) for name, part in cleaned.items()} == {
        "train": ["a", "c", "f"], "val": ["g"], "test": ["i", "j"], "pool": ["p"],
    }  # fmt: skip
    assert dict(refused[["key", "reason"]].itertuples(index=False)) == {
        "b": "has the same bytes as a (data.leaks: clean)",
        "d": "has the same bytes as g of val (data.leaks: clean)",
        "e": "looks like j of test (data.leaks: clean)",
        "h": "has the same bytes as i of test (data.leaks: clean)",
    }
    assert sum(map(len, cleaned.values())) + len(refused) == sum(map(len, sets.values()))
    assert len(find_leaks(cleaned, phash)) == 0


def test_copies_under_two_labels_all_go_and_no_class_may_vanish() -> None:
    sets = {"train": frame(["a", "b", "c", "d"], [0, 1, 0, 1], ["1", "1", "2", "3"])}
    cleaned, refused = clean_sets(sets, find_leaks(sets, None), ["cat", "dog"])
    assert list(cleaned["train"]["key"]) == ["c", "d"] and set(refused["key"]) == {"a", "b"}
    sets = {"train": frame(["a", "b", "c"], [0, 1, 0], ["1", "1", "2"])}
    with pytest.raises(
        DataError, match="class 'dog' has no image in train once copies.*leaks: report"
    ):
        clean_sets(sets, find_leaks(sets, None), ["cat", "dog"])


def test_thousands_of_flat_images_with_one_hash_are_one_comparison() -> None:
    train, val = [f"t{i}" for i in range(30_000)], [f"v{i}" for i in range(30_000)]
    phash = pd.Series(np.zeros(60_000, np.uint64), index=[*train, *val])
    assert len(find_leaks({"train": frame(train), "val": frame(val)}, phash)) == 30_000


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """The lists of two sets as ingestion leaves them."""
    write_class_map(tmp_path / "class_map.txt", ["cat", "dog"])
    for name, keys in (("train", ["a.jpg", "b c.jpg"]), ("val", ["d.jpg", "e.jpg"])):
        part = frame(keys, [0, 1])
        write_index(tmp_path / f"index_{name}.parquet", part)
        write_list(tmp_path / f"{name}_list.txt", part)
    return tmp_path


# Row L15 of docs/reliability.md.
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train_list.txt", "a.jpg 0\nb c.jpg 0\n", "train_list.txt: differs from index_train"),
        ("train_list.txt", "a.jpg 0\n", "differs from index_train"),
        ("train_list.txt", "a.jpg 0\nb c.jpg 7\n", ":2: label 7 is outside the 2 classes"),
        ("val_list.txt", "../d.jpg 0\n", ":1: .*leads out of the root"),
        ("class_map.txt", "0 cat\n2 dog\n", "class 1 is missing"),
        ("index_val.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_the_catalog_refuses_lists_that_do_not_agree(
    lists: Path, name: str, content: str, said: str
) -> None:
    from kedro.io import DataCatalog, DatasetError

    entry = {
        "type": "hgnetv2_pipeline.datasets.ResultFolder",
        "filepath": str(lists),
        "validator": "hgnetv2_pipeline.datasets.lists_validator.ListsValidator",
    }
    catalog = DataCatalog.from_config({"ingestion.lists": entry})
    catalog["ingestion.lists"].save(lists)
    catalog.save("ingestion.lists", lists)
    assert catalog.load("ingestion.lists") == lists
    (lists / name).write_text(content)
    (lists / "train_list.txt").touch()
    with pytest.raises(DatasetError, match=said) as told:
        catalog.load("ingestion.lists")
    assert isinstance(told.value.__cause__, DataError)


# Row L15 of docs/reliability.md.
def test_an_image_in_two_lists_is_refused(lists: Path) -> None:
    part = frame(["a.jpg", "d.jpg"], [0, 1])
    write_index(lists / "index_val.parquet", part)
    write_list(lists / "val_list.txt", part)
    with pytest.raises(DataError, match="'a.jpg' is in train_list.txt and in val_list.txt .1 such"):
        check_lists(lists)
