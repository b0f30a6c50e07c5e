"""What was mined: counts that add up, confidences by class, purity where the truth is known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import candidate_counts
from hgnetv2_pipeline.mining.database import database, quoted
from hgnetv2_pipeline.mining.purity import known_purity
from hgnetv2_pipeline.mining.selection import excluded_keys
from hgnetv2_pipeline.mining.shards import read_manifests

# Channels that are no question of likeness: the same file, the same name, a person's word.
_CERTAIN = ("bytes", "name", "person")


def audit(
    scores: Path | Sequence[Path],
    dedup: pd.DataFrame,
    mined: Path,
    *,
    table: pd.DataFrame,
    exclude: Collection[str] = (),
    exclude_review: bool = True,
    min_conf: float = 0.0,
    curve: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    planted: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Counts of a mining, JSON-able; DataError if they do not add up.

    pool_listed = scored + quarantined; scored = removed (exact_duplicates + near_removed +
    name_removed + person_removed) + review + excluded + candidates; candidates = selected +
    same_bytes (of a better image of the class) + below_min_conf + not_reached (beyond k). With
    ``exclude_review`` False the images in review count as candidates. ``by_channel`` counts every
    pair by channel and decision.

    ``mined`` is the mined list as parquet; it is read by the column, never held whole; ``table``
    of ``class_table`` gives short_classes (with fewer than k images), empty_classes and gini.
    ``curve`` of ``purity_curve`` adds ``estimate``, the purity at the list's k; ``truth`` (key,
    label; NA = belongs to no class) of hidden labels in the pool adds ``purity``; ``planted`` (key,
    kind) of known copies of protected images adds ``planted``: how many of each kind were removed,
    and how much of the rest was lost with them.
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
    barred = excluded_keys(dedup, exclude, exclude_review)
    selected, k = _checked(mined, barred)
    sizes = table["selected"].to_numpy()
    if listed != scored + quarantined or not int(sizes.sum()) == selected <= candidates:
        raise DataError(
            f"the counts of the pool do not add up: {listed} listed, {scored} scored, "
            f"{quarantined} quarantined, {len(removed)} removed, {review} in review, "
            f"{len(others)} excluded, {selected} selected; scores, duplicates and list are of "
            "different runs: mine again"
        )
    distinct = int(candidate_counts(scores, barred).sum())
    sure = distinct
    if min_conf:
        sure = int(candidate_counts(scores, barred, min_conf=min_conf).sum())
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
        "near_removed": int(by_channel.drop(list(_CERTAIN), errors="ignore").sum()),
        "name_removed": int(by_channel.get("name", 0)),
        "person_removed": int(by_channel.get("person", 0)),
        "removed": len(removed),
        "review": review,
        "excluded": len(others),
        "candidates": candidates,
        "same_bytes": candidates - distinct,
        "below_min_conf": distinct - sure,
        "not_reached": sure - selected,
        "selected": selected,
        "k": k,
        "classes": len(table),
        "short_classes": int((sizes < k).sum()),
        "empty_classes": int((sizes == 0).sum()),
        "gini": round(gini(sizes), 6),
        "by_channel": _by_channel(dedup),
    }
    if curve is not None:
        at = curve[curve["k"] == k].iloc[0]
        result["estimate"] = {name: int(at[name]) for name in ("probes", "right")}
        if at["probes"]:
            shares = {name: float(at[name]) for name in ("estimate", "low", "high")}
            result["estimate"] |= shares
    if truth is not None:
        result["purity"] = _purity(mined, truth)
    if planted is not None:
        result["planted"] = _planted(dedup, planted, scored, exclude_review)
    return result


def class_table(
    scores: Path | Sequence[Path],
    dedup: pd.DataFrame,
    mined: Path,
    *,
    classes: Sequence[str],
    exclude: Collection[str] = (),
    exclude_review: bool = True,
    min_conf: float = 0.0,
    probes: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A row a class, by label: name, candidates, selected, min_score, median_score, max_score.

    Scores (probabilities of the images taken) are missing where a class got none. ``probes`` of
    ``rank_probes`` adds probes (those that the list would hold) and right (of the class they are
    taken for).
    """
    barred = excluded_keys(dedup, exclude, exclude_review)
    with database() as base:
        taken = base.sql(
            "select label, count(*) as selected, min(score) as min_score, "  # noqa: S608
            "quantile_cont(score, 0.5) as median_score, max(score) as max_score, "
            f"max(rank) as deepest from read_parquet({quoted(mined)}) group by label"
        ).df()
    if len(taken) and int(taken["label"].max()) >= len(classes):
        raise DataError(
            f"the mined list has class {taken['label'].max()}, there are {len(classes)} classes"
        )
    k = int(taken["deepest"].max()) if len(taken) else 0
    table = taken.drop(columns="deepest").set_index("label").reindex(range(len(classes)))
    table["selected"] = table["selected"].fillna(0).astype("int64")
    table = table.round(dict.fromkeys(("min_score", "median_score", "max_score"), 6))
    counts = candidate_counts(scores, barred, min_conf=min_conf)
    table.insert(0, "name", list(classes))
    table.insert(1, "candidates", counts.reindex(table.index, fill_value=0))
    if probes is not None:
        held = probes[probes["rank"].between(1, k)]
        right = held[held["truth"] == held["label"]]
        for name, rows in (("probes", held), ("right", right)):
            table[name] = rows["label"].value_counts().reindex(table.index, fill_value=0)
    named: pd.DataFrame = table.rename_axis("label").reset_index()
    return named


