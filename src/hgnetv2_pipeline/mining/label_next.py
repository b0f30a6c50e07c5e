"""Which images of the pool a person should label next: doubtful ones, each of another kind.

Images are drawn by how much the teacher doubts them, and clustered by what it sees in them, each
weighing as much as the doubt. Of every cluster the image nearest to its centre is taken (CLUE,
Prabhu et al., ICCV 2021): the doubtful alone would be many copies of the same difficulty.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.duplicates.features import features_of
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

DRAWN_PER_IMAGE = 20
"""Images whose features are looked at for each one that is proposed."""


def draw_doubtful(candidates: Candidates, count: int, seed: int) -> pd.DataFrame:
    """At most ``count`` of the images that may be mined, drawn by doubt, as columns key, label,
    probability (of that class) and doubt, by key.

    Doubt is 1 less the probabilities' margin between the best class and the next.

    Raises:
        DataError: there is no image to doubt.
    """
    pool, free = candidates.pool, candidates.free()
    if pool.kept < 2:
        raise DataError("there is no image to label next: the pool is empty, or has one class")
    candidates.order(free)  # of equal bytes one stays free
    labels, _ = pool.best(1)
    probability, margin = _answers(pool)
    doubt = np.where(free, 1 - margin, 0)
    # Without putting back, each with a chance by its weight (Efraimidis and Spirakis 2006).
    with np.errstate(divide="ignore"):
        drawn = np.log(np.random.default_rng(seed).random(pool.rows)) / doubt
    places = np.sort(np.argsort(-drawn, kind="stable")[:count])
    places = places[doubt[places] > 0]
    if not len(places):
        raise DataError("no image of the pool is left to label: all are copies, excluded or sure")
    wanted = np.zeros(pool.rows, bool)
    wanted[places] = True
    return pd.DataFrame(
        {
            "key": pool.keys(wanted).to_pandas().astype("str"),
            "label": labels[places],
            "probability": probability[places],
            "doubt": doubt[places],
        }
    )


def choose_to_label(doubtful: pd.DataFrame, scores: Path, count: int, seed: int) -> pd.DataFrame:
    """``count`` of the ``doubtful`` images, those that speak for most doubt first.

    ``scores`` holds their features; those that could not be read are left out. The column
    ``stands_for`` is added: how many of the doubtful images are of its kind.
    """
    from sklearn.cluster import KMeans

    pool = ScoredPool(scores)
    read = pool.keys(np.ones(pool.rows, bool)).to_pandas()
    doubtful = doubtful[doubtful["key"].isin(read)].reset_index(drop=True)
    if doubtful.empty:
        raise DataError("none of the images that were to be labelled can be read")
    features = features_of(scores, doubtful["key"]).astype(np.float32)
    weights = doubtful["doubt"].to_numpy()
    clusters = KMeans(min(count, len(doubtful)), n_init=1, random_state=seed)
    distances = clusters.fit_transform(features, sample_weight=weights)
    own = distances[np.arange(len(doubtful)), clusters.labels_]
    found = doubtful.assign(cluster=clusters.labels_, distance=own)
    by_cluster = found.groupby("cluster")
    found["stands_for"] = by_cluster["key"].transform("size")
    found["weight"] = by_cluster["doubt"].transform("sum")
    nearest = found.loc[by_cluster["distance"].idxmin()]
    ranked = nearest.sort_values(["weight", "key"], ascending=[False, True], ignore_index=True)
    return ranked.drop(columns=["cluster", "distance", "weight"])


def _answers(pool: ScoredPool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each image the probability of its best class, and how much more that is than the next."""
    best = [np.zeros((0, 2), np.float32)]
    for batch in pool.chunks(["top_logits", "lse"]):
        logits = np.asarray(batch["top_logits"].flatten()).reshape(len(batch), -1)[:, :2]
        best.append(np.exp(logits - batch["lse"].to_numpy()[:, None], dtype=np.float32))
    first, second = np.concatenate(best).T
    return first, first - second
