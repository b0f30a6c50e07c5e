"""The best images of every class, from the score shards to a list."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.mining.candidates import Candidates, mark_places
from hgnetv2_pipeline.mining.ranking import Picks

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

# Published: about 4 of the 14.2 million images of ImageNet-22k were mined.
_SHARE = 0.28
_MOST_A_CLASS = 16_000
_ROWS = 131_072


def default_target(n_pool: int, n_classes: int) -> int:
    """How many images to mine when neither k nor a target is given.

    The rule: the share of the pool that the published mining of ImageNet-22k kept, 28 %, rounded
    to two digits, but no more than 16,000 a class: beyond that a list reaches images the teacher
    hardly knows.

    >>> default_target(14_197_122, 1000), default_target(14_197_122, 21_841)
    (4000000, 4000000)
    >>> default_target(1_500, 10), default_target(2_000_000, 100), default_target(10**9, 100)
    (420, 560000, 1600000)
    """
    share = max(1, round(_SHARE * n_pool))
    unit = 10 ** max(0, len(str(share)) - 2)
    return int(min(_MOST_A_CLASS * n_classes, round(share / unit) * unit))


def typical_target(n_pool: int, min_conf: float) -> int:
    """How many images are at least so typical, if all of the pool are like the labelled ones.

    Images of no class are less typical, so it is fewer as a rule.
    """
    return round((1 - min_conf) * n_pool)


@dataclass(frozen=True)
class Selection:
    """The mined images: class, millionths and rank by class and rank, ``keys`` ascending.

    ``keys[at_key[i]]`` is the key of image ``i``.
    """

    label: NDArray[np.int32]
    score_q: NDArray[np.uint32]
    rank: NDArray[np.int32]
    at_key: NDArray[np.uint32]
    keys: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.label)

    def frame(self) -> pd.DataFrame:
        """Columns key, label, score (probability), score_q (millionths), rank (from 1)."""
        frame: pd.DataFrame = self._table(slice(None)).to_pandas()
        return frame.astype({"key": "str"})

    def write(self, path: Path) -> Path:
        """Write the same columns as parquet, a stretch at a time."""
        import pyarrow.parquet as pq

        with write_aside(path) as aside:
            schema = self._table(slice(0, 0)).schema
            with pq.ParquetWriter(aside, schema, compression="zstd") as file:
                for first in range(0, len(self), _ROWS):
                    file.write_table(self._table(slice(first, first + _ROWS)))
        return Path(path)

    @property
    def labels_by_key(self) -> NDArray[np.int64]:
        """The class of each of ``keys``."""
        labels = np.empty(len(self), dtype=np.int64)
        labels[self.at_key] = self.label
        return labels

    def _table(self, rows: slice) -> pa.Table:
        import pyarrow as pa

        return pa.table(
            {
                "key": self.keys.take(pa.array(self.at_key[rows])).cast(pa.string()),
                "label": self.label[rows].astype(np.int64),
                "score": (self.score_q[rows] / 1e6).astype(np.float32),
                "score_q": self.score_q[rows].astype(np.int64),
                "rank": self.rank[rows].astype(np.int64),
            }
        )


def select(
    candidates: Candidates,
    *,
    k: int | None = None,
    target_total: int | None = None,
    top_p: int = 1,
    diversity: int | None = None,
) -> Selection:
    """The mined list: of every class the ``k`` images the teacher is surest of.

    The order is total: class, quantised score descending, key; so neither the number of shards nor
    of processes can change the list. ``target_total`` asks for the smallest k that brings that many
    images (as far as the pool goes); with neither, ``default_target`` images.

    Of images with the same bytes in a class all but the best-placed are left out, and with
    ``diversity`` those within that many bits of a better one of their class; the next in order take
    their places. With ``top_p`` above 1, classes that stay short are filled with images not chosen
    yet that have the class second, third, ... to ``top_p``-th; an image is listed once in any case.

    Memory: about 30 bytes per image of the pool and a key for each that is chosen.

    Raises:
        ParameterError: for impossible limits.
        DataError: nothing is left to mine.
    """
    _check(candidates.min_conf, k, target_total, top_p, diversity)
    picks = _pick(candidates, k, target_total, top_p, diversity)
    label, score_q, rank = picks.label, picks.score_q, picks.rank
    wanted, at_key = mark_places(candidates.pool.rows, picks.place)
    del picks  # before millions of keys are read
    return Selection(label, score_q, rank, at_key, candidates.pool.keys(wanted))


def _pick(
    candidates: Candidates,
    k: int | None,
    target_total: int | None,
    top_p: int,
    diversity: int | None,
) -> Picks:
    pool, free = candidates.pool, candidates.free()
    order = candidates.order(free)
    total = int(order.sizes.sum())
    if not total:
        raise DataError(
            "no image of the pool is left to mine: all are excluded or below min_conf "
            f"{candidates.min_conf:g} (mining.min_conf)"
        )
    if k is None:
        k = _smallest_k(order.sizes, target_total or default_target(pool.rows, pool.num_classes))
    phash = None if diversity is None else pool.numbers("phash64")
    chosen: Picks | None = None
    have = np.zeros(pool.num_classes, dtype=np.int64)
    for place in range(1, min(top_p, pool.kept) + 1):
        if chosen is not None:
            if have.min() >= k:
                break
            free[chosen.place] = False
            order = candidates.order(free, place)
        if phash is None or diversity is None:
            more = order.first(k - have, have)
        else:
            more = order.first_apart(k - have, chosen, phash, diversity)
        chosen = Picks.joined([more] if chosen is None else [chosen, more])
        have = np.bincount(chosen.label, minlength=pool.num_classes)
    assert chosen is not None  # noqa: S101 - top_p is at least 1
    _log.info("mined %d of %d candidates, at most %d per class", len(chosen), total, k)
    return chosen


def _smallest_k(sizes: NDArray[np.int64], target: int) -> int:
    """The smallest k with ``sum(min(size, k)) >= target``; the largest class if none reaches."""
    low, high = 1, int(sizes.max())
    while low < high:
        middle = (low + high) // 2
        if int(np.minimum(sizes, middle).sum()) >= target:
            high = middle
        else:
            low = middle + 1
    return low


def _check(
    min_conf: float, k: int | None, target_total: int | None, top_p: int, diversity: int | None
) -> None:
    if k is not None and target_total is not None:
        raise ParameterError("give k or target_total, not both (mining.k, mining.target_total)")
    for name, value in (("k", k), ("target_total", target_total)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} must be at least 1, not {value} (mining.{name})")
    if not 0.0 <= min_conf <= 1.0:
        raise ParameterError(f"min_conf must be from 0 to 1, not {min_conf} (mining.min_conf)")
    if not 1 <= top_p <= 10:
        raise ParameterError(
            f"top_p must be from 1 to 10, not {top_p}: ten classes per image are stored "
            "(mining.top_p)"
        )
    if diversity is not None and not 0 <= diversity <= 32:
        raise ParameterError(
            f"diversity must be from 0 to 32 bits, not {diversity} (mining.diversity)"
        )