def gini(sizes: np.ndarray[Any, Any]) -> float:
    """Gini coefficient of class sizes: 0 if all are equal, near 1 if one class has everything."""
    total = float(sizes.sum())
    if not total:
        return 0.0
    ordered = np.sort(sizes.astype(np.float64))
    places = np.arange(1, len(ordered) + 1)
    return float((2 * places - len(ordered) - 1) @ ordered / (len(ordered) * total))


def _checked(mined: Path, barred: pd.Series[str]) -> tuple[int, int]:
    """Length and depth of the mined list, which must hold no image twice and no excluded one."""
    with database() as base:
        base.register("barred", pd.DataFrame({"key": barred}))
        base.execute(f"create view mined as select * from read_parquet({quoted(mined)})")  # noqa: S608
        row = base.execute(
            "select count(*), coalesce(max(rank), 0), "
            "(select count(*) from mined semi join barred using (key)), "
            # Of millions of keys only those whose hashes meet are compared.
            "(select count(*) - count(distinct key) from mined where hash(key) in "
            "(select hash(key) from mined group by hash(key) having count(*) > 1)) from mined"
        ).fetchone()
    assert row is not None  # noqa: S101
    selected, k, forbidden, twice = map(int, row)
    if twice or forbidden:
        raise DataError("the mined list holds an image twice or one that was excluded: mine again")
    return selected, k


def _by_channel(dedup: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many images each channel had removed, left to a person, and kept after all."""
    return {
        str(channel): {
            decision: int((rows["decision"] == decision).sum())
            for decision in ("remove", "review", "keep")
        }
        for channel, rows in dedup.groupby("channel", observed=True)
    }


def _purity(mined: Path, truth: pd.DataFrame) -> dict[str, Any]:
    """Sums first: how many are known, distractors, right; then the two shares."""
    with database() as base:
        base.register("truth", truth[["key", "label"]].rename(columns={"label": "truth"}))
        known = base.sql(
            "select key, label, truth from truth join "  # noqa: S608
            f"(select key, label from read_parquet({quoted(mined)})) using (key)"
        ).df()
    found = known_purity(known)
    inside = found["known"] - found["distractors"]
    return {
        "known": found["known"],
        "distractors": found["distractors"],
        "right": found["known_right"],
        "distractor_share": found["distractors"] / found["known"] if found["known"] else 0.0,
        "accuracy": found["known_right"] / inside if inside else 0.0,
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
