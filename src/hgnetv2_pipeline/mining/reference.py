"""The labelled images that typicality is measured by: which they are, and from scores to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.duplicates.features import features_of
from hgnetv2_pipeline.mining.scored_pool import ScoredPool
from hgnetv2_pipeline.teacher.typicality import (
    Reference,
    fit_reference,
    save_reference,
    spread_over_classes,
    unit,
)


def choose_reference(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The labelled rows, or as many of each class as ``spread_over_classes`` takes, by key."""
    labelled = samples[samples["label"].notna()].sort_values("key", ignore_index=True)
    if labelled.empty:
        raise DataError("no labelled image: typicality cannot be measured (mining.rank_by)")
    places = spread_over_classes(labelled["label"].to_numpy(np.int64), seed=seed)
    chosen: pd.DataFrame = labelled.iloc[places].reset_index(drop=True)
    return chosen


def write_reference(path: Path, scores: Path, labels: pd.DataFrame) -> Reference:
    """Make the reference from the scores of labelled images, with features, and write it.

    ``labels`` (key, label) says what they are; an image that could not be read is left out.

    Raises:
        DataError: the teacher names the class of hardly any.
    """
    pool = ScoredPool(scores)
    keys = pool.keys(np.ones(pool.rows, dtype=bool)).to_pandas()
    known = labels.set_index("key")["label"].reindex(keys).to_numpy(np.int64)
    guesses, _ = pool.best(1)
    features = unit(torch.from_numpy(features_of(scores, keys)))
    found = fit_reference(
        torch.from_numpy(_log_probability(pool)),
        torch.from_numpy(guesses.astype(np.int64)),
        features,
        torch.from_numpy(known),
    )
    save_reference(path, found)
    return found


def _log_probability(pool: ScoredPool) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Of the best class of each image."""
    best = [
        np.asarray(batch["top_logits"].flatten()).reshape(len(batch), -1)[:, 0]
        - batch["lse"].to_numpy()
        for batch in pool.chunks(["top_logits", "lse"])
    ]
    return np.concatenate(best).astype(np.float32)
