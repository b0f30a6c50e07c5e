"""De-duplication on small planted sets: what is removed, what is kept, who decides."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_deduplicate as bench
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hgnetv2_pipeline.data.sample import write_sample
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining.duplicates.compare import Thresholds
from hgnetv2_pipeline.mining.duplicates.find import DuplicateSearch, _reach, deduplicate
from hgnetv2_pipeline.mining.duplicates.neighbours import HashIndex
from hgnetv2_pipeline.mining.review import apply_review, read_review
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

Sets = dict[str, tuple[pd.DataFrame, Path]]


def as_shards(frame: pd.DataFrame, folder: Path) -> Path:
    """Score shards of a frame as ``bench.scored`` gives it."""
    return bench.write_shards(folder, iter([frame]), len(frame), len(frame))


def twins(
    pool: pd.DataFrame,
    root: Path,
    sets: Sets,
    scores: pd.DataFrame | None = None,
    features: dict[str, pd.DataFrame] | None = None,
    workers: int = 1,
    **search: Any,
) -> pd.DataFrame:
    """What ``deduplicate`` finds in a pool; ``scores`` and ``features`` as frames."""
    with tempfile.TemporaryDirectory() as folder:
        frame = bench.scored(pool, root) if scores is None else scores
        own = {
            name: as_shards(part, Path(folder) / name) for name, part in (features or {}).items()
        }
        return deduplicate(
            as_shards(frame, Path(folder) / "pool"),
            sets,
            pool=(pool, root),
            search=DuplicateSearch(**search),
            features=own,
            workers=workers,
        )


def shares(fate: pd.DataFrame, kind: str) -> pd.Series:
    """The removed share of every edit of a kind."""
    rows = fate[fate["kind"] == kind]
    return rows.groupby("edit")["removed"].mean()


@pytest.fixture(scope="module")
def fate(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    planted = bench.plant(
        tmp_path_factory.mktemp("few") / "set", seed=0, kinds=("fixed", "random"), most=8
    )
    return bench.fates(planted)


# Row M03 of docs/reliability.md.
@pytest.mark.parametrize("edit", ["exact", "mirror", "grey", "turn 8", "crop 0.75"])
def test_copies_that_differ_little_all_go(fate: pd.DataFrame, edit: str) -> None:
    assert shares(fate, "fixed")[edit] == 1.0


@pytest.mark.parametrize(("kind", "least"), [("fixed", 0.93), ("random", 0.83)])
def test_most_edited_copies_go(fate: pd.DataFrame, kind: str, least: float) -> None:
    assert fate.loc[fate["kind"] == kind, "removed"].mean() >= least


def test_other_pictures_stay_and_copies_meet_their_own_twin(fate: pd.DataFrame) -> None:
    assert not fate.loc[fate["kind"] == "clean", ["removed", "review"]].any(axis=None)
    removed = fate[fate["removed"]]
    assert removed["right"].mean() >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "views"), [(0, 64), (1, 64), (2, 64), (3, 64), (1, 28)])
def test_planted_photographs_in_full(tmp_path: Path, seed: int, views: int) -> None:
    planted = bench.plant(tmp_path / "set", seed)
    fate = bench.fates(planted, views=views)
    fixed, held_out = shares(fate, "fixed"), shares(fate, "held out")
    assert (fixed[["exact", "mirror", "grey"]] == 1.0).all()
    assert fate.loc[fate["kind"] == "fixed", "removed"].mean() >= 0.96
    assert fate.loc[fate["kind"] == "random", "removed"].mean() >= 0.9
    assert (held_out[["perspective", "colour shift"]] >= 0.9).all()
    clean = fate[fate["kind"] == "clean"]
    assert len(clean) >= 60 and not clean["removed"].any()
    removed = fate[fate["removed"] & fate["kind"].isin(["fixed", "random"])]
    assert removed["right"].mean() >= 0.99
    nearest = bench.closest_negatives(planted)
    assert nearest["inliers"].max() < 20 and nearest["correlation"].max() < 0.8


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sets, pd.DataFrame]:
    root = tmp_path_factory.mktemp("sample") / "sample"
    write_sample(root)
    sets: Sets = {
        name: (folders.scan_list(root / f"{name}_list.txt", root).samples, root)
        for name in ("val", "train")
    }
    planted = pd.read_csv(root / "planted.csv").rename(columns={"pool_key": "key"})
    planted["key"] = planted["key"].str.removeprefix("pool/")
    return root / "pool", sets, planted


@pytest.mark.slow
def test_digits_planted_copies_all_go_and_one_percent_of_the_rest_at_most(
    sample: tuple[Path, Sets, pd.DataFrame],
) -> None:
    root, sets, planted = sample
    pool = folders.scan_unlabelled(root).samples
    found = twins(pool, root, sets, workers=2, auto_max=2, verify_max=10, views=28)
    fate = planted.merge(found, on="key", how="left", suffixes=("_planted", ""))
    assert (fate["decision"] == "remove").all()
    assert (fate["val_key_planted"] == fate["val_key"]).all()
    assert (fate.loc[fate["kind"] == "exact", "channel"] == "bytes").all()
    lost = found[(found["decision"] != "keep") & ~found["key"].isin(planted["key"])]
    assert len(lost) <= 0.01 * (len(pool) - len(planted))


@pytest.fixture
def few(tmp_path: Path) -> tuple[pd.DataFrame, Path, Sets]:
    """Three pool images: a copy of val, a copy of train edited, another one."""
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    images = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in images]
    for folder in ("val", "train", "pool"):
        (tmp_path / folder).mkdir()
    images[0].save(tmp_path / "val" / "v_1.png")
    images[1].save(tmp_path / "train" / "t_7.png")
    images[0].save(tmp_path / "pool" / "a_1.png")
    bench.jpeg(images[1], 90).save(tmp_path / "pool" / "b_7.png")
    images[2].save(tmp_path / "pool" / "c_9.png")
    sets: Sets = {
        name: (folders.scan_unlabelled(tmp_path / name).samples, tmp_path / name)
        for name in ("val", "train")
    }
    return folders.scan_unlabelled(tmp_path / "pool").samples, tmp_path / "pool", sets


def decisions(found: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    return {
        row["key"]: (row["channel"], row["protected"], row["decision"])
        for row in found.to_dict("records")
    }


def test_train_is_protected_by_bytes_and_name_but_not_by_looks(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    assert decisions(twins(*few)) == {"a_1.png": ("bytes", "val", "remove")}
    guarded = twins(*few, exact_only=())
    assert decisions(guarded)["b_7.png"] == ("phash", "train", "remove")
    named = twins(*few, channels=("name",), name_pattern=r"_(\d+)\.png$")
    assert decisions(named) == {
        "a_1.png": ("name", "val", "remove"),
        "b_7.png": ("name", "train", "remove"),
    }


def test_hashes_missing_from_a_protected_index_are_computed(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    bare = {name: (frame.assign(bytes_sha256=None), where) for name, (frame, where) in sets.items()}
    pd.testing.assert_frame_equal(twins(pool, root, bare), twins(*few))


def test_without_resemblance_the_frame_is_empty_but_typed(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    found = twins(pool[pool["key"] == "c_9.png"], root, sets, verify_max=6)
    assert len(found) == 0 and found["distance"].dtype == np.int16


@pytest.mark.parametrize(
    "wrong",
    [
        {"auto_max": 11, "verify_max": 10},
        {"channels": ("bytes", "sift")},
        {"channels": ("name",)},
        {"name_pattern": "x"},
        {"views": 65},
        {"channels": ("features",)},
    ],
)
def test_impossible_parameters_are_refused(
    few: tuple[pd.DataFrame, Path, Sets], wrong: dict[str, Any]
) -> None:
    with pytest.raises(ParameterError):
        twins(*few, **wrong)


def test_features_bring_pairs_that_the_pixels_judge(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    pool, root, sets = few
    rng = np.random.default_rng(0)
    every = rng.normal(size=(3, 16)).astype(np.float16)
    # By the teacher's features all three are alike; two have the pixels of a protected image.
    scores = bench.scored(pool, root).assign(feat=list(every * 0.1 + every[0]))
    own = {name: frame[["key"]].assign(feat=list(every[:1])) for name, (frame, _) in sets.items()}
    how: dict[str, Any] = {"channels": ("features",), "exact_only": (), "feature_min": 0.5}
    found = twins(*few, scores, own, **how)
    assert decisions(found) == {
        "a_1.png": ("features", "val", "remove"),
        "b_7.png": ("features", "train", "remove"),
        "c_9.png": ("features", decisions(found)["c_9.png"][1], "keep"),
    }
    assert (found["distance"] == -1).all()
    alone = scores.assign(feat=list(-every))
    assert len(twins(*few, alone, own, **how)) == 0


@pytest.mark.parametrize(
    ("lacking", "named"),
    [("pool", "column 'feat'"), ("val", "features of val"), ("size", "features of 16 numbers")],
)
def test_missing_features_are_named(
    few: tuple[pd.DataFrame, Path, Sets], lacking: str, named: str
) -> None:
    pool, root, sets = few
    scores = bench.scored(pool, root).assign(feat=list(np.ones((3, 16), np.float16)))
    size = 8 if lacking == "size" else 16
    own = {"val": sets["val"][0][["key"]].assign(feat=list(np.ones((1, size), np.float16)))}
    if lacking == "pool":
        scores = scores.drop(columns="feat")
    with pytest.raises((DataError, ParameterError), match=named):
        twins(*few, scores, {} if lacking == "val" else own, channels=("features",))


def test_a_budget_lowers_the_distance_up_to_which_pixels_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, (20, 4), dtype=np.uint64)
    scores = pd.DataFrame({"key": [f"{n:04d}" for n in range(3000)], "bytes_sha256": ""})
    scores["phash64"] = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    pool, index = ScoredPool(as_shards(scores, tmp_path)), HashIndex(hashes)
    search = DuplicateSearch(auto_max=4, verify_max=32, verify_budget=20)
    with caplog.at_level("INFO"):
        reach = _reach(pool, index, hashes.size, search)
    assert "verify_budget 20" in caplog.text and 4 < reach < 32
    near = index.nearest(scores["phash64"].to_numpy())
    assert (near <= reach).sum() <= 20 < (near <= reach + 1).sum()
    assert _reach(pool, index, hashes.size, replace(search, verify_budget=None)) == 32


def test_a_distance_that_takes_images_by_chance_is_named(
    few: tuple[pd.DataFrame, Path, Sets], caplog: pytest.LogCaptureFixture
) -> None:
    scores = pd.concat([bench.scored(*few[:2])] * 2000, ignore_index=True)
    scores["phash64"] = np.uint64(0x5A5A5A5A5A5A5A5A)
    twins(*few, scores, channels=("phash",), auto_max=18, verify_max=18)
    assert "auto_max 18 removes about" in caplog.text


def test_random_hashes_are_left_alone() -> None:
    found = bench.random_hashes(70_000, most=4)
    assert found["removed"] == 0 and found["hashes"] == 70_000


def test_a_protected_image_that_cannot_be_read_stops_the_run(
    few: tuple[pd.DataFrame, Path, Sets],
) -> None:
    _, _, sets = few
    (sets["val"][1] / "v_1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"v_1\.png"):
        twins(*few)


def test_what_falls_between_the_limits_is_left_to_a_person_who_is_obeyed(
    few: tuple[pd.DataFrame, Path, Sets], tmp_path: Path
) -> None:
    limits = Thresholds(correlation=1.1, sift_inliers=10_000, review_correlation=0.9)
    found = twins(*few, auto_max=0, thresholds=limits, channels=("phash",), exact_only=(), views=1)
    assert decisions(found)["b_7.png"][2] in ("review", "remove")
    found["decision"] = found["decision"].where(found["key"] != "b_7.png", "review")
    path = tmp_path / "review.csv"
    path.write_text("key,decision\nb_7.png, Keep\n")
    assert decisions(apply_review(found, read_review(path)))["b_7.png"][2] == "keep"
    extra = pd.DataFrame({"key": ["c_9.png"], "decision": ["remove"]})
    assert decisions(apply_review(found, extra))["c_9.png"] == ("person", "", "remove")


def test_an_exact_copy_cannot_be_kept_and_odd_words_are_named(
    few: tuple[pd.DataFrame, Path, Sets], tmp_path: Path
) -> None:
    found = twins(*few)
    with pytest.raises(DataError, match="a_1.png is a protected image itself"):
        apply_review(found, pd.DataFrame({"key": ["a_1.png"], "decision": ["keep"]}))
    path = tmp_path / "review.csv"
    path.write_text("key,decision\nx.png,remove\ny.png,maybe\n")
    with pytest.raises(DataError, match="line 3: decision 'maybe' of y.png"):
        read_review(path)
    path.write_text("key,decision\nx.png,remove\nx.png,keep\n")
    with pytest.raises(DataError, match="x.png twice"):
        read_review(path)
