"""Which images to label next: drawn by doubt, one of each kind, and none that is barred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_pools import random_pool, scores_of

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.label_next import choose_to_label, draw_doubtful


def margins(pool: pd.DataFrame) -> pd.Series:
    best = np.exp(np.stack(pool["top_logits"])[:, :2])
    return pd.Series(best[:, 0] - best[:, 1], pool["key"])


def test_what_is_drawn_is_doubted_more_and_may_be_mined(tmp_path: Path) -> None:
    pool = random_pool(0)
    gone = pool["key"].sample(60, random_state=1)
    candidates = Candidates(scores_of(tmp_path, pool, 3), exclude=gone.tolist())
    drawn = draw_doubtful(candidates, 200, seed=0)
    expected = margins(pool)
    np.testing.assert_allclose(drawn["doubt"], 1 - expected[drawn["key"]], atol=1e-6)
    assert drawn["label"].tolist() == [
        ids[0] for ids in pool.set_index("key").loc[drawn["key"], "top_ids"]
    ]
    assert len(drawn) == 200 and drawn["key"].is_unique and not drawn["key"].isin(gone).any()
    content = pool.set_index("key").loc[drawn["key"], "bytes_sha256"]
    assert content.is_unique  # of equal bytes one
    # A chance by weight: the mean doubt of what is drawn is above that of the pool.
    assert drawn["doubt"].mean() > (1 - expected).mean() + 0.02
    assert drawn.equals(draw_doubtful(candidates, 200, seed=0))
    assert set(drawn["key"]) != set(draw_doubtful(candidates, 200, seed=1)["key"])
    everything = draw_doubtful(candidates, 10**6, seed=0)
    assert len(everything) == pool[~pool["key"].isin(gone)]["bytes_sha256"].nunique()


def test_a_pool_with_nothing_left_is_refused(tmp_path: Path) -> None:
    pool = random_pool(0)
    candidates = Candidates(scores_of(tmp_path, pool, 1), exclude=pool["key"].tolist())
    with pytest.raises(DataError, match="left to label"):
        draw_doubtful(candidates, 10, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_one_of_each_kind_is_chosen_and_the_most_doubted_kind_first(
    tmp_path: Path, seed: int
) -> None:
    """Six kinds, far apart in features, of 5 to 30 images: six labels cover them all."""
    rng = np.random.default_rng(seed)
    pool = random_pool(seed, rows=105).drop_duplicates("key").reset_index(drop=True)
    kind = np.repeat(np.arange(6), [5, 10, 15, 20, 25, 30])
    centres = np.eye(6)
    features = centres[kind] + rng.normal(scale=0.05, size=(105, 6))
    pool["feat"] = list(features.astype(np.float16))
    doubt = rng.uniform(0.4, 1, 105)
    unread = pool["key"].iloc[3]
    scores = scores_of(tmp_path, pool[pool["key"] != unread], 2)
    doubtful = pd.DataFrame({"key": pool["key"], "label": 0, "probability": 0.5, "doubt": doubt})
    chosen = choose_to_label(doubtful, scores, 6, seed=0)
    kind_of = pd.Series(kind, pool["key"])
    assert sorted(kind_of[chosen["key"]]) == [0, 1, 2, 3, 4, 5]
    sizes = np.bincount(kind[pool["key"] != unread])
    assert chosen["stands_for"].tolist() == sizes[kind_of[chosen["key"]]].tolist()
    weight = np.bincount(kind, np.where(pool["key"] == unread, 0, doubt))
    assert np.argsort(-weight).tolist() == kind_of[chosen["key"]].tolist()
    # The nearest to the centre of its kind, by an independent computation.
    for key in chosen["key"]:
        own = (kind == kind_of[key]) & (pool["key"] != unread).to_numpy()
        held = np.stack(pool["feat"])[own].astype(np.float64)
        centre = np.average(held, axis=0, weights=doubt[own])
        nearest = np.linalg.norm(held - centre, axis=1).argmin()
        assert pool["key"][own].iloc[nearest] == key
    assert len(choose_to_label(doubtful, scores, 500, seed=0)) == 104
