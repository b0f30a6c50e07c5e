"""The mined list against an independent computation with plain pandas."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_pools import CLASSES, random_pool, scores_of

from hgnetv2_pipeline.data.decode import DECODING, Decoding
from hgnetv2_pipeline.data.index import (
    decoding_in,
    read_index,
    samples_frame,
    with_decoding,
    write_index,
)
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.exclusion import read_exclusions
from hgnetv2_pipeline.mining.mined_list import write_merged
from hgnetv2_pipeline.mining.score_shards import read_manifests, record_sources
from hgnetv2_pipeline.mining.selection import default_target, select


def plain_selection(pool: pd.DataFrame, k: int, min_conf: float, gone: set[str]) -> list[str]:
    """Top-k a class the long way: sort everything, walk down, skip repeated bytes."""
    left = pool[~pool["key"].isin(gone) & (pool["score_q"] >= min_conf * 1e6)]
    left = left.assign(label=[ids[0] for ids in left["top_ids"]])
    left = left.sort_values(["label", "score_q", "key"], ascending=[True, False, True])
    lines: list[str] = []
    counts = dict.fromkeys(range(CLASSES), 0)
    seen: set[tuple[int, str]] = set()
    for row in left.itertuples():
        if counts[row.label] == k or (row.label, row.bytes_sha256) in seen:
            continue
        seen.add((row.label, row.bytes_sha256))
        counts[row.label] += 1
        lines.append(f"{row.key} {row.label} {row.score_q} {counts[row.label]}")
    return lines


def as_lines(mined: pd.DataFrame) -> list[str]:
    return [f"{m.key} {m.label} {m.score_q} {m.rank}" for m in mined.itertuples()]


def decisions(keys: list[str], decision: str) -> pd.DataFrame:
    return pd.DataFrame({"key": keys, "decision": decision, "channel": "phash"})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_conf", [0.0, 0.35])
def test_the_list_equals_a_plain_recomputation(tmp_path: Path, seed: int, min_conf: float) -> None:
    pool = random_pool(seed)
    scores = scores_of(tmp_path, pool, 3)
    rng = np.random.default_rng(100 + seed)
    removed = list(rng.choice(pool["key"], 50, replace=False))
    waiting = list(rng.choice(pool["key"], 20, replace=False))
    waiting = [key for key in waiting if key not in removed]
    named = list(rng.choice(pool["key"], 20, replace=False))
    dedup = pd.concat([decisions(removed, "remove"), decisions(waiting, "review")])
    candidates = Candidates(scores, dedup, exclude=named, min_conf=min_conf)
    mined = select(candidates, k=25).frame()
    expected = plain_selection(pool, 25, min_conf, {*removed, *waiting, *named})
    assert as_lines(mined) == expected
    kept = select(replace(candidates, exclude_review=False), k=25).frame()
    assert as_lines(kept) == plain_selection(pool, 25, min_conf, {*removed, *named})


def test_the_list_does_not_depend_on_the_number_or_order_of_shards(tmp_path: Path) -> None:
    pool, hashes = random_pool(5), set()
    for shards in (1, 2, 7):
        scores = scores_of(tmp_path / str(shards), pool, shards)
        files = list(read_manifests(scores))
        assert len(files) == shards
        path = select(Candidates(scores), k=30, top_p=3, diversity=2).write(
            tmp_path / "mined.parquet"
        )
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_several_sources_give_the_list_of_one(tmp_path: Path) -> None:
    pool = random_pool(6)
    whole = select(Candidates(scores_of(tmp_path / "whole", pool, 3)), k=30).frame()
    # Sources are stretches of the keys, here in the opposite order of their folders' names.
    first = scores_of(tmp_path / "parts" / "z", pool.iloc[:250], 2)
    second = scores_of(tmp_path / "parts" / "a", pool.iloc[250:], 3)
    for scores in ([first, second], [second, first], tmp_path / "parts"):
        pd.testing.assert_frame_equal(select(Candidates(scores), k=30).frame(), whole)
    record_sources(tmp_path / "parts", ["z"])
    assert len(select(Candidates(tmp_path / "parts"), k=1000)) < 250
    second = scores_of(tmp_path / "b", pool.iloc[100:400], 1)
    with pytest.raises(DataError, match="folder of its own"):
        select(Candidates([first, second]), k=30)


def test_an_exclusion_list_names_keys_or_paths_below_a_source(tmp_path: Path) -> None:
    pool = random_pool(7)
    pool["key"] = "pool/web/" + pool["key"]
    scores = scores_of(tmp_path / "scores", pool, 2, prefix="pool/web/")
    keys = pool["key"].tolist()
    lines = [keys[3], keys[50].removeprefix("pool/web/"), f"{keys[70]} 4", "no such image.jpg"]
    (tmp_path / "out.txt").write_text("# left out\n\n" + "\r\n".join(lines), "utf-8")
    named = read_exclusions([tmp_path / "out.txt"], scores)
    assert named.tolist() == [keys[3], keys[50], keys[70]]
    mined = select(Candidates(scores, exclude=named), k=1000).frame()
    assert not mined["key"].isin(named).any()
    assert len(mined) >= len(select(Candidates(scores), k=1000)) - 3
    with pytest.raises(DataError, match="nowhere.txt"):
        read_exclusions([tmp_path / "nowhere.txt"], scores)


@pytest.mark.parametrize("target", [1, 7, 150, 300, 10_000])
def test_target_total_finds_the_smallest_k(tmp_path: Path, target: int) -> None:
    pool = random_pool(6)
    mined = select(Candidates(scores_of(tmp_path, pool, 2)), target_total=target).frame()
    everything = plain_selection(pool, len(pool), 0.0, set())
    sizes = pd.Series([line.split()[-3] for line in everything]).value_counts()
    k = 1
    while k < sizes.max() and sizes.clip(upper=k).sum() < target:
        k += 1
    assert as_lines(mined) == plain_selection(pool, k, 0.0, set())


@pytest.mark.parametrize("apart", [0, 6, 20])
def test_diversity_keeps_copies_out_and_fills_their_places(tmp_path: Path, apart: int) -> None:
    pool = random_pool(7)
    mined = select(Candidates(scores_of(tmp_path, pool, 2)), k=25, diversity=apart).frame()
    hashes = pool.set_index("key")["phash64"]
    expected: list[str] = []
    for label in range(CLASSES):
        held: list[int] = []
        for line in plain_selection(pool, len(pool), 0.0, set()):
            key, its_label = line.rsplit(" ", 3)[:2]
            value = int(hashes[key])
            if int(its_label) != label or len(held) == 25:
                continue
            if all((value ^ other).bit_count() > apart for other in held):
                held.append(value)
                expected.append(f"{key} {label}")
    assert [f"{m.key} {m.label}" for m in mined.itertuples()] == expected


def test_top_p_fills_short_classes_with_images_not_chosen_before(tmp_path: Path) -> None:
    pool = random_pool(8)
    scores = scores_of(tmp_path, pool, 2)
    first, filled = (
        select(Candidates(scores), k=60).frame(),
        select(Candidates(scores), k=60, top_p=3).frame(),
    )
    assert (first["label"].value_counts() < 60).any()
    assert len(filled) > len(first) and filled["key"].is_unique
    both = filled.merge(first[["key", "label"]], on="key", suffixes=("", "_first"))
    assert len(both) == len(first) and (both["label"] == both["label_first"]).all()
    ids = dict(zip(pool["key"], pool["top_ids"], strict=True))
    added = filled[~filled["key"].isin(first["key"])]
    assert all(m.label in ids[m.key][1:3] for m in added.itertuples())
    full = first["label"].value_counts()
    assert not added["label"].isin(full[full == 60].index).any()
    for _, rows in filled.groupby("label"):
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))


def indexes(folder: Path, pool: pd.DataFrame) -> tuple[Path, Path]:
    """The pool's index and that of some labelled images whose keys are between the pool's."""
    samples = samples_frame(
        (key, key, -1, 10, None, 8, 8, "PNG", digest)
        for key, digest in zip(pool["key"], pool["bytes_sha256"], strict=True)
    )
    labelled = samples.iloc[::40].assign(label=3)
    labelled = labelled.assign(key=labelled["key"] + "x", path=labelled["path"] + "x")
    return (
        write_index(folder / "index_pool.parquet", samples),
        write_index(folder / "index_train.parquet", labelled),
    )


@pytest.mark.parametrize("label_mode", ["teacher_top1", "zero"])
def test_mined_and_labelled_images_stand_in_one_list_by_key(
    tmp_path: Path, label_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgnetv2_pipeline.mining.mined_list._ROWS", 37)
    pool = random_pool(9)
    pool.loc[5, "key"] = "#" + pool["key"][5][1:]
    pool = pool.sort_values("key", ignore_index=True)
    mined = select(Candidates(scores_of(tmp_path / "scores", pool, 3)), k=20)
    unlabelled, labelled = indexes(tmp_path, pool)
    index, listed = tmp_path / "merged.parquet", tmp_path / "list.txt"
    counts = write_merged(
        mined, pool=unlabelled, labelled=labelled, index=index, listed=listed, label_mode=label_mode
    )
    assert counts == {"mined": len(mined), "labelled": 15}
    chosen = mined.frame()
    expected = dict(zip(chosen["key"], chosen["label"] * (label_mode != "zero"), strict=True))
    expected |= dict.fromkeys(read_index(labelled)["key"], 3)
    merged = read_index(index)
    assert dict(zip(merged["key"], merged["label"], strict=True)) == expected
    lines = read_list(listed)
    assert (lines["path"] == merged["key"]).all() and (lines["label"] == merged["label"]).all()
    whole = read_index(unlabelled).drop(columns="label")
    pd.testing.assert_frame_equal(
        merged[merged["key"].isin(chosen["key"])].drop(columns="label").reset_index(drop=True),
        whole[whole["key"].isin(chosen["key"])].reset_index(drop=True),
    )


def test_a_list_of_another_pool_or_with_another_label_mode_is_refused(tmp_path: Path) -> None:
    pool = random_pool(9)
    mined = select(Candidates(scores_of(tmp_path / "scores", pool, 1)), k=20)
    unlabelled, labelled = indexes(tmp_path, pool.iloc[30:])
    places = {"index": tmp_path / "merged.parquet", "listed": tmp_path / "list.txt"}
    with pytest.raises(DataError, match="score and mine again"):
        write_merged(mined, pool=unlabelled, labelled=labelled, **places)
    with pytest.raises(ParameterError, match="teacher_top1"):
        write_merged(mined, pool=unlabelled, labelled=None, label_mode="teacher", **places)
    assert not any(path.exists() for path in places.values())


def test_without_k_and_target_the_default_rule_holds(tmp_path: Path) -> None:
    pool = random_pool(10)
    scores = scores_of(tmp_path, pool, 1)
    target = default_target(len(pool), CLASSES)
    assert target == 170
    assert as_lines(select(Candidates(scores)).frame()) == as_lines(
        select(Candidates(scores), target_total=170).frame()
    )


@pytest.mark.parametrize(
    ("images", "classes", "target"),
    [
        (14_197_122, 1000, 4_000_000), (14_197_122, 21_841, 4_000_000), (2_000_000, 100, 560_000),
        (1_500, 10, 420), (3, 10, 1), (10**9, 2, 32_000),
    ],
)  # fmt: skip
def test_the_default_follows_pool_and_classes(images: int, classes: int, target: int) -> None:
    assert default_target(images, classes) == target


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": 3, "target_total": 5}, {"top_p": 0}, {"diversity": 40}],
)
def test_impossible_limits_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="mining"):
        select(Candidates(tmp_path), **wrong)
    with pytest.raises(ParameterError, match=r"mining\.min_conf"):
        select(Candidates(tmp_path, min_conf=1.5))


def test_a_missing_shard_and_an_empty_rest_stop_the_selection(tmp_path: Path) -> None:
    pool = random_pool(11)
    scores = scores_of(tmp_path, pool, 3)
    with pytest.raises(DataError, match="all are excluded"):
        select(Candidates(scores, exclude=set(pool["key"])), k=1)
    (scores / "shard=00001.json").unlink()
    with pytest.raises(DataError, match="2 shards where 3"):
        select(Candidates(scores), k=1)
    with pytest.raises(DataError, match="score the pool first"):
        select(Candidates(tmp_path / "nowhere"), k=1)


def test_the_list_has_the_background_of_both_indexes_and_refuses_two(tmp_path: Path) -> None:
    pool = random_pool(9)
    mined = select(Candidates(scores_of(tmp_path / "scores", pool, 3)), k=20)
    places = {"index": tmp_path / "merged.parquet", "listed": tmp_path / "list.txt"}
    plain, labelled = indexes(tmp_path, pool)
    white = {
        path: write_index(
            tmp_path / f"white {path.name}",
            with_decoding(read_index(path), Decoding(background=(255, 255, 255))),
        )
        for path in (plain, labelled)
    }
    write_merged(mined, pool=white[plain], labelled=white[labelled], **places)
    assert decoding_in(places["index"]).background == (255, 255, 255)
    with_it = read_index(places["index"])
    write_merged(mined, pool=plain, labelled=labelled, **places)
    assert decoding_in(places["index"]).background is None
    pd.testing.assert_frame_equal(read_index(places["index"]), with_decoding(with_it, DECODING))
    with pytest.raises(DataError, match="different values of data.alpha"):
        write_merged(mined, pool=white[plain], labelled=labelled, **places)
