"""How pure the mined list is at every k, estimated by labelled images hidden among the pool.

A pool has no labels. So some labelled images, the hidden images, are scored as if they were in the
pool: each gets the rank it would have taken in its class, and a list of k images per class would
hold those with rank k or better. The share of these with the right class is the estimate. Hidden
images only get a rank; they are never candidates and push no image off the list.

What the estimate leaves out: every hidden image belongs to one of the classes, while a pool also
holds images of none. It is therefore an upper bound of the list's purity, as far as the pool's
images of the classes resemble the hidden ones.

The parameter ``mining.purity.probes`` and the columns called ``probes`` are about hidden images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data import sample_rng
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

# Scores are millionths and fit below this, so that (class, score) is one sortable number.
_SCORES = 1 << 20


def choose_hidden_images(samples: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most ``most`` labelled rows of ``samples``, drawn by ``seed``, in their order."""
    labelled = samples[samples["label"].notna()].reset_index(drop=True)
    if labelled.empty:
        raise DataError("no labelled image can be hidden among the pool (mining.purity.probes)")
    return labelled.iloc[np.sort(sample_rng.epoch_order(len(labelled), seed, 0)[:most])]


def rank_hidden_images(candidates: Candidates, scores: Path, labels: pd.DataFrame) -> pd.DataFrame:
    """The rank that each hidden image would have among the candidates of its class.

    ``scores`` is a folder of score shards of labelled images, ``labels`` (key, label) gives their
    classes. Returns key, truth, label (the teacher's class), score_q, rank (from 1, best first
    within the class; ties go to the hidden image), sorted by key; images below ``min_conf``,
    which no list would hold, have rank 0. The pool is streamed: memory grows with the hidden images
    alone.

    Raises:
        DataError: no hidden image has a label.
    """
    hidden = ScoredPool(scores)
    label, score_q = hidden.best(1)
    keys = hidden.keys(np.ones(hidden.rows, dtype=bool)).to_pandas()
    guess = pd.DataFrame({"key": keys, "guess": label, "score_q": score_q})
    found = guess.merge(labels[["key", "label"]], on="key").rename(columns={"label": "truth"})
    found = found.sort_values("key", ignore_index=True)
    if found.empty:
        raise DataError(f"none of the hidden images in {scores} has a label; score them again")
    ranks = _ranks(
        found["guess"].to_numpy(np.int64) * _SCORES + found["score_q"].to_numpy(np.int64),
        (
            label * _SCORES + score_q
            for label, score_q in replace(candidates, min_conf=0.0).classes_and_scores()
        ),
    )
    ranks[found["score_q"].to_numpy() < candidates.least] = 0
    found = found.rename(columns={"guess": "label"}).assign(rank=ranks)
    return found[["key", "truth", "label", "score_q", "rank"]].astype({"truth": "int64"})


def _ranks(hidden: NDArray[np.int64], pool: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """1 + the pool images above each hidden one in its class; numbers: class * _SCORES + score."""
    ordered = np.sort(hidden)
    # A pool image at place p is above the first p hidden ones and no other.
    places = np.zeros(len(ordered) + 1, dtype=np.int64)
    # Those of higher classes are above too, and must not count.
    next_class = (ordered // _SCORES + 1) * _SCORES
    beyond = np.zeros(len(ordered), dtype=np.int64)
    for some in pool:
        some = np.sort(some)
        places += np.bincount(np.searchsorted(ordered, some), minlength=len(places))
        beyond += len(some) - np.searchsorted(some, next_class)
    above = places[::-1].cumsum()[::-1][1:] - beyond
    return 1 + above[np.searchsorted(ordered, hidden)]


def purity_curve(
    candidates: Candidates,
    hidden: pd.DataFrame,
    *,
    k: int,
    truth: pd.DataFrame | None = None,
    points: int = 20,
) -> pd.DataFrame:
    """How pure lists of 1 to all images per class would be; ``k``, that of the list, among them.

    ``hidden`` is what ``rank_hidden_images`` returns. One row per k: k, images (length of such a
    list), probes (hidden images that it would hold), right (those with the right class), estimate
    (their share), low and high (its 95 % interval by Wilson). With ``truth`` (key, label; NA =
    belongs to no class), the hidden labels of a pool that has some, also known (images with known
    truth on such a list), distractors (of no class), known_right, purity (known_right of known).
    Neither takes ``top_p`` and ``diversity`` into account.

    Raises:
        DataError: there is no candidate.
    """
    counts = candidates.counts()
    sizes = counts.to_numpy()
    if not len(sizes):
        raise DataError("no image of the pool is a candidate (mining.min_conf)")
    steps = np.rint(np.geomspace(1, int(sizes.max()), points)).astype(int)
    curve = pd.DataFrame(
        [
            {"k": int(step), "images": int(np.minimum(sizes, step).sum())}
            | _estimate(hidden[hidden["rank"].between(1, step)])
            for step in np.unique([*steps, k])
        ]
    )
    if truth is None:
        return curve
    ranked = replace(candidates, min_conf=0.0).ranks_of(truth["key"])
    # The best come first, so that those below min_conf are the last of their class.
    ranked = ranked[ranked["rank"] <= ranked["label"].map(counts).fillna(0)]
    ranked = ranked.merge(truth[["key", "label"]].rename(columns={"label": "truth"}), on="key")
    known = [known_purity(ranked[ranked["rank"] <= step]) for step in curve["k"]]
    return curve.join(pd.DataFrame(known))


def _estimate(taken: pd.DataFrame) -> dict[str, Any]:
    from scipy.stats import binomtest

    n, right = len(taken), int((taken["truth"] == taken["label"]).sum())
    if not n:
        return {"probes": 0, "right": 0, "estimate": np.nan, "low": 0.0, "high": 1.0}
    interval = binomtest(right, n).proportion_ci(method="wilson")
    low, high = (round(float(bound), 6) for bound in interval)
    return {"probes": n, "right": right, "estimate": round(right / n, 6), "low": low, "high": high}


def known_purity(listed: pd.DataFrame) -> dict[str, Any]:
    """Counts of images with label and truth (NA = of no class), and the share that is right."""
    right = int((listed["truth"] == listed["label"]).sum())
    return {
        "known": len(listed),
        "distractors": int(listed["truth"].isna().sum()),
        "known_right": right,
        "purity": round(right / len(listed), 6) if len(listed) else np.nan,
    }
