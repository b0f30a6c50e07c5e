"""Purity by hidden labelled images, against plain loops; and a list of millions within bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_selection import CLASSES, random_pool, scores_of

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.purity import choose_hidden_images, purity_curve, rank_hidden_images
from hgnetv2_pipeline.mining.selection import select


def hidden_with_labels(tmp_path: Path, seed: int) -> tuple[Path, pd.DataFrame]:
    scored = random_pool(seed, rows=200)
    rng = np.random.default_rng(seed)
    guess = np.stack(scored["top_ids"])[:, 0]
    label = np.where(rng.random(200) < 0.7, guess, rng.integers(0, CLASSES, 200))
    labels = pd.DataFrame({"key": scored["key"], "label": label})
    return scores_of(tmp_path / "probes", scored, 3), labels


@pytest.mark.parametrize("min_conf", [0.0, 0.3])
def test_a_hidden_image_gets_the_rank_it_would_have_in_the_pool(
    tmp_path: Path, min_conf: float
) -> None:
    pool = random_pool(1)
    scores = scores_of(tmp_path / "scores", pool, 2)
    hidden, labels = hidden_with_labels(tmp_path, 2)
    barred = pd.DataFrame({"key": pool["key"].iloc[:50], "decision": "remove"})
    candidates = Candidates(scores, barred, min_conf=min_conf)
    found = rank_hidden_images(candidates, hidden, labels)
    assert found["key"].is_monotonic_increasing and len(found) == 200
    # All candidates, in order.
    taken = select(replace(candidates, min_conf=0.0), k=10_000).frame()
    for row in found.itertuples():
        above = (taken["label"] == row.label) & (taken["score_q"] > row.score_q)
        held = row.score_q >= min_conf * 1e6
        assert row.rank == (1 + int(above.sum()) if held else 0)
    assert (found["rank"] == 0).any() == (min_conf > 0)


def test_the_estimate_counts_the_hidden_images_that_the_list_would_hold(tmp_path: Path) -> None:
    pool = random_pool(3)
    candidates = Candidates(scores_of(tmp_path / "scores", pool, 2))
    hidden, labels = hidden_with_labels(tmp_path, 4)
    truth = pd.DataFrame({"key": pool["key"], "label": pd.array([0, None] * 300, dtype="Int64")})
    ranked = rank_hidden_images(candidates, hidden, labels)
    curve = purity_curve(candidates, ranked, k=13, truth=truth).set_index("k")
    assert 13 in curve.index and curve.index.is_monotonic_increasing
    for k in (1, 13, int(curve.index[-1])):
        row, mined = curve.loc[k], select(candidates, k=k).frame()
        lowest = mined.groupby("label")["score_q"].min()
        full = mined["label"].value_counts() == k
        # On the list: above the last one of a full class, or anywhere in one that is not full.
        limit = ranked["label"].map(lowest.where(full.reindex(lowest.index), 0)).fillna(0)
        sure, open_ = ranked["score_q"] > limit, ranked["score_q"] >= limit
        assert sure.sum() <= row["probes"] <= open_.sum()
        assert row["images"] == len(mined) == row["known"]
        assert (
            row["low"] <= row["estimate"] == pytest.approx(row["right"] / row["probes"], abs=1e-6)
        )
        held = mined.merge(truth.rename(columns={"label": "truth"}), on="key")
        assert row["distractors"] == held["truth"].isna().sum()
        assert row["known_right"] == (held["truth"] == held["label"]).sum()


def test_no_hidden_image_on_the_list_is_no_estimate_and_not_an_error(tmp_path: Path) -> None:
    candidates = Candidates(scores_of(tmp_path / "scores", random_pool(5), 1))
    hidden, labels = hidden_with_labels(tmp_path, 6)
    ranked = rank_hidden_images(candidates, hidden, labels).assign(rank=999)
    curve = purity_curve(candidates, ranked, k=2, points=2)
    assert curve["probes"].tolist() == [0] * 3 and curve["estimate"].isna().all()
    assert (curve["low"] == 0).all() and (curve["high"] == 1).all()
    assert "purity" not in curve
    with pytest.raises(DataError, match="none of the hidden images"):
        rank_hidden_images(candidates, hidden, labels.assign(key="elsewhere"))


def test_hidden_images_are_drawn_by_the_seed_and_need_labels() -> None:
    samples = pd.DataFrame(
        {"key": [f"{n:03d}" for n in range(100)], "label": pd.array([*range(90)] + [None] * 10)}
    )
    first = choose_hidden_images(samples, 20, 0)
    assert len(first) == 20 and first["key"].is_monotonic_increasing
    assert first["label"].notna().all()
    assert first.equals(choose_hidden_images(samples, 20, 0))
    assert not first.equals(choose_hidden_images(samples, 20, 1))
    assert len(choose_hidden_images(samples, 500, 0)) == 90
    with pytest.raises(DataError, match=r"mining\.purity\.probes"):
        choose_hidden_images(samples.iloc[90:], 20, 0)
