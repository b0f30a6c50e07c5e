"""What the list is chosen from, without choosing: how many images a class has, and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.mining.selection import _candidates
from hgnetv2_pipeline.mining.shards import read_manifests

_MEMORY = "1GB"


def candidate_counts(
    scores: Path | Sequence[Path], barred: pd.Series[str], *, min_conf: float = 0.0
) -> pd.Series[int]:
    """Candidates of every class that has any, by label."""
    files, least = list(read_manifests(scores)), int(np.ceil(min_conf * 1e6))
    with _candidates(files, barred, least, 1, _MEMORY) as base:
        counts = base.sql("select label, count(*) as n from candidates group by label")
        found: pd.Series[int] = counts.df().set_index("label")["n"].astype("int64")
        return found.sort_index()


def candidate_scores(
    scores: Path | Sequence[Path], barred: pd.Series[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Class and score (millionths) of every candidate, some ten thousand at a time, in no order."""
    with _candidates(list(read_manifests(scores)), barred, 0, 1, _MEMORY) as base:
        for batch in base.sql("select label, score_q from candidates").to_arrow_reader(65_536):
            label, score_q = (batch.column(place).to_numpy() for place in range(2))
            yield label.astype(np.int64), score_q.astype(np.int64)
