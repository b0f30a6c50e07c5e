"""How pure the mined list is by a person's word: images judged in a random order, and what follows.

The order is by a hash of the key, so that it is the same whenever and wherever it is asked for.
Only images judged without a gap from its start are a random sample of the list; those that a person
looked at because they were doubtful would make the list look worse than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data.decisions import decisions_on
from hgnetv2_pipeline.intervals import wilson_interval

WANTED = (0.9, 0.95, 0.99)
"""Purities for which a ``min_conf`` is proposed."""
FEWEST = 20
"""Judged images below which nothing is said of a ``min_conf``."""


def random_order(keys: pd.Series[str]) -> NDArray[np.int64]:
    """The places of the keys in an order that has nothing to do with their images."""
    hashed = pd.util.hash_array(keys.to_numpy(dtype=object), categorize=False)
    return np.lexsort((keys.to_numpy(dtype=object), hashed))


def judged_purity(mined: pd.DataFrame, decisions: pd.DataFrame) -> dict[str, Any]:
    """How many of the images judged in the random order were right, and what that says.

    Args:
        mined: columns key, score of the list that is there now.
        decisions: of ``read_decisions``. An image that was removed or relabelled was on the list
            when it was judged, and counts.

    Returns:
        ``judged`` (a random sample), ``right``; where there is one ``purity``, ``low``, ``high``
        (95 %, Wilson); ``min_conf``: for each wanted purity the lowest limit above which so many of
        the judged were right, with ``judged`` and ``right`` there and the ``share`` of the list
        that is left. It is chosen among all limits, so that the purity there is a little flattered.
    """
    found = decisions_on(decisions, ["mined"], mined["key"].tolist())
    scores = pd.to_numeric(found["score"], errors="coerce").to_numpy(dtype=np.float64)
    judged = pd.DataFrame(
        {"key": found["key"].to_numpy(), "score": scores, "right": found["decision"].eq("keep")}
    )
    others = mined.loc[~mined["key"].isin(judged["key"]), ["key", "score"]]
    both = pd.concat([judged, others], ignore_index=True)
    if both.empty:
        return {"judged": 0, "right": 0, "min_conf": []}
    known = np.arange(len(both)) < len(judged)
    order = random_order(both["key"])
    gaps = np.flatnonzero(~known[order])
    sample = order[: gaps[0] if len(gaps) else len(order)]
    right = both["right"].to_numpy(dtype=object)[sample] == True  # noqa: E712 - NaN are others
    n, hits = len(sample), int(right.sum())
    result: dict[str, Any] = {"judged": n, "right": hits, "min_conf": []}
    if n:
        low, high = wilson_interval(hits, n)
        result |= {"purity": hits / n, "low": low, "high": high}
    scores = both["score"].to_numpy(np.float64)
    if n >= FEWEST:
        result["min_conf"] = _limits(scores[sample], right, mined["score"].to_numpy(), WANTED)
    return result


def _limits(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    listed: NDArray[np.floating],
    wanted: Sequence[float],
) -> list[dict[str, Any]]:
    """The lowest score from which on the share of the right reaches each of the wanted ones."""
    places = np.argsort(-scores, kind="stable")
    above, hits = np.arange(1, len(scores) + 1), np.cumsum(right[places])
    ends = np.append(scores[places][1:] != scores[places][:-1], True)  # of equal scores all or none
    found = []
    for share in wanted:
        good = np.flatnonzero(ends & (hits / above >= share))
        if not len(good):
            continue
        at = int(good[-1])
        least = float(np.floor(scores[places][at] * 1e4) / 1e4)
        low, high = wilson_interval(int(hits[at]), int(above[at]))
        found.append(
            {
                "wanted": share,
                "min_conf": least,
                "judged": int(above[at]),
                "right": int(hits[at]),
                "low": low,
                "high": high,
                "share": float((listed >= least).mean()) if len(listed) else 0.0,
            }
        )
    return found


def judgement_in_words(found: dict[str, Any]) -> list[str]:
    """``judged_purity`` as sentences."""
    if not found["judged"]:
        return []
    said = [
        f"Judged by a person at random: {found['right']:,} of {found['judged']:,} mined images are "
        f"right, a purity of {found['purity']:.1%} (95 %: {found['low']:.1%} to "
        f"{found['high']:.1%})."
    ]
    for row in found["min_conf"]:
        said.append(
            f"For {row['wanted']:.0%}: mining.min_conf={row['min_conf']:g}, above which "
            f"{row['right']:,} of {row['judged']:,} were right (95 %: {row['low']:.1%} to "
            f"{row['high']:.1%}); it leaves {row['share']:.0%} of the list."
        )
    missing = [
        share for share in WANTED if share not in {row["wanted"] for row in found["min_conf"]}
    ]
    if found["judged"] < FEWEST:
        said.append(f"From {FEWEST} judged images on, a mining.min_conf is proposed.")
    elif missing:
        said.append(f"No mining.min_conf reaches {', '.join(f'{share:.0%}' for share in missing)}.")
    return said
