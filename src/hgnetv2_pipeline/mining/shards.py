"""Score shards: fixed slices of the sorted pool, each a parquet file and its manifest.

A shard is finished when its manifest stands beside it, names the same inputs and carries the hash
of the parquet's bytes. The manifest is written last, so a run that dies leaves no false shard.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hgnetv2_pipeline.data.index import IDENTIFYING
from hgnetv2_pipeline.durable import read_json, sha256_file, sha256_json, write_json, written_aside
from hgnetv2_pipeline.errors import DataError

_log = logging.getLogger(__name__)
_PLAN = "plan.json"
_NAME = re.compile(r"shard=(\d{5,})\.(parquet|json)$")


def shard_path(out: Path, number: int) -> Path:
    """Where shard ``number`` lies: ``shard=00042.parquet``; its manifest ends in ``.json``."""
    return out / f"shard={number:05d}.parquet"


def pool_rows(samples: pd.DataFrame | Path) -> int:
    """How many images a pool lists, without reading it."""
    if isinstance(samples, pd.DataFrame):
        return len(samples)
    import pyarrow.parquet as pq

    return int(pq.read_metadata(samples).num_rows)


def pool_slices(samples: pd.DataFrame | Path, shard_rows: int) -> Iterator[pd.DataFrame]:
    """The pool in slices of ``shard_rows`` rows by ascending key, the last one shorter.

    A frame is sorted if need be; a parquet index must be sorted already, since it is streamed.
    """
    if isinstance(samples, pd.DataFrame):
        if not samples["key"].is_monotonic_increasing:
            samples = samples.sort_values("key", kind="stable")
        for first in range(0, len(samples), shard_rows):
            yield samples.iloc[first : first + shard_rows].reset_index(drop=True)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.RecordBatch] = []
    held, last_key = 0, ""
    with pq.ParquetFile(samples) as file:
        for batch in file.iter_batches(shard_rows, columns=list(IDENTIFYING)):
            keys = batch.column(0).to_pandas()
            if len(keys) and (keys.iloc[0] < last_key or not keys.is_monotonic_increasing):
                raise DataError(
                    f"{samples} is not sorted by key near {keys.iloc[0]!r}; "
                    "write it again with the ingestion pipeline"
                )
            last_key = keys.iloc[-1] if len(keys) else last_key
            while held + len(batch) >= shard_rows:
                taken = shard_rows - held
                yield pa.Table.from_batches([*waiting, batch.slice(0, taken)]).to_pandas()
                batch, waiting, held = batch.slice(taken), [], 0
            waiting.append(batch)
            held += len(batch)
    if held:
        yield pa.Table.from_batches(waiting).to_pandas()


def finished(out: Path, number: int, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of shard ``number`` if it is finished, intact and of this identity."""
    parquet = shard_path(out, number)
    try:
        manifest = read_json(parquet.with_suffix(".json"))
    except FileNotFoundError:
        return None
    except ValueError:
        _log.warning("%s is damaged; its shard is scored again", parquet.with_suffix(".json"))
        return None
    if manifest.get("identity_sha256") != sha256_json(identity):
        return None
    if not parquet.is_file() or sha256_file(parquet) != manifest["parquet_sha256"]:
        _log.warning("%s is missing or damaged; it is scored again", parquet)
        return None
    return dict(manifest)


def write_plan(out: Path, listed: int, shard_rows: int) -> int:
    """Note how many shards the pool makes, so that a missing one is missed; returns the count."""
    count = -(-listed // shard_rows)
    write_json(out / _PLAN, {"listed": listed, "shard_rows": shard_rows, "shards": count})
    return count


def write_shard(
    out: Path, number: int, columns: dict[str, Any], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Write the columns, then the manifest that makes them count; returns the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {
            "key": pa.string(),
            "top_ids": pa.list_(pa.int32()),
            "top_logits": pa.list_(pa.float32()),
            "lse": pa.float32(),
            "score_q": pa.uint32(),
            "phash64": pa.uint64(),
            "bytes_sha256": pa.string(),
        }
    )
    path = shard_path(out, number)
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns, schema=schema), aside, compression="zstd")
    sealed = manifest | {
        "identity_sha256": sha256_json(manifest["identity"]),
        "parquet_sha256": sha256_file(path),
    }
    write_json(path.with_suffix(".json"), sealed)
    return sealed


def remove_beyond(out: Path, count: int) -> None:
    """Drop shards of an earlier, longer pool: those numbered ``count`` and above."""
    for path in sorted(out.glob("shard=*")):
        match = _NAME.search(path.name)
        if match and int(match[1]) >= count:
            _log.info("%s belongs to an earlier, longer pool and is removed", path)
            path.unlink()


def read_manifests(scores: Path | Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Manifests of every shard below one or several score folders, by the parquet's path.

    Raises DataError when there is none, or when a folder lacks one of its shards: a list mined
    from half a pool would look like any other.
    """
    folders = [scores] if isinstance(scores, Path) else list(scores)
    manifests: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("shard=*.json")):
            manifests[path.with_suffix(".parquet")] = read_json(path)
    if not manifests:
        raise DataError(f"no scores in {', '.join(map(str, folders))}: score the pool first")
    for folder in sorted({path.parent for path in manifests}):
        here = [manifest for path, manifest in manifests.items() if path.parent == folder]
        wanted = read_json(folder / _PLAN)["shards"]
        kinds = {sha256_json(m["identity"] | {"inputs_sha256": ""}) for m in here}
        if len(kinds) != 1 or sorted(m["number"] for m in here) != list(range(wanted)):
            raise DataError(
                f"{folder} holds {len(here)} shards where {wanted} of one kind belong: run scoring "
                "again, it does only what is missing"
            )
    for path, manifest in manifests.items():
        if not path.is_file():
            raise DataError(f"{path} is missing; its manifest promises {manifest['rows']} rows")
    return manifests
