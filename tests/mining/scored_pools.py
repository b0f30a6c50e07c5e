"""Scored pools that nobody had to score: random answers, written as score shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from hgnetv2_pipeline.mining.score_shards import write_plan, write_scores

CLASSES, KEPT = 7, 5


def random_pool(seed: int, rows: int = 600) -> pd.DataFrame:
    """A scored pool with many ties, a skewed class distribution and some repeated files."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, CLASSES)) * 1.5 + np.linspace(1.5, -1.5, CLASSES)
    logits = np.round(logits, 1)  # ties
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")[:, :KEPT]
    top = np.take_along_axis(logits, order, axis=1).astype(np.float32)
    content = np.arange(rows)
    content[rng.choice(rows, 40, replace=False)] = content[rng.choice(rows, 40)]
    top, order = top[content], order[content]
    return pd.DataFrame(
        {
            "key": sorted(f"ü {n:05d}.jpg" for n in rng.permutation(rows * 3)[:rows]),
            "top_ids": list(order.astype(np.int32)),
            "top_logits": list(top),
            "lse": np.zeros(rows, np.float32),
            "score_q": np.rint(np.exp(top[:, 0].astype(np.float64)) * 1e6).astype(np.uint32),
            "phash64": rng.integers(0, 2**64, rows, dtype=np.uint64)[content],
            "bytes_sha256": [hashlib.sha256(str(n).encode()).hexdigest() for n in content],
        }
    )


def scores_of(out: Path, pool: pd.DataFrame, shards: int, prefix: str = "") -> Path:
    size = -(-len(pool) // shards)
    assert write_plan(out, len(pool), size, prefix) == shards
    for number in range(shards):
        rows = pool.iloc[number * size : (number + 1) * size]
        write_scores(
            out,
            number,
            {name: rows[name].tolist() for name in pool.columns},
            {
                "number": number,
                "identity": {"num_classes": CLASSES, "inputs_sha256": str(number)},
                "listed": len(rows),
                "rows": len(rows),
                "quarantined": [],
            },
        )
    return out
