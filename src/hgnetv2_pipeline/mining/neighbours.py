"""Nearest protected pictures by hash: the small side is the index, the pool streams past it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# One block of distances stays inside the processor's cache: 16 x 8,192 x 8 bytes = 1 MiB.
_QUERIES, _ENTRIES = 16, 8192


def hamming(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Number of differing bits, element by element (broadcasting), as uint8."""
    return np.asarray(np.bitwise_count(np.bitwise_xor(first, second)))


@dataclass(frozen=True)
class Matches:
    """Pairs within reach: row of the query, picture and view it met, and their distance.

    Sorted by (query, distance, picture); each (query, picture) appears once, with its best view.
    """

    query: NDArray[np.int64]
    picture: NDArray[np.int64]
    view: NDArray[np.int64]
    distance: NDArray[np.uint8]


class HashIndex:
    """Hashes of ``n`` pictures under ``v`` views, uint64 [n, v]; 8 bytes each is all it holds.

    The search is exhaustive: an XOR and a bit count for every pair, about 1e9 pairs a second on
    one core, which is more than a library's flat binary index reaches.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        assert hashes.ndim == 2  # noqa: S101
        self._flat = np.ascontiguousarray(hashes.ravel(), dtype=np.uint64)
        self._views = hashes.shape[1]

    def search(self, queries: NDArray[np.uint64], reach: int, most: int = 5) -> Matches:
        """The nearest ``most`` pictures with Hamming distance <= ``reach`` of every query."""
        found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]] = []
        # Written into again and again: fresh arrays would cost more than the comparison.
        bits = np.empty((_QUERIES, _ENTRIES), dtype=np.uint64)
        apart = np.empty((_QUERIES, _ENTRIES), dtype=np.uint8)
        for first in range(0, len(queries), _QUERIES):
            block = queries[first : first + _QUERIES, None]
            hits = []
            for start in range(0, len(self._flat), _ENTRIES):
                entries = self._flat[None, start : start + _ENTRIES]
                here = (slice(len(block)), slice(entries.shape[1]))
                np.bitwise_xor(block, entries, out=bits[here])
                distance = np.bitwise_count(bits[here], out=apart[here])
                if distance.min() <= reach:
                    row, entry = np.nonzero(distance <= reach)
                    hits.append((row + first, entry + start, distance[row, entry]))
            if hits:
                found.append(self._nearest(hits, most))
        if not found:
            none = np.empty(0, dtype=np.int64)
            return Matches(none, none, none, np.empty(0, dtype=np.uint8))
        query, entry, distance = (np.concatenate(column) for column in zip(*found, strict=True))
        return Matches(query, entry // self._views, entry % self._views, distance)

    def _nearest(
        self, hits: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Of all hits: the best view of each picture, then the ``most`` best pictures a query."""
        query, entry, distance = (np.concatenate(column) for column in zip(*hits, strict=True))
        picture = entry // self._views
        order = np.lexsort((entry, distance, picture, query))
        query, entry, distance, picture = (a[order] for a in (query, entry, distance, picture))
        best = np.ones(len(query), dtype=bool)
        best[1:] = (query[1:] != query[:-1]) | (picture[1:] != picture[:-1])
        query, entry, distance, picture = (a[best] for a in (query, entry, distance, picture))
        order = np.lexsort((picture, distance, query))
        query, entry, distance = query[order], entry[order], distance[order]
        starts = np.searchsorted(query, query, side="left")
        kept = np.arange(len(query)) - starts < most
        return query[kept], entry[kept], distance[kept]
