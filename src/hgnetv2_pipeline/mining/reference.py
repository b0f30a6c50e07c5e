"""The labelled images that typicality is measured by: from their scores to a file, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hgnetv2_pipeline.data.sample_rng import epoch_order
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.mining.duplicates.features import features_of
from hgnetv2_pipeline.mining.scored_pool import ScoredPool
from hgnetv2_pipeline.teacher.typicality import (
    Reference,
    fit_reference,
    spread_over_classes,
    unit,
)

MOST = 20_000
"""Labelled images at most: every image of the pool is compared with each of them."""


def choose_reference(samples: pd.DataFrame, seed: int, most: int = MOST) -> pd.DataFrame:
    """At most ``most`` labelled rows, as many of each class as there are or as fit, by key."""
    labelled = samples[samples["label"].notna()].sort_values("key", ignore_index=True)
    if labelled.empty:
        raise DataError("no labelled image: typicality cannot be measured (mining.rank_by)")
    labels = torch.from_numpy(labelled["label"].to_numpy(np.int64))
    places = spread_over_classes(labels, most, lambda n: torch.from_numpy(epoch_order(n, seed, 0)))
    chosen: pd.DataFrame = labelled.iloc[places.numpy()].reset_index(drop=True)
    return chosen


def write_reference(path: Path, scores: Path, labels: pd.DataFrame) -> Reference:
    """Make the reference from the scores of labelled images, with features, and write it.

    ``labels`` (key, label) says what they are; an image that could not be read is left out.

    Raises:
        DataError: the teacher names the class of hardly any.
    """
    from safetensors.torch import save_file

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
    fit = torch.tensor([found.mean, found.spread], dtype=torch.float64)
    with write_aside(path) as aside:
        save_file({"features": found.features, "labels": found.labels, "fit": fit}, aside)
    return found


def read_reference(path: Path) -> Reference:
    """What ``write_reference`` wrote."""
    from safetensors.torch import load_file

    held = load_file(path)
    mean, spread = held["fit"].tolist()
    return Reference(held["features"], held["labels"], mean, spread)


def _log_probability(pool: ScoredPool) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Of the best class of each image."""
    best = [
        np.asarray(batch["top_logits"].flatten()).reshape(len(batch), -1)[:, 0]
        - batch["lse"].to_numpy()
        for batch in pool.chunks(["top_logits", "lse"])
    ]
    return np.concatenate(best).astype(np.float32)
