"""What the list is chosen from, without choosing: how many images a class has, and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.columns import ScoredPool
from hgnetv2_pipeline.mining.selection import candidates

_STRETCH = 65_536


def candidate_counts(
    scores: Path | Sequence[Path], barred: pd.Series[str], *, min_conf: float = 0.0
) -> pd.Series[int]:
    """Candidates of every class that has any, by label."""
    sizes = candidates(ScoredPool(scores), barred, min_conf).sizes
    counts = pd.Series(sizes, index=pd.RangeIndex(len(sizes), name="label"), name="n")
    return counts[counts > 0]


def candidate_scores(
    scores: Path | Sequence[Path], barred: pd.Series[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Class and score (millionths) of every candidate, some ten thousand at a time, by class."""
    order = candidates(ScoredPool(scores), barred)
    for first in range(0, len(order), _STRETCH):
        picks = order.rows(slice(first, first + _STRETCH))
        yield picks.label.astype(np.int64), picks.score_q.astype(np.int64)
