"""The order in which images are mined: class, then score descending, then key.

Class, score and place in the order of keys fit into one 64-bit number, so that one plain sort
gives the total order and a class is a stretch of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.duplicates.neighbours import hamming
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

_SCORE_BITS = 20
_LOWEST = (1 << _SCORE_BITS) - 1  # above the highest score, 1e6 millionths
_STRETCH = 1 << 20


@dataclass(frozen=True)
class Picks:
    """Images with the class they are taken for: place in the pool, millionths, rank from 1."""

    place: NDArray[np.int64]
    label: NDArray[np.int32]
    score_q: NDArray[np.uint32]
    rank: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.place)

    def taken(self, where: NDArray[Any]) -> Picks:
        """Some of them, or all in another order."""
        return Picks(self.place[where], self.label[where], self.score_q[where], self.rank[where])

    @staticmethod
    def joined(parts: list[Picks]) -> Picks:
        """Several as one, by class and rank."""
        fields = ("place", "label", "score_q", "rank")
        whole = Picks(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))
        return whole if len(parts) == 1 else whole.taken(np.lexsort((whole.rank, whole.label)))


class Order:
    """The free images of a pool in the order of mining.

    Args:
        labels, score_q: each image's class and probability in millionths [N].
        free: which may be taken [N].
    """

    def __init__(
        self,
        labels: NDArray[np.int32],
        score_q: NDArray[np.uint32],
        free: NDArray[np.bool_],
        num_classes: int,
    ) -> None:
        self._bits = max(1, (len(labels) - 1).bit_length())
        if num_classes.bit_length() + _SCORE_BITS + self._bits > 64:
            raise DataError(
                f"{len(labels):,} images and {num_classes:,} classes are more than one mining can "
                "order: mine parts of the pool"
            )
        self._packed = np.empty(int(np.count_nonzero(free)), dtype=np.uint64)
        at = 0
        for first in range(0, len(labels), _STRETCH):
            here = first + np.flatnonzero(free[first : first + _STRETCH])
            high = (labels[here].astype(np.uint64) << _SCORE_BITS) | (
                _LOWEST - score_q[here].astype(np.uint64)
            )
            self._packed[at : at + len(here)] = (high << self._bits) | here.astype(np.uint64)
            at += len(here)
        self._packed.sort()
        starts = np.arange(num_classes + 1, dtype=np.uint64) << (_SCORE_BITS + self._bits)
        self._bounds = np.searchsorted(self._packed, starts)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many free images each class has."""
        return np.diff(self._bounds)

    def first(self, room: NDArray[np.int64], have: NDArray[np.int64]) -> Picks:
        """The first ``room[class]`` of every class, ranked after the ``have[class]`` it has."""
        count = np.minimum(self.sizes, np.maximum(room, 0))
        total = int(count.sum())
        picks = Picks(
            np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.uint32),
            np.empty(total, np.int32),
        )  # fmt: skip
        at = 0
        # A class at a time: whole columns of intermediate numbers would double the memory.
        for label in np.flatnonzero(count):
            low, n = self._bounds[label], count[label]
            here = slice(at, at + n)
            part = self._picks(np.arange(low, low + n), have[label] + 1 + np.arange(n))
            for name in ("place", "label", "score_q", "rank"):
                getattr(picks, name)[here] = getattr(part, name)
            at += n
        return picks

    def first_apart(
        self, room: NDArray[np.int64], before: Picks | None, phash: NDArray[np.uint64], apart: int
    ) -> Picks:
        """As ``first``, but each more than ``apart`` bits from all taken for its class so far."""
        rows, ranks = [], []
        held_by = _by_class(before, phash)
        for label in np.flatnonzero((self.sizes > 0) & (room > 0)):
            low, high = self._bounds[label], self._bounds[label + 1]
            held = held_by.get(int(label), np.zeros(0, np.uint64))
            kept = _apart(phash[self._places(slice(low, high))], held, int(room[label]), apart)
            rows.append(low + kept)
            ranks.append(len(held) + 1 + np.arange(len(kept)))
        empty = [np.zeros(0, np.int64)]
        return self._picks(np.concatenate(rows or empty), np.concatenate(ranks or empty))

    def ranks_of(self, asked: NDArray[np.bool_]) -> Picks:
        """The places of the images in the mask."""
        rows = np.flatnonzero(asked[self._places(slice(None))])
        return self.rows(rows)

    def rows(self, some: NDArray[np.int64] | slice) -> Picks:
        """Some rows of the order, with their ranks in it."""
        rows = np.arange(*some.indices(len(self))) if isinstance(some, slice) else some
        picks = self._picks(rows, np.zeros(len(rows), np.int64))
        rank = rows - self._bounds[picks.label] + 1
        return Picks(picks.place, picks.label, picks.score_q, rank.astype(np.int32))

    def _places(self, rows: slice) -> NDArray[np.int64]:
        return (self._packed[rows] & np.uint64((1 << self._bits) - 1)).astype(np.int64)

    def _picks(self, rows: NDArray[np.int64], rank: NDArray[np.int64]) -> Picks:
        chosen = self._packed[rows]
        place = (chosen & np.uint64((1 << self._bits) - 1)).astype(np.int64)
        high = chosen >> np.uint64(self._bits)
        return Picks(
            place=place,
            label=(high >> np.uint64(_SCORE_BITS)).astype(np.int32),
            score_q=(_LOWEST - (high & np.uint64(_LOWEST))).astype(np.uint32),
            rank=rank.astype(np.int32),
        )


def look_alikes(pool: ScoredPool, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which free images have the hash of another one's picture; all with the same bytes do."""
    import pyarrow as pa
    import pyarrow.compute as pc

    phash = pool.numbers("phash64")
    known = phash[free]
    known.sort()
    twice = pc.unique(pa.array(known[1:][known[1:] == known[:-1]]))
    del known
    found: NDArray[np.bool_] = pc.is_in(pa.array(phash), value_set=twice).to_numpy(
        zero_copy_only=False
    )
    return found & free


def repeats(
    pool: ScoredPool,
    labels: NDArray[np.int32],
    score_q: NDArray[np.uint32],
    suspected: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Places of suspected images with the bytes of a better-placed one of their class."""
    places, content = np.flatnonzero(suspected), pool.contents(suspected)
    ordered = np.lexsort((places, -score_q[places].astype(np.int64), content, labels[places]))
    places, content = places[ordered], content[ordered]
    again = (content[1:] == content[:-1]) & (labels[places[1:]] == labels[places[:-1]])
    worse: NDArray[np.int64] = places[1:][again]
    return worse


def _by_class(picks: Picks | None, phash: NDArray[np.uint64]) -> dict[int, NDArray[np.uint64]]:
    """The hashes of picks that are sorted by class."""
    if picks is None:
        return {}
    labels, first = np.unique(picks.label, return_index=True)
    parts = np.split(phash[picks.place], first[1:])
    return {int(label): part for label, part in zip(labels, parts, strict=True)}


def _apart(
    hashes: NDArray[np.uint64], held: NDArray[np.uint64], room: int, apart: int
) -> NDArray[np.int64]:
    """Which of ``hashes``, in order and up to ``room``, are far from those held and each other."""
    kept: list[int] = []
    all_held = np.concatenate([held, np.zeros(room, np.uint64)])
    count = len(held)
    for row, value in enumerate(hashes):
        if len(kept) == room:
            break
        near = hamming(all_held[:count], value)
        if not len(near) or near.min() > apart:
            all_held[count] = value
            count += 1
            kept.append(row)
    return np.array(kept, dtype=np.int64)
