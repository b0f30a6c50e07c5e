"""A map of the pool: mined, passed-over, removed and labelled images by what the teacher sees.

The points are the first two principal components of the teacher's features. At most so many images
as are asked for are looked at, whatever the size of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.duplicates.features import features_of
from hgnetv2_pipeline.mining.mined_list import read_batches
from hgnetv2_pipeline.mining.scored_pool import ScoredPool
from hgnetv2_pipeline.teacher.typicality import spread_over_classes

FATES = ("passed over", "mined", "removed")
"""What becomes of an image of the pool; removed: a copy of a guarded image, or barred by a list."""
_FEWEST = 3  # images that two directions can be fitted to


def choose_images(
    candidates: Candidates,
    mined: Path,
    labelled: Mapping[str, pd.DataFrame],
    *,
    most: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """At most ``most`` images to show (columns key, kind) and how many there are of each kind.

    Of each labelled set a sixth of ``most``, spread evenly over its classes; where it has more
    classes than that one of each, up to a third of ``most``. The pool gets the rest: as many of
    each of ``FATES`` as there are or as fit, drawn by ``seed``.
    """
    shown, sizes = [], {}
    for name, samples in labelled.items():
        places = _spread(samples["label"].fillna(0).to_numpy(np.int64), most, seed)
        shown.append(pd.DataFrame({"key": samples["key"].iloc[places], "kind": name}))
        sizes[name] = len(samples)
    pool = candidates.pool
    listed = [batch["key"].to_pandas() for batch in read_batches(mined, ["key"])]
    taken = pool.holding(pd.concat([pd.Series(dtype="str"), *listed]))
    fate = np.full(pool.rows, 2, np.int8)
    fate[candidates.free()] = 0
    fate[taken] = 1
    counts = np.bincount(fate, minlength=len(FATES)).tolist()
    # One order for the whole pool: another mined list shows other images only where it must.
    order = np.random.default_rng(seed).random(pool.rows)
    wanted = np.zeros(pool.rows, bool)
    for number, share in enumerate(_fair_shares(counts, most - sum(map(len, shown)))):
        places = np.flatnonzero(fate == number)
        wanted[places[np.argsort(order[places], kind="stable")[:share]]] = True
    kinds = np.array(FATES)[fate[wanted]]
    shown.append(pd.DataFrame({"key": pool.keys(wanted).to_pandas().astype("str"), "kind": kinds}))
    return pd.concat(shown, ignore_index=True), sizes | dict(zip(FATES, counts, strict=True))


def _spread(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    if not len(labels):
        return labels
    places = spread_over_classes(labels, max(1, most // 6), seed)
    fit = np.linspace(0, len(places) - 1, min(most // 3, len(places))).astype(int)
    thinned: NDArray[np.int64] = places[fit]
    return thinned


def _fair_shares(sizes: Sequence[int], room: int) -> list[int]:
    """``room`` divided among groups of these sizes, evenly as far as they have so many."""
    shares = [0] * len(sizes)
    for done, number in enumerate(np.argsort(sizes, kind="stable").tolist()):
        shares[number] = min(sizes[number], max(0, room - sum(shares)) // (len(sizes) - done))
    return shares


def place_images(chosen: pd.DataFrame, scores: Path) -> tuple[pd.DataFrame, list[float]]:
    """``chosen`` with x and y, and the share of the features' variance that each of them holds.

    ``scores`` holds the features; images that could not be read are left out. No points where
    fewer than three are left.
    """
    from sklearn.decomposition import PCA

    pool = ScoredPool(scores)
    read = pool.keys(np.ones(pool.rows, bool)).to_pandas()
    chosen = chosen[chosen["key"].isin(read)].reset_index(drop=True)
    if len(chosen) < _FEWEST:
        return chosen.iloc[:0].assign(x=0.0, y=0.0), [0.0, 0.0]
    features = features_of(scores, chosen["key"]).astype(np.float32)
    # Exact and quick for thousands of features; the largest loading of each direction is positive.
    solver = "arpack" if min(features.shape) > 2 else "full"
    fitted = PCA(2, svd_solver=solver, random_state=0)
    points = fitted.fit_transform(features)
    shares = [round(float(share), 4) for share in np.nan_to_num(fitted.explained_variance_ratio_)]
    return chosen.assign(x=points[:, 0].round(4), y=points[:, 1].round(4)), shares
