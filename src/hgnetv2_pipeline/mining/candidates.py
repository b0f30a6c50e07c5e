"""The images that may be mined (not barred, above ``min_conf``, one of equal bytes), in order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.ranking import Order, look_alikes, repeats
from hgnetv2_pipeline.mining.scored_pool import ScoredPool

_STRETCH = 65_536
_CERTAIN = 1_000_000  # millionths


def _no_pairs() -> pd.DataFrame:
    return pd.DataFrame({"key": [], "channel": [], "decision": []}, dtype="str")


def _none_kept() -> pd.DataFrame:
    return pd.DataFrame({"key": pd.Series(dtype="str"), "label": pd.Series(dtype="int64")})


@dataclass(frozen=True)
class Candidates:
    """The scored images that may be mined.

    Attributes:
        scores: a folder of score shards, one that holds a folder for each source, or several.
        dedup: pairs (key, channel, decision); the images of those decided ``remove`` are left out.
        exclude: keys that are left out by name.
        exclude_review: whether the pairs that wait for a person are left out too.
        min_conf: the least probability the teacher must give, 0 to 1.
        kept: images (key, label) whose class a person confirmed: where it still is the teacher's
            they count as certain, probability 1.
    """

    scores: Path | Sequence[Path]
    dedup: pd.DataFrame = field(default_factory=_no_pairs)
    exclude: Collection[str] = ()
    exclude_review: bool = True
    min_conf: float = 0.0
    kept: pd.DataFrame = field(default_factory=_none_kept)

    @cached_property
    def pool(self) -> ScoredPool:
        """All scored images, these and the others."""
        return ScoredPool(self.scores)

    @cached_property
    def barred(self) -> pd.Series[str]:
        """The keys that may not be mined: removed, waiting for a person, or excluded by name."""
        keys = pd.concat([pd.Series(list(self.exclude), dtype="str"), self.barred_by_pairs])
        return keys.drop_duplicates().reset_index(drop=True)

    @property
    def barred_by_pairs(self) -> pd.Series[str]:
        """Those of them that ``dedup`` bars."""
        barring = ["remove", "review"] if self.exclude_review else ["remove"]
        return self.dedup.loc[self.dedup["decision"].isin(barring), "key"]

    @property
    def least(self) -> int:
        """The lowest score, in millionths, that ``min_conf`` lets through."""
        return int(np.ceil(self.min_conf * 1e6))

    def free(self) -> NDArray[np.bool_]:
        """Which images of the pool are not barred, by place."""
        return ~self.pool.holding(self.barred)

    def order(self, free: NDArray[np.bool_], place: int = 1) -> Order:
        """The order of the ``free`` images by their ``place``-th class.

        The first class also decides which copies stay: of images with the same bytes in a class
        only the best-placed; the others, and those below ``min_conf``, are no longer ``free``.
        """
        pool = self.pool
        if place > 1:
            labels, score_q = pool.best(place)
            return Order(labels, score_q, free & (score_q >= self.least), pool.num_classes)
        # Before the other columns: this one is the largest.
        alike = look_alikes(pool, free)
        labels, score_q = pool.best(place)
        if len(self.kept):
            score_q = self._certain(labels, score_q)
        free &= score_q >= self.least
        free[repeats(pool, labels, score_q, alike & free)] = False
        return Order(labels, score_q, free, pool.num_classes)

    def _certain(
        self, labels: NDArray[np.int32], score_q: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        """The scores, of what a person kept the highest there is."""
        raised = score_q.copy()
        for label, rows in self.kept.groupby("label"):
            raised[self.pool.holding(rows["key"].astype("str")) & (labels == label)] = _CERTAIN
        return raised

    def counts(self) -> pd.Series[int]:
        """How many there are of every class that has any, by label; copies count once."""
        sizes = self.order(self.free()).sizes
        counts = pd.Series(sizes, index=pd.RangeIndex(len(sizes), name="label"), name="n")
        return counts[counts > 0]

    def classes_and_scores(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Class and score (millionths) of each, some ten thousand at a time, by class."""
        order = self.order(self.free())
        for first in range(0, len(order), _STRETCH):
            picks = order.rows(slice(first, first + _STRETCH))
            yield picks.label.astype(np.int64), picks.score_q.astype(np.int64)

    def ranks_of(self, keys: pd.Series[str]) -> pd.DataFrame:
        """Where the images with these keys are in the order: columns key, label, rank."""
        picks = self.order(self.free()).ranks_of(self.pool.holding(keys))
        found, at_key = mark_places(self.pool.rows, picks.place)
        names = self.pool.keys(found).to_numpy(zero_copy_only=False)
        return pd.DataFrame(
            {
                "key": pd.Series(names[at_key], dtype="str"),
                "label": picks.label.astype(np.int64),
                "rank": picks.rank.astype(np.int64),
            }
        )


def mark_places(
    rows: int, places: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
    """A mask of the places among ``rows``, and which of those marked each place is."""
    wanted = np.zeros(rows, dtype=bool)
    wanted[places] = True
    at = np.empty(len(places), dtype=np.uint32)
    at[np.argsort(places)] = np.arange(len(places), dtype=np.uint32)
    return wanted, at
