"""Images that are in two sets, byte for byte or nearly, and sets without them.

A leak is always charged to the set that is trained or chosen with: of train and val the image in
train leaks, of val and test the one in val. The pool is mining's, which keeps clear of both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.lists.multi_label import images_per_class
from hgnetv2_pipeline.data.perceptual import near_pairs
from hgnetv2_pipeline.data.quarantine import quarantine_frame
from hgnetv2_pipeline.data.split import conflicting_copies
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)

NEAR = 4
"""Bits of 64 in which the hashes of two images may differ that count as the same picture."""
_ORDER = ("train", "val", "test")
_SHOWN = 20


def find_leaks(
    sets: Mapping[str, pd.DataFrame], phash: pd.Series | None, max_distance: int = NEAR
) -> pd.DataFrame:
    """Images of train and val that are, at least nearly, in val or test.

    Args:
        sets: frames of samples by name; train, val and test are compared.
        phash: uint64 perceptual hash by key, of all of them; None: only the same bytes count.
        max_distance: bits in which the hashes may differ.

    Returns:
        A row for each image and set it leaks into, with its nearest image there: columns set, key,
        other_set, other_key, distance (bits), same_bytes.

    Raises:
        DataError: one file is listed in two sets.
    """
    for name, other in combinations([name for name in _ORDER if name in sets], 2):
        both = sorted(set(sets[name]["key"]) & set(sets[other]["key"]))
        if both:
            raise DataError(
                f"{both[0]!r} is listed in {name} and in {other} ({len(both):,} such images); an "
                "image belongs to one set, take it out of one list"
            )
    found = []
    given = [name for name in _ORDER if name in sets]
    for name, other in combinations(given, 2):
        less, more = sets[name], sets[other]
        nearest = np.full(len(less), -1, np.int64)
        distance = np.zeros(len(less), np.int64)
        if phash is not None and len(less) and len(more):
            nearest, distance = _nearest(
                phash[less["key"]].to_numpy(np.uint64),
                phash[more["key"]].to_numpy(np.uint64),
                max_distance,
            )
        digests = more[["bytes_sha256"]].reset_index(drop=True).drop_duplicates()
        digests = digests[digests["bytes_sha256"] != ""]
        rows = pd.Series(digests.index, index=digests["bytes_sha256"])
        exact = less["bytes_sha256"].map(rows).fillna(-1).to_numpy(np.int64)
        same = exact >= 0
        nearest = np.where(same, exact, nearest)
        leaking = np.flatnonzero(nearest >= 0)
        found.append(
            pd.DataFrame(
                {
                    "set": name,
                    "key": less["key"].to_numpy()[leaking],
                    "other_set": other,
                    "other_key": more["key"].to_numpy()[nearest[leaking]],
                    "distance": np.where(same, 0, distance)[leaking],
                    "same_bytes": same[leaking],
                }
            )
        )
    if not found:
        columns = ["set", "key", "other_set", "other_key", "distance", "same_bytes"]
        return pd.DataFrame({name: [] for name in columns})
    return pd.concat(found, ignore_index=True)


def _nearest(
    less: npt.NDArray[np.uint64], more: npt.NDArray[np.uint64], max_distance: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each hash of ``less`` the row of the nearest in ``more`` (or -1), and its distance."""
    own, inverse = np.unique(less, return_inverse=True)
    others, rows = np.unique(more, return_index=True)
    # Each hash once on either side: thousands of flat images with one hash are one comparison.
    both = np.concatenate([own, others])
    a, b = near_pairs(both, max_distance)
    across = (a < len(own)) & (b >= len(own))
    a, b = a[across], b[across]
    apart = np.bitwise_count(both[a] ^ both[b]).astype(np.int64)
    order = np.lexsort((b, apart, a))
    a, b, apart = a[order], b[order], apart[order]
    first = np.unique(a, return_index=True)[1]
    nearest = np.full(len(own), -1, np.int64)
    distance = np.zeros(len(own), np.int64)
    nearest[a[first]], distance[a[first]] = rows[b[first] - len(own)], apart[first]
    return nearest[inverse], distance[inverse]


