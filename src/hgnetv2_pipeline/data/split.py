"""Train, val and test from one frame of samples: stratified, and no leak between the sides.

Images that belong together stay on one side: those whose keys give the same group (a patient, a
video), exact copies, and near-duplicates by perceptual hash. The result depends on the seed and the
keys alone, not on the order of the rows or on the machine.
"""

from __future__ import annotations

import hashlib
import logging
import re

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.index import sorted_samples
from hgnetv2_pipeline.data.lists.multi_label import (
    images_per_class,
    is_multi_label,
    label_matrix,
    label_text,
)
from hgnetv2_pipeline.data.patterns import find_matches
from hgnetv2_pipeline.data.perceptual import connected_components, near_pairs
from hgnetv2_pipeline.data.stratify import quota, stratify
from hgnetv2_pipeline.errors import DataError, ParameterError

_log = logging.getLogger(__name__)

SIDES = ("train", "val", "test")


def split_samples(
    samples: pd.DataFrame,
    *,
    val: float,
    test: float,
    seed: int,
    group_pattern: str | None = None,
    groups: pd.Series | None = None,
    near_duplicates: pd.Series | None = None,
    max_distance: int = 4,
    classes: list[str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Split labelled samples.

    Args:
        val, test: shares from 0 to below 1, together below 1. A class that is large enough for all
            sides has at least one image on each.
        group_pattern: regular expression searched in each key, such as ``patient(\\d+)``; equal
            matches (of the capture groups, else of the whole) stay together, and a key without a
            match is a group of its own.
        groups: the group of each image by key (a column of a table of the user's); images of one
            group stay together, and a key that is not there is a group of its own.
        near_duplicates: uint64 perceptual hash by key (``Scan.phash``); hashes that differ in at
            most ``max_distance`` bits stay together, chains of them too. None: only exact copies.
        classes: class names, for messages.

    Returns:
        Frames ``train``, ``val``, ``test`` (empty where the share is 0), each sorted by key. Class
        shares are met within one image where groups allow.

    Raises:
        ParameterError: shares or pattern make no sense.
        DataError: an image without label; a class with a single image.
    """
    _check_shares(val, test)
    ordered = sorted_samples(samples)
    if len(ordered) == 0:
        raise DataError("nothing to split: 0 samples")
    several = is_multi_label(ordered)
    if not several and ordered["label"].isna().any():
        key = ordered["key"][ordered["label"].isna()].iloc[0]
        raise DataError(f"{key!r} has no label; only labelled images can be split")
    if val == 0 and test == 0:
        sides = np.zeros(len(ordered), np.int64)
    else:
        if not several:
            _check_counts(ordered["label"].to_numpy(np.int64), classes)
        together = _groups(ordered, group_pattern, groups, near_duplicates, max_distance)
        _report_large(ordered["key"], together)
        ranks = _ranks(ordered["key"], seed)
        shares = np.array([1 - val - test, val, test])
        if several:
            sides = stratify(label_matrix(ordered), together, ranks, shares)
        else:
            sides = _assign(ordered["label"].to_numpy(np.int64), together, ranks, shares)
        _report_uneven(ordered, sides, val, test, classes)
    return {name: ordered[sides == side].reset_index(drop=True) for side, name in enumerate(SIDES)}


def conflicting_copies(samples: pd.DataFrame) -> pd.DataFrame:
    """Images with the same bytes and different labels: columns bytes_sha256, key, label (of several
    labels as text, ``0,3``).
    """
    said = samples[["bytes_sha256", "key"]].assign(label=label_text(samples))
    kinds = said.groupby("bytes_sha256")["label"].nunique()
    bad = said[said["bytes_sha256"].isin(kinds.index[kinds > 1])]
    return bad.sort_values(["bytes_sha256", "key"], ignore_index=True)


def _check_shares(val: float, test: float) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ParameterError(
            f"shares val {val} and test {test}: each from 0 to below 1, together below 1 "
            "(data.split.val, data.split.test)"
        )


def _check_counts(labels: npt.NDArray[np.int64], classes: list[str] | None) -> None:
    counts = np.bincount(labels)
    single = np.flatnonzero(counts == 1)
    if len(single):
        raise DataError(
            f"class {_name(single[0], classes)} has one image and cannot be split "
            f"({len(single)} such classes); add images, remove the class, or set "
            "data.min_per_class: 2 to leave such classes out"
        )


def _name(label: int, classes: list[str] | None) -> str:
    return repr(classes[label]) if classes is not None else str(label)


def _groups(
    ordered: pd.DataFrame,
    pattern: str | None,
    named: pd.Series | None,
    phash: pd.Series | None,
    max_distance: int,
) -> npt.NDArray[np.int64]:
    """int64 [N]: the same number for images that must stay together."""
    n = len(ordered)
    first: list[npt.NDArray[np.int64]] = []
    second: list[npt.NDArray[np.int64]] = []

    def tie(values: pd.Series) -> None:
        """Tie each row to the first row of the same value (one without is its own group)."""
        codes = pd.factorize(values)[0]
        rows = np.flatnonzero(codes >= 0)
        lead = np.full(codes.max(initial=-1) + 1, n, np.int64)
        np.minimum.at(lead, codes[rows], rows)
        first.append(lead[codes[rows]])
        second.append(rows)

    if pattern is not None:
        tie(_matches(ordered["key"], pattern))
    if named is not None:
        tie(ordered["key"].map(named))
    if (ordered["bytes_sha256"] != "").all():
        tie(ordered["bytes_sha256"])
        conflicts = conflicting_copies(ordered)
        if len(conflicts):
            some = ", ".join(conflicts["key"].head(4))
            _log.warning(
                "%d images have an exact copy under another label (%s%s); correct the labels",
                len(conflicts),
                some,
                " ..." if len(conflicts) > 4 else "",
            )
    if phash is not None:
        hashes = ordered["key"].map(phash)
        if hashes.isna().any():
            key = ordered["key"][hashes.isna()].iloc[0]
            raise ParameterError(f"near_duplicates has no hash for {key!r}; scan with phash=True")
        codes, lead = np.unique(ordered["key"].map(phash).to_numpy(np.uint64), return_inverse=True)
        tie(pd.Series(lead))
        a, b = near_pairs(codes, max_distance)
        representative = np.zeros(len(codes), np.int64)
        representative[lead[::-1]] = np.arange(n)[::-1]
        first.append(representative[a])
        second.append(representative[b])
    if not first:
        return np.arange(n, dtype=np.int64)
    return connected_components(n, np.concatenate(first), np.concatenate(second))


def _matches(keys: pd.Series, pattern: str) -> pd.Series:
    setting = "data.split.group_pattern"

    def group(found: re.Match[str] | None) -> str | None:
        if found is None:
            return None
        return "\0".join(part or "" for part in found.groups()) if found.re.groups else found[0]

    values = pd.Series(map(group, find_matches(pattern, list(keys), setting)), dtype="object")
    if values.isna().all():
        raise ParameterError(f"{setting}: {pattern!r} matches no key, such as {keys.iloc[0]!r}")
    return values


def _ranks(keys: pd.Series, seed: int) -> npt.NDArray[np.int64]:
    """int64 [N]: a random order that depends on each key and the seed alone."""
    hashed = [hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest() for key in keys]
    words = np.frombuffer(b"".join(hashed), ">u8")
    ranks = np.empty(len(words), np.int64)
    ranks[np.argsort(words, kind="stable")] = np.arange(len(words))
    return ranks


def _assign(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """int64 [N]: the side of each image. Large groups first, single images fill up exactly."""
    counts = np.bincount(labels)
    targets = np.stack([quota(int(count), shares) for count in counts], axis=1)  # [side, class]
    filled = np.zeros_like(targets)
    sides = np.full(len(labels), -1, np.int64)

    order = np.lexsort((ranks, groups))
    bounds = np.flatnonzero(np.diff(groups[order], prepend=-1, append=-1))
    members = [order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    several = sorted(
        (group for group in members if len(group) > 1), key=lambda g: (-len(g), ranks[g[0]])
    )
    for group in several:
        present, number = np.unique(labels[group], return_counts=True)
        room = targets[:, present] - filled[:, present]
        # How much the squared distance from the targets, relative to the class size, grows.
        cost = (number * (number - 2.0 * room) / counts[present]).sum(axis=1)
        cost[shares == 0] = np.inf
        side = int(np.argmin(np.round(cost, 9)))
        sides[group] = side
        filled[side, present] += number

    alone = np.flatnonzero(sides < 0)
    alone = alone[np.lexsort((ranks[alone], labels[alone]))]
    for rows in np.split(alone, np.flatnonzero(np.diff(labels[alone])) + 1):
        if len(rows):
            label = labels[rows[0]]
            need = np.maximum(targets[:, label] - filled[:, label], 0)
            test = min(int(need[2]), len(rows))
            val = min(int(need[1]), len(rows) - test)
            sides[rows[:test]] = 2
            sides[rows[test : test + val]] = 1
            sides[rows[test + val :]] = 0
    _exchange(labels, groups, ranks, sides, targets)
    return sides


def _exchange(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
    sides: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
) -> None:
    """Exchange groups of one class between the sides, in place, while shares come nearer.

    Large groups first can leave a class where no single image is left to fill a side up. Then up to
    two groups of one side are given for up to two of another. Groups of several classes stay.
    """
    filled = np.zeros_like(targets)
    np.add.at(filled, (sides, labels), 1)
    uneven = np.flatnonzero((filled != targets).any(axis=0))
    if not len(uneven):
        return
    order = np.lexsort((ranks, groups))
    bounds = np.flatnonzero(np.diff(groups[order], prepend=-1, append=-1))
    members = [order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    of_class: dict[int, list[npt.NDArray[np.int64]]] = {int(label): [] for label in uneven}
    for group in members:
        label = int(labels[group[0]])
        if label in of_class and (labels[group] == label).all():
            of_class[label].append(group)
    for label, own in of_class.items():
        own.sort(key=lambda group: int(ranks[group[0]]))
        while found := _best_exchange(own, sides, targets[:, label], filled[:, label]):
            for group, side in found:
                filled[sides[group[0]], label] -= len(group)
                filled[side, label] += len(group)
                sides[group] = side


def _best_exchange(
    groups: list[npt.NDArray[np.int64]],
    sides: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    filled: npt.NDArray[np.int64],
) -> list[tuple[npt.NDArray[np.int64], int]]:
    """The groups of one class to move, each with its new side; empty if nothing comes nearer."""
    off = filled - target
    used = [side for side in range(len(SIDES)) if target[side] or filled[side]]
    # Two of a size are as good as any two, and only how much changes sides matters.
    bundles: list[dict[int, list[npt.NDArray[np.int64]]]] = []
    for side in range(len(SIDES)):
        sample: dict[int, list[npt.NDArray[np.int64]]] = {}
        for group in groups:
            if sides[group[0]] == side and len(sample.setdefault(len(group), [])) < 2:
                sample[len(group)].append(group)
        few = [group for same in sample.values() for group in same]
        choices: dict[int, list[npt.NDArray[np.int64]]] = {0: []}
        for n, one in enumerate(few):
            for bundle in ([one], *([one, other] for other in few[n + 1 :])):
                choices.setdefault(sum(map(len, bundle)), bundle)
        bundles.append(choices)
    best: list[tuple[npt.NDArray[np.int64], int]] = []
    gain = 0
    for a, b in ((a, b) for a in used for b in used if a != b):
        for out, given in bundles[a].items():
            for back, taken in bundles[b].items():
                net = out - back
                gained = off[a] ** 2 + off[b] ** 2 - (off[a] - net) ** 2 - (off[b] + net) ** 2
                # A side that has images keeps one.
                if gained > gain and min(filled[a] - net, filled[b] + net) > 0:
                    gain = gained
                    best = [(group, b) for group in given] + [(group, a) for group in taken]
    return best


def _report_large(keys: pd.Series, groups: npt.NDArray[np.int64]) -> None:
    """Say so if one group holds a tenth of the images: a split around it is hardly a random one."""
    names, sizes = np.unique(groups, return_counts=True)
    largest = int(sizes.argmax())
    if sizes[largest] > max(10, len(groups) // 10):
        _log.warning(
            "%d of %d images stay on one side as one group, %s among them; if they are not that "
            "alike, lower the distance of near-duplicates (data.split) or narrow the group pattern",
            sizes[largest],
            len(groups),
            keys.iloc[int(np.flatnonzero(groups == names[largest])[0])],
        )


def _report_uneven(
    samples: pd.DataFrame,
    sides: npt.NDArray[np.int64],
    val: float,
    test: float,
    classes: list[str] | None,
) -> None:
    """Say which classes a side lacks because their groups cannot be taken apart."""
    number = len(classes or ())
    present = images_per_class(samples, number) > 0
    for side, share in ((0, 1.0), (1, val), (2, test)):
        here = images_per_class(samples[sides == side], len(present))
        absent = np.flatnonzero(present & (here == 0))
        if share and len(absent):
            _log.warning(
                "%s has no image of %d classes (first %s): their images are too few, or stay "
                "together as groups or near-duplicates",
                SIDES[side],
                len(absent),
                _name(absent[0], classes),
            )
