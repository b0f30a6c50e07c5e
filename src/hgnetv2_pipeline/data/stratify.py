"""Shares of every class on every side where images belong to several classes.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML 2011): the rarest class is dealt out
first, each of its images to the side that lacks most of that class, and so on to the next rarest of
what is left. Here what is dealt out are groups of images that stay together, a plain image being a
group of one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
    return side_of[unit]