def report_leaks(leaks: pd.DataFrame, *, refuse: bool) -> None:
    """Warn of what ``find_leaks`` found; with ``refuse`` raise where it has the same bytes.

    Near copies are never refused: whether two images that look alike are one picture is for the
    user to see, and needs the page that ingestion makes.

    Raises:
        DataError: ``refuse``, and an image is byte for byte in two sets.
    """
    if not len(leaks):
        return
    ordered = leaks.sort_values(["same_bytes", "distance"], ascending=[False, True], kind="stable")
    same = leaks["key"][leaks["same_bytes"]].nunique()
    near = leaks["key"].nunique() - same
    refused = refuse and same > 0
    for row in ordered.head(_SHOWN if refused else 1).itertuples(index=False):
        how = (
            "has the same bytes as"
            if row.same_bytes
            else f"looks like (hashes {row.distance} of 64 bits apart)"
        )
        _log.warning("%s of %s %s %s of %s", row.key, row.set, how, row.other_key, row.other_set)
    count = f"images of train or val that are in val or test too: {same:,} with the same bytes"
    if not same:
        count = "no image of train or val has the same bytes as one of val or test"
    if refused:
        first = ordered.iloc[0]
        raise DataError(
            f"{count}, first {first.key} of {first['set']} as {first.other_key} of "
            f"{first.other_set} ({near:,} more look alike): figures measured there would be too "
            "good; remove them, or set data.leaks: clean to leave them out, report to keep them"
        )
    _log.warning(
        "%s; %s look like one there, as different pictures can; all are in leaks.csv and "
        "dataset_report.html, and data.leaks: clean leaves them out", count, f"{near:,}",
    )  # fmt: skip


def clean_sets(
    sets: Mapping[str, pd.DataFrame], leaks: pd.DataFrame, classes: list[str]
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Train, val and test without copies, contradictions and leaks; other sets stay as they are.

    Of images with the same bytes in one set the first by key stays, and none if their labels
    differ. Leaking images leave the set that ``find_leaks`` charges.

    Returns:
        The sets, and what was left out: columns key, reason, line.

    Raises:
        DataError: a class has no image in train any more.
    """
    cleaned = dict(sets)
    reasons: dict[str, str] = {}
    for name in (name for name in _ORDER if name in sets):
        frame = sets[name]
        known = frame[frame["bytes_sha256"] != ""]
        for key in conflicting_copies(known)["key"]:
            reasons[key] = "has the same bytes as an image under another label (data.leaks: clean)"
        firsts = known.groupby("bytes_sha256")["key"].transform("first")
        again = known["key"] != firsts
        for key, first in zip(known["key"][again], firsts[again], strict=True):
            reasons.setdefault(key, f"has the same bytes as {first} (data.leaks: clean)")
    for row in leaks.itertuples(index=False):
        kind = "has the same bytes as" if row.same_bytes else "looks like"
        why = f"{kind} {row.other_key} of {row.other_set} (data.leaks: clean)"
        reasons.setdefault(str(row.key), why)
    for name in (name for name in _ORDER if name in sets):
        frame = sets[name]
        cleaned[name] = frame[~frame["key"].isin(list(reasons))].reset_index(drop=True)
    before, left = (images_per_class(known["train"], len(classes)) for known in (sets, cleaned))
    lost = np.flatnonzero((before > 0) & (left == 0))
    if len(lost):
        raise DataError(
            f"class {classes[lost[0]]!r} has no image in train once copies and leaks are left out "
            f"({len(lost)} such classes); add images, or set data.leaks: report"
        )
    return cleaned, quarantine_frame([(key, why, None) for key, why in sorted(reasons.items())])
