"""What was mined: counts that add up, confidences by class, purity where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.mined_list import read_batches
from hgnetv2_pipeline.mining.purity import known_purity
from hgnetv2_pipeline.mining.score_shards import read_manifests

if TYPE_CHECKING:
    import pyarrow as pa

# Channels that are no question of likeness: the same file, the same name, a person's word.
_CERTAIN = ("bytes", "name", "person")


def audit(
    candidates: Candidates,
    mined: Path,
    *,
    table: pd.DataFrame,
    curve: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    planted: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Counts of a mining, JSON-able.

    pool_listed = scored + quarantined; scored = removed (exact_duplicates + near_removed +
    name_removed + person_removed) + review + excluded + candidates; candidates = selected +
    same_bytes (of a better image of the class) + below_min_conf + not_reached (beyond k). Where
    images in review are not left out they count as candidates. ``by_channel`` counts every pair by
    channel and decision.

    ``mined`` is the mined list as parquet; it is read by the column, never held whole; ``table``
    of ``count_classes`` gives short_classes (with fewer than k images), empty_classes and gini.
    ``curve`` of ``purity_curve`` adds ``estimate``, the purity at the list's k; ``truth`` (key,
    label; NA = belongs to no class) of hidden labels in the pool adds ``purity``; ``planted`` (key,
    kind) of known copies of protected images adds ``planted``: how many of each kind were removed,
    and how much of the rest was lost with them.

    Raises:
        DataError: the counts do not add up, or the list holds what it must not.
    """
    sizes = table["selected"].to_numpy()
    result = _account(candidates, mined, sizes)
    k = result["k"]
    result |= {
        "classes": len(table),
        "short_classes": int((sizes < k).sum()),
        "empty_classes": int((sizes == 0).sum()),
        "gini": round(gini(sizes), 6),
        "by_channel": _by_channel(candidates.dedup),
    }
    if curve is not None:
        result["estimate"] = _at_k(curve[curve["k"] == k].iloc[0])
    if truth is not None:
        result["purity"] = _purity(mined, truth)
    if planted is not None:
        result["planted"] = _planted(candidates, planted, result["scored"])
    return result


def _account(candidates: Candidates, mined: Path, sizes: NDArray[np.int64]) -> dict[str, Any]:
    """What became of every image of the pool; ``sizes`` are the classes' images on the list."""
    dedup = candidates.dedup
    manifests = list(read_manifests(candidates.scores).values())
    listed = sum(int(manifest["listed"]) for manifest in manifests)
    scored = sum(int(manifest["rows"]) for manifest in manifests)
    quarantined = sum(len(manifest["quarantined"]) for manifest in manifests)
    removed = dedup[dedup["decision"] == "remove"]
    by_channel = removed["channel"].value_counts()
    review = int((dedup["decision"] == "review").sum()) if candidates.exclude_review else 0
    others = set(candidates.exclude) - set(candidates.barred_by_pairs)
    left = scored - len(removed) - review - len(others)
    selected, k = _checked(mined, candidates.barred)
    if listed != scored + quarantined or not int(sizes.sum()) == selected <= left:
        raise DataError(
            f"the counts of the pool do not add up: {listed} listed, {scored} scored, "
            f"{quarantined} quarantined, {len(removed)} removed, {review} in review, "
            f"{len(others)} excluded, {selected} selected; scores, duplicates and list are of "
            "different runs: mine again"
        )
    distinct = int(replace(candidates, min_conf=0.0).counts().sum())
    sure = int(candidates.counts().sum()) if candidates.min_conf else distinct
    return {
        # Every image of the pool: chosen from, unreadable, or kept out by a rule or a person.
        "n_listed": listed,
        "n_used": left,
        "n_quarantined": quarantined,
        "n_refused": scored - left,
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
        "candidates": left,
        "same_bytes": left - distinct,
        "below_min_conf": distinct - sure,
        "not_reached": sure - selected,
        "selected": selected,
        "k": k,
    }


def _at_k(at: pd.Series[Any]) -> dict[str, Any]:
    """The row of a purity curve at the list's k: counts, and shares if it holds hidden images."""
    found: dict[str, Any] = {name: int(at[name]) for name in ("probes", "right")}
    if at["probes"]:
        found |= {name: float(at[name]) for name in ("estimate", "low", "high")}
    return found


