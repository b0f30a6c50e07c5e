"""What was mined: counts that add up, confidences by class, purity where the truth is known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.selection import excluded_keys, ranks_of
from hgnetv2_pipeline.mining.shards import read_manifests


def audit(
    scores: Path | Sequence[Path],
    dedup: pd.DataFrame,
    mined: pd.DataFrame,
    *,
    classes: Sequence[str],
    exclude: Collection[str] = (),
    exclude_review: bool = True,
    truth: pd.DataFrame | None = None,
    planted: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Counts of a mining, JSON-able; DataError if they do not add up.

    pool_listed = scored + quarantined; scored = removed (exact_duplicates + near_removed +
    name_removed + person_removed) + review + excluded + candidates; selected <= candidates.
    With ``exclude_review`` False the images in review count as candidates.

    ``truth`` (key, label; NA = belongs to no class) of hidden labels in the pool adds ``purity``;
    ``planted`` (key, kind) of known copies of protected images adds ``planted``: how many of each
    kind were removed, and how much of the rest was lost with them.
    """
    manifests = list(read_manifests(scores).values())
    listed = sum(int(manifest["listed"]) for manifest in manifests)
    scored = sum(int(manifest["rows"]) for manifest in manifests)
    quarantined = sum(len(manifest["quarantined"]) for manifest in manifests)
    removed = dedup[dedup["decision"] == "remove"]
    by_channel = removed["channel"].value_counts()
    review = int((dedup["decision"] == "review").sum()) if exclude_review else 0
    others = set(exclude) - set(excluded_keys(dedup, (), exclude_review))
    candidates = scored - len(removed) - review - len(others)
    if listed != scored + quarantined or not len(mined) <= candidates:
        raise DataError(
            f"the counts of the pool do not add up: {listed} listed, {scored} scored, "
            f"{quarantined} quarantined, {len(removed)} removed, {review} in review, "
            f"{len(others)} excluded, {len(mined)} selected; scores, duplicates and list are of "
            "different runs: mine again"
        )
    barred = excluded_keys(dedup, exclude, exclude_review)
    if mined["key"].isin(barred).any() or mined["key"].duplicated().any():
        raise DataError("the mined list holds an image twice or one that was excluded: mine again")
    per_class = _per_class(mined, classes)
    sizes = np.array([row["selected"] for row in per_class])
    k = int(mined["rank"].max()) if len(mined) else 0
    result: dict[str, Any] = {
        # Every image of the pool: chosen from, unreadable, or kept out by a rule or a person.
        "n_listed": listed,
        "n_used": candidates,
        "n_quarantined": quarantined,
        "n_refused": scored - candidates,
        "pool_listed": listed,
        "quarantined": quarantined,
        "scored": scored,
        "exact_duplicates": int(by_channel.get("bytes", 0)),
        "near_removed": int(by_channel.get("phash", 0)),
        "name_removed": int(by_channel.get("name", 0)),
        "person_removed": int(by_channel.get("person", 0)),
        "removed": len(removed),
        "review": review,
        "excluded": len(others),
        "candidates": candidates,
        "selected": len(mined),
        "k": k,
        "short_classes": [row["label"] for row in per_class if row["selected"] < k],
        "gini": gini(sizes),
        "per_class": per_class,
    }
    if truth is not None:
        result["purity"] = _purity(mined, truth)
    if planted is not None:
        result["planted"] = _planted(dedup, planted, scored, exclude_review)
    return result


def purity_curve(
    scores: Path | Sequence[Path],
    dedup: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    exclude: Collection[str] = (),
    exclude_review: bool = True,
    points: int = 20,
) -> pd.DataFrame:
    """How pure the list would be for other k, estimated on images whose truth is known.

    ``truth``: key, label (NA = belongs to no class). Returns k, known (images with known truth
    among the first k of each class), distractors, distractor_share, accuracy (of pseudo-labels on
    images that belong to a class).
    """
    barred = excluded_keys(dedup, exclude, exclude_review)
    ranked = ranks_of(scores, barred, truth["key"])
    ranked = ranked.merge(truth[["key", "label"]].rename(columns={"label": "truth"}), on="key")
    if ranked.empty:
        raise DataError("no image with a known truth is among the candidates")
    deepest = int(ranked["rank"].max())
    rows = []
    for k in np.unique(np.rint(np.geomspace(1, deepest, points)).astype(int)):
        rows.append({"k": int(k)} | _purity(ranked[ranked["rank"] <= k], None))
    return pd.DataFrame(rows)


def gini(sizes: np.ndarray[Any, Any]) -> float:
    """Gini coefficient of class sizes: 0 if all are equal, near 1 if one class has everything."""
    total = float(sizes.sum())
    if not total:
        return 0.0
    ordered = np.sort(sizes.astype(np.float64))
    places = np.arange(1, len(ordered) + 1)
    return float((2 * places - len(ordered) - 1) @ ordered / (len(ordered) * total))


def _per_class(mined: pd.DataFrame, classes: Sequence[str]) -> list[dict[str, Any]]:
    groups = dict(list(mined.groupby("label")["score"]))
    rows = []
    for label, name in enumerate(classes):
        scores = groups.get(label)
        row: dict[str, Any] = {"label": label, "name": name, "selected": 0}
        if scores is not None:
            row["selected"] = len(scores)
            low, middle, high = np.quantile(scores.to_numpy(np.float64), [0.0, 0.5, 1.0])
            row |= {"min_score": low, "median_score": middle, "max_score": high}
            row = {k: round(float(v), 6) if k.endswith("score") else v for k, v in row.items()}
        rows.append(row)
    highest = int(mined["label"].max()) if len(mined) else 0
    if highest >= len(classes):
        raise DataError(f"the mined list has class {highest}, there are {len(classes)} classes")
    return rows


def _purity(mined: pd.DataFrame, truth: pd.DataFrame | None) -> dict[str, Any]:
    """Sums first: how many are known, distractors, right; then the two shares."""
    known = mined
    if truth is not None:
        known = mined.merge(truth[["key", "label"]].rename(columns={"label": "truth"}), on="key")
    distractors = int(known["truth"].isna().sum())
    right = int((known["truth"] == known["label"]).sum())
    inside = len(known) - distractors
    return {
        "known": len(known),
        "distractors": distractors,
        "right": right,
        "distractor_share": distractors / len(known) if len(known) else 0.0,
        "accuracy": right / inside if inside else 0.0,
    }


def _planted(
    dedup: pd.DataFrame, planted: pd.DataFrame, scored: int, exclude_review: bool
) -> dict[str, Any]:
    decisions = dedup.set_index("key")["decision"]
    lost = decisions[decisions.isin(["remove", "review"] if exclude_review else ["remove"])]
    kinds = {}
    for kind, keys in planted.groupby("kind")["key"]:
        fate = keys.map(decisions).fillna("keep")
        counts = {what: int((fate == what).sum()) for what in ("remove", "review", "keep")}
        kinds[str(kind)] = {"planted": len(keys)} | counts
    clean = scored - len(planted)
    clean_lost = int((~lost.index.isin(planted["key"])).sum())
    return {
        "kinds": kinds,
        "clean": clean,
        "clean_lost": clean_lost,
        "clean_lost_share": clean_lost / clean if clean else 0.0,
    }
