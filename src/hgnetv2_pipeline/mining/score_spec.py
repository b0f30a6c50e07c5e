"""What a pass of the teacher over one source of the pool needs, as a value that becomes JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hgnetv2_pipeline.variants import Fit


class ScoreSpec(BaseModel):
    """One process's share of a pass over one source of the pool; see ``score.score_pool``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: Path
    """The pool's parquet index, sorted by key; it is streamed."""
    root: Path
    """Folder that its paths are relative to."""
    prefix: str
    """Of the keys that are scored: those of one source; empty for all."""
    teachers: list[str]
    """Specs of ``weights.build.build_from``; several are one teacher, their mean probability."""
    num_classes: int
    """Classes that the teachers know."""
    out: Path
    """Folder of the shards."""
    weights_root: Path
    """Folder that the teachers' files are relative to."""
    preprocess: dict[str, Any] | None
    """The ``Preprocess`` of teachers that do not name one; null: those are refused."""
    fit: Fit | None = None
    """How teachers see images whose weights say to cut a square; null: as they say."""
    shard_rows: int
    """Images a shard; one that is not whole is made again after a stop."""
    batch_size: int
    """Images that the teachers answer at once."""
    workers: int
    """Loader processes."""
    features: bool
    """Whether to keep what the teachers' classifiers see."""
    reference: Path | None = None
    """Labelled images that typicality is measured by (``reference``); null: the score is the
    probability of the best class."""
    earlier: tuple[Path, ...] = ()
    """Folders of finished shards, the preferred ones first: what still holds is taken over."""
    dtype: str
    """Precision of the teachers: float32, bfloat16 or float16."""
    device: str
    """cpu, cuda or cuda:1."""
    max_bad: float
    """Largest share of unreadable images."""
    rank: int = 0
    """This process among those that share the work."""
    world_size: int = 1
    """Their number; shards do not depend on it."""