def count_classes(
    candidates: Candidates,
    mined: Path,
    *,
    classes: Sequence[str],
    hidden: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per class, by label: name, candidates, selected, min_score, median_score, max_score.

    Scores (probabilities of the images taken) are missing where a class got none. ``hidden`` of
    ``rank_hidden_images`` adds probes (those that the list would hold) and right (of the class
    they are taken for).

    Raises:
        DataError: the list has a class that is not one of ``classes``.
    """
    taken, k = _scores_taken(mined)
    if len(taken) and int(taken.index.max()) >= len(classes):
        raise DataError(
            f"the mined list has class {taken.index.max()}, there are {len(classes)} classes"
        )
    table = taken.reindex(range(len(classes)))
    table["selected"] = table["selected"].fillna(0).astype("int64")
    table = table.round(dict.fromkeys(("min_score", "median_score", "max_score"), 6))
    table.insert(0, "name", list(classes))
    table.insert(1, "candidates", candidates.counts().reindex(table.index, fill_value=0))
    if hidden is not None:
        held = hidden[hidden["rank"].between(1, k)]
        right = held[held["truth"] == held["label"]]
        for name, rows in (("probes", held), ("right", right)):
            table[name] = rows["label"].value_counts().reindex(table.index, fill_value=0)
    named: pd.DataFrame = table.rename_axis("label").reset_index()
    return named


def _scores_taken(mined: Path) -> tuple[pd.DataFrame, int]:
    """By label: selected, min_score, median_score, max_score of a mined list; and its k."""
    parts, k = [], 0
    for batch in read_batches(mined, ["label", "score", "rank"]):
        parts.append((batch["label"].to_numpy().astype(np.int32), batch["score"].to_numpy()))
        k = max(k, int(batch["rank"].to_numpy().max()))
    empty = (np.zeros(0, np.int32), np.zeros(0, np.float32))
    label, score = map(np.concatenate, zip(empty, *parts, strict=True))
    order = np.lexsort((score, label))
    label, score = label[order], score[order]
    labels, first, count = np.unique(label, return_index=True, return_counts=True)
    # Of an even number the mean of the middle two.
    low, high = score[first + (count - 1) // 2], score[first + count // 2]
    taken = pd.DataFrame(
        {
            "selected": count,
            "min_score": score[first],
            "median_score": low + (high - low) / 2,
            "max_score": score[first + count - 1],
        },
        index=labels,
    )
    return taken, k


def gini(sizes: np.ndarray[Any, Any]) -> float:
    """Gini coefficient of class sizes: 0 if all are equal, near 1 if one class has everything."""
    total = float(sizes.sum())
    if not total:
        return 0.0
    ordered = np.sort(sizes.astype(np.float64))
    places = np.arange(1, len(ordered) + 1)
    return float((2 * places - len(ordered) - 1) @ ordered / (len(ordered) * total))


def _checked(mined: Path, barred: pd.Series[str]) -> tuple[int, int]:
    """Length and k of the mined list, which must hold no image twice and no excluded one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    forbidden = pa.array(barred, pa.large_string())
    k, bad, parts = 0, 0, [np.zeros(0, np.uint64)]
    for batch in read_batches(mined, ["key", "rank"]):
        k = max(k, int(batch["rank"].to_numpy().max()))
        bad += pc.sum(pc.is_in(batch["key"].cast(forbidden.type), value_set=forbidden)).as_py()
        parts.append(_hashes(batch["key"]))
    hashes = np.sort(np.concatenate(parts))
    alike = hashes[1:][hashes[1:] == hashes[:-1]]
    # Of millions of keys only those whose hashes meet are compared.
    suspected: list[str] = []
    for batch in read_batches(mined, ["key"]) if len(alike) else ():
        meets = pa.array(np.isin(_hashes(batch["key"]), alike))
        suspected += batch["key"].filter(meets).to_pylist()
    if bad or len(suspected) > len(set(suspected)):
        raise DataError("the mined list holds an image twice or one that was excluded: mine again")
    return len(hashes), k


def _hashes(keys: pa.StringArray) -> NDArray[np.uint64]:
    """64 bits of each key."""
    return pd.util.hash_array(keys.to_numpy(zero_copy_only=False), categorize=False)


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
    index = pd.Index(truth["key"])  # its hash table is made once, for all batches
    rows, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in read_batches(mined, ["key", "label"]):
        at = index.get_indexer(pd.Index(batch["key"].to_pandas()))
        rows.append(at[at >= 0])
        labels.append(batch["label"].to_numpy()[at >= 0])
    known = truth[["label"]].iloc[np.concatenate(rows)].rename(columns={"label": "truth"})
    found = known_purity(known.assign(label=np.concatenate(labels)))
    inside = found["known"] - found["distractors"]
    return {
        "known": found["known"],
        "distractors": found["distractors"],
        "right": found["known_right"],
        "distractor_share": found["distractors"] / found["known"] if found["known"] else 0.0,
        "accuracy": found["known_right"] / inside if inside else 0.0,
    }


def _planted(candidates: Candidates, planted: pd.DataFrame, scored: int) -> dict[str, Any]:
    decisions = candidates.dedup.set_index("key")["decision"]
    lost = candidates.barred_by_pairs
    kinds = {}
    for kind, keys in planted.groupby("kind")["key"]:
        fate = keys.map(decisions).fillna("keep")
        counts = {what: int((fate == what).sum()) for what in ("remove", "review", "keep")}
        kinds[str(kind)] = {"planted": len(keys)} | counts
    clean = scored - len(planted)
    clean_lost = int((~lost.isin(planted["key"])).sum())
    return {
        "kinds": kinds,
        "clean": clean,
        "clean_lost": clean_lost,
        "clean_lost_share": clean_lost / clean if clean else 0.0,
    }
