"""The scored pool as a stream: a few thousand rows at a time, whatever its size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.mining.shards import read_manifests

_CHUNK = 8192


def pool_size(scores: Path | pd.DataFrame) -> int:
    """How many images were scored."""
    if isinstance(scores, pd.DataFrame):
        return len(scores)
    return sum(int(manifest["rows"]) for manifest in read_manifests(scores).values())


def pool_chunks(scores: Path | pd.DataFrame, columns: list[str]) -> Iterator[pd.DataFrame]:
    """These columns of the scored pool, a few thousand rows at a time.

    Raises ParameterError when the scores lack one of them.
    """
    if isinstance(scores, pd.DataFrame):
        _demand(columns, list(scores.columns))
        for first in range(0, len(scores), _CHUNK):
            yield scores.iloc[first : first + _CHUNK][columns].reset_index(drop=True)
        return
    import pyarrow.parquet as pq

    for path in sorted(read_manifests(scores)):
        with pq.ParquetFile(path) as file:
            _demand(columns, file.schema_arrow.names)
            for batch in file.iter_batches(_CHUNK, columns=columns):
                yield batch.to_pandas()


def _demand(wanted: list[str], present: list[str]) -> None:
    for column in wanted:
        if column not in present:
            raise ParameterError(
                f"the scores have no column {column!r}, which a channel needs; score with "
                "mining.features: true, or leave 'features' out of mining.deduplicate.channels"
            )


def groups(chunks: Iterator[pd.DataFrame], size: int) -> Iterator[list[pd.DataFrame]]:
    """Chunks in groups, so that no more of the pool is read ahead than there are threads."""
    group: list[pd.DataFrame] = []
    for chunk in chunks:
        group.append(chunk)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
