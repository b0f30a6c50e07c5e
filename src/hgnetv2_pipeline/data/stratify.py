"""Shares of every class on every side where images belong to several classes.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML 2011): the rarest class is dealt out
first, each of its images to the side that lacks most of that class, and so on to the next rarest of
what is left. Here what is dealt out are groups of images that stay together, a plain image being a
group of one. Where a frequent class is then far from its shares, because its images had gone with
the rarer classes that they also show, groups are moved until it is not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FAR = 0.02
"""The share of a class's images by which a side may miss what it should have, beside two images."""


def quota(count: int, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many of ``count`` images go to train, val and test; each side gets one if possible."""
    val, test = (round(count * share) for share in shares[1:])
    wanted = [int(share > 0) for share in shares[1:]]
    if count > sum(wanted):
        val, test = max(val, wanted[0]), max(test, wanted[1])
    elif count == 2:
        val, test = (1, 0) if wanted[0] else (0, 1)
    while val + test >= count > 0:
        val, test = (val - 1, test) if val >= test else (val, test - 1)
    return np.array([count - val - test, val, test], np.int64)


def stratify(
    labels: npt.NDArray[np.uint8],
    groups: npt.NDArray[np.int64],
    ranks: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """int64 [N]: the side of each image, 0 train, 1 val, 2 test.

    Args:
        labels: [N, classes] of 0 and 1.
        groups: [N], equal for images that stay together.
        ranks: [N], a random order of the images; it settles which of equal ones goes where.
        shares: of train, val and test.
    """
    _, first, unit = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(unit)
    images = np.zeros((len(first), labels.shape[1]), np.int64)  # [group, class]
    np.add.at(images, unit, labels)
    lead = np.full(len(first), len(ranks), np.int64)
    np.minimum.at(lead, unit, ranks)
    # Large groups first: single images fill up what they leave.
    order = np.lexsort((lead, -sizes))

    used = shares > 0
    room = np.stack([quota(int(n), shares) for n in images.sum(axis=0)], axis=1).astype(float)
    total = quota(len(labels), shares).astype(float)
    side_of = np.full(len(first), -1, np.int64)
    waiting = (images > 0).sum(axis=0)  # groups of each class that are still to be dealt out

    def deal(group: int, wish: npt.NDArray[np.float64]) -> None:
        """Give ``group`` to the side with the greatest wish; of equal ones to the emptiest."""
        best = np.flatnonzero(used & (wish == wish[used].max()))
        side = int(best[np.argmax(total[best])])
        side_of[group] = side
        own = images[group]
        room[side] -= own
        total[side] -= sizes[group]
        waiting[own > 0] -= 1

    while waiting.any():
        rarest = int(np.argmin(np.where(waiting > 0, waiting, waiting.max() + 1)))
        members = order[(images[order, rarest] > 0) & (side_of[order] < 0)]
        for group in members.tolist():
            deal(group, room[:, rarest])
    for group in order[side_of[order] < 0].tolist():
        deal(group, total)
    counts = np.column_stack([images, sizes])[order]
    lacking = np.column_stack([room, total])
    side_of[order] = _move_what_helps(side_of[order], counts, lacking, np.flatnonzero(used))
    return side_of[unit]


def _move_what_helps(
    side_of: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    lacking: npt.NDArray[np.float64],
    sides: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """``side_of``, [groups], after moves that each help most, made while a class is far off.

    Args:
        counts: [group, classes + 1], its images of each class, and in all.
        lacking: [side, classes + 1], what each side lacks of them; changed in place.
        sides: that there are.
    """
    side_of = side_of.copy()
    squares = (counts**2).sum(axis=1)
    far = 2 + _FAR * counts.sum(axis=0)
    while (np.abs(lacking) > far).any():
        held = np.stack([counts[side_of == side].sum(axis=0) for side in range(len(lacking))])
        last = ((counts > 0) & (counts == held[side_of])).any(axis=1)  # of a class on its side
        # By how much a move lessens half the sum of squares of what is lacking.
        gains = np.stack([((lacking[to] - lacking[side_of]) * counts).sum(axis=1) for to in sides])
        gains -= squares
        gains[(sides[:, None] == side_of) | last] = -np.inf
        to, group = np.unravel_index(np.argmax(gains), gains.shape)
        if gains[to, group] <= 0:
            break
        lacking[side_of[group]] += counts[group]
        lacking[sides[to]] -= counts[group]
        side_of[group] = sides[to]
    return side_of
