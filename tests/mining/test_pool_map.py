"""The map of the pool: which images are on it, and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_pools import random_pool, scores_of

from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.pool_map import choose_images, place_images


def labelled(images: int, classes: int) -> pd.DataFrame:
    """Of each class at least one image, of the first by far the most."""
    labels = np.concatenate([np.arange(classes), np.zeros(images - classes, int)])
    keys = [f"train/{n:05d}.png" for n in range(images)]
    return pd.DataFrame({"key": keys, "label": pd.array(labels, "Int64")})


@pytest.fixture
def mined_pool(tmp_path: Path) -> tuple[Candidates, Path, pd.DataFrame]:
    """600 images: 30 barred, 100 of the others mined."""
    pool = random_pool(0)
    barred = pool["key"].sample(30, random_state=1)
    free = pool[~pool["key"].isin(barred)]
    listed = free["key"].sample(100, random_state=2)
    pd.DataFrame({"key": listed}).to_parquet(tmp_path / "mined.parquet")
    candidates = Candidates(scores_of(tmp_path / "scores", pool, 3), exclude=barred.tolist())
    fate = pd.Series("passed over", pool["key"])
    fate[listed], fate[barred] = "mined", "removed"
    return candidates, tmp_path / "mined.parquet", fate


@pytest.mark.parametrize(("most", "classes"), [(120, 5), (120, 35), (10_000, 5), (0, 5)])
def test_every_class_is_shown_and_every_fate_as_often_as_fits(
    mined_pool: tuple[Candidates, Path, pd.Series], most: int, classes: int
) -> None:
    candidates, mined, fate = mined_pool
    train, val = labelled(300, classes), labelled(40, 2)
    val["key"] = "val/" + val["key"]
    chosen, sizes = choose_images(
        candidates, mined, {"train": train, "val": val}, most=most, seed=0
    )
    assert sizes == {"train": 300, "val": 40, "passed over": 470, "mined": 100, "removed": 30}
    assert len(chosen) <= most and chosen["key"].is_unique
    assert len(chosen) == (940 if most == 10_000 else pytest.approx(most, abs=5))
    by_kind = chosen.groupby("kind")["key"]
    if most:
        for name, samples in (("train", train), ("val", val)):
            shown = samples[samples["key"].isin(by_kind.get_group(name))]
            assert set(shown["label"]) == set(samples["label"])
    pool = chosen[~chosen["kind"].isin(["train", "val"])]
    assert (fate[pool["key"]].to_numpy() == pool["kind"]).all()
    if most == 120:
        counts = pool["kind"].value_counts()
        assert counts.max() - counts.min() <= 1 or counts["removed"] == 30
    again, _ = choose_images(candidates, mined, {"train": train, "val": val}, most=most, seed=0)
    assert chosen.equals(again)


def test_more_classes_than_fit_are_thinned_evenly(
    mined_pool: tuple[Candidates, Path, pd.Series],
) -> None:
    candidates, mined, _ = mined_pool
    chosen, _ = choose_images(candidates, mined, {"train": labelled(300, 300)}, most=60, seed=0)
    shown = chosen.loc[chosen["kind"] == "train", "key"].str[6:11].astype(int)
    assert len(shown) == 20 and np.diff(shown).max() <= 16


def with_features(folder: Path, features: np.ndarray) -> tuple[pd.DataFrame, Path]:
    pool = random_pool(0, rows=100).iloc[: len(features)]
    pool = pool.assign(feat=list(features.astype(np.float16)))
    return pd.DataFrame({"key": pool["key"], "kind": "mined"}), scores_of(folder, pool, 1)


@pytest.mark.parametrize("images", [3, 4, 60])
def test_points_are_the_two_directions_of_most_variance(tmp_path: Path, images: int) -> None:
    """Against the eigenvectors of the covariance; the largest loading of each is positive."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(images, 12)) * np.array([5, 3, *[0.3] * 10])
    chosen, scores = with_features(tmp_path, features)
    unread = pd.DataFrame({"key": ["zz"], "kind": ["train"]})
    points, shares = place_images(pd.concat([chosen, unread]), scores)
    assert points["key"].tolist() == chosen["key"].tolist()
    values = features.astype(np.float16).astype(np.float64)
    centred = values - values.mean(axis=0)
    found, directions = np.linalg.eigh(centred.T @ centred)
    for name, place in (("x", -1), ("y", -2)):
        direction = directions[:, place]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(points[name], centred @ direction, atol=2e-3)
    np.testing.assert_allclose(shares, found[[-1, -2]] / found.sum(), atol=1e-3)
    assert place_images(chosen, scores)[0].equals(points)


def test_two_images_make_no_map(tmp_path: Path) -> None:
    chosen, scores = with_features(tmp_path, np.eye(2, 5))
    points, shares = place_images(chosen, scores)
    assert list(points.columns) == ["key", "kind", "x", "y"] and points.empty and shares == [0, 0]
