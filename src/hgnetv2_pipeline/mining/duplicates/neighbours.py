"""Nearest protected pictures by hash: the small side is the index, the pool streams past it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

# One block of distances stays inside the processor's cache: 16 x 8,192 x 8 bytes = 1 MiB.
_QUERIES, _ENTRIES = 16, 8192
_FAISS_QUERIES = 256

_Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def hamming(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Number of differing bits, element by element (broadcasting), as uint8."""
    return np.asarray(np.bitwise_count(np.bitwise_xor(first, second)))


def expected_by_chance(pool: int, entries: int, distance: int) -> float:
    """How many of ``pool`` unlike images meet one of ``entries`` hashes within ``distance`` bits.

    For ideal hashes, whose bits are independent; real ones meet more often. A 64-bit pHash has 63
    free bits, as half of them are above the median.
    """
    one = sum(math.comb(63, bits) for bits in range(distance + 1)) / 2**63
    return pool * -math.expm1(entries * math.log1p(-one)) if one < 1 else float(pool)


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
    """Hashes of the views of the protected pictures, uint64 [pictures, views], held in memory.

    Searched by faiss where it is installed, else by NumPy: the same answers, bit for bit. Both are
    exhaustive.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        assert hashes.ndim == 2  # noqa: S101
        self._flat = np.ascontiguousarray(hashes.ravel(), dtype=np.uint64)
        self._views = hashes.shape[1]
        self._faiss = _faiss()

    def search(self, queries: NDArray[np.uint64], reach: int, most: int = 5) -> Matches:
        """The nearest ``most`` pictures with Hamming distance <= ``reach`` of every query."""
        within = self._within_faiss if self._faiss else self._within
        found = [self._nearest(hits, most) for hits in within(queries, reach)]
        if not found:
            none = np.empty(0, dtype=np.int64)
            return Matches(none, none, none, np.empty(0, dtype=np.uint8))
        query, entry, distance = (np.concatenate(column) for column in zip(*found, strict=True))
        return Matches(query, entry // self._views, entry % self._views, distance)

    def nearest(self, queries: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Distance from every query to its nearest entry, uint8."""
        out = np.full(len(queries), 64, dtype=np.uint8)
        for rows, _, distance in self._distances(queries):
            np.minimum(out[rows], distance.min(axis=1), out=out[rows])
        return out

    def _distances(
        self, queries: NDArray[np.uint64]
    ) -> Iterator[tuple[slice, int, NDArray[np.uint8]]]:
        """Blocks of distances: rows of the queries, first entry, uint8 [queries, entries]."""
        # Written into again and again: fresh arrays would cost more than the comparison.
        bits = np.empty((_QUERIES, _ENTRIES), dtype=np.uint64)
        apart = np.empty((_QUERIES, _ENTRIES), dtype=np.uint8)
        for first in range(0, len(queries), _QUERIES):
            block = queries[first : first + _QUERIES, None]
            for start in range(0, len(self._flat), _ENTRIES):
                entries = self._flat[None, start : start + _ENTRIES]
                here = (slice(len(block)), slice(entries.shape[1]))
                np.bitwise_xor(block, entries, out=bits[here])
                rows = slice(first, first + len(block))
                yield rows, start, np.bitwise_count(bits[here], out=apart[here])

    def _within(self, queries: NDArray[np.uint64], reach: int) -> Iterator[_Hits]:
        """Hits (query, entry, distance), a few whole queries at a time."""
        hits: list[_Hits] = []
        last = 0
        for rows, start, distance in self._distances(queries):
            if rows.start != last and hits:
                yield _joined(hits)
                hits = []
            last = rows.start
            if distance.min() <= reach:
                # On one axis, which is several times quicker than nonzero on two.
                row, entry = np.divmod(np.flatnonzero(distance <= reach), distance.shape[1])
                hits.append((row + rows.start, entry + start, distance[row, entry]))
        if hits:
            yield _joined(hits)

    def _within_faiss(self, queries: NDArray[np.uint64], reach: int) -> Iterator[_Hits]:
        assert self._faiss is not None  # noqa: S101
        index = self._faiss.IndexBinaryFlat(64)
        index.add(self._flat.view(np.uint8).reshape(-1, 8))
        for first in range(0, len(queries), _FAISS_QUERIES):
            block = np.ascontiguousarray(queries[first : first + _FAISS_QUERIES])
            # Its radius is exclusive.
            limits, distance, entry = index.range_search(
                block.view(np.uint8).reshape(-1, 8), reach + 1
            )
            if len(entry):
                row = np.repeat(np.arange(len(block)), np.diff(limits.astype(np.int64)))
                yield row + first, entry.astype(np.int64), distance.astype(np.uint8)

    def _nearest(self, hits: _Hits, most: int) -> _Hits:
        """Of all hits: the best view of each picture, then the ``most`` best pictures a query."""
        query, entry, distance = hits
        picture = entry // self._views
        order = np.lexsort((entry, distance, picture, query))
        query, entry, distance, picture = (
            query[order],
            entry[order],
            distance[order],
            picture[order],
        )
        best = np.ones(len(query), dtype=bool)
        best[1:] = (query[1:] != query[:-1]) | (picture[1:] != picture[:-1])
        query, entry, distance, picture = query[best], entry[best], distance[best], picture[best]
        order = np.lexsort((picture, distance, query))
        query, entry, distance = query[order], entry[order], distance[order]
        starts = np.searchsorted(query, query, side="left")
        kept = np.arange(len(query)) - starts < most
        return query[kept], entry[kept], distance[kept]


def _joined(hits: list[_Hits]) -> _Hits:
    query, entry, distance = (np.concatenate(column) for column in zip(*hits, strict=True))
    return query, entry, distance


def _faiss() -> ModuleType | None:
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        return None
    module: ModuleType = faiss
    return module
