"""Score shards: fixed slices of the sorted pool, each a parquet file and its manifest.

A shard is finished when its manifest stands beside it, names the same inputs and carries the hash
of the parquet's bytes. The manifest is written last, so a run that dies leaves no false shard.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hgnetv2_pipeline.data.index import IDENTIFYING
from hgnetv2_pipeline.data.quarantine import quarantine_frame
from hgnetv2_pipeline.durable import (
    read_json,
    sha256_file,
    sha256_json,
    update_json,
    write_json,
    written_aside,
)
from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_log = logging.getLogger(__name__)
_PLAN = "plan.json"
_SOURCES = "manifest.json"
_NAME = re.compile(r"shard=(\d{5,})\.(parquet|json)$")


def shard_path(out: Path, number: int) -> Path:
    """Where shard ``number`` lies: ``shard=00042.parquet``; its manifest ends in ``.json``."""
    return out / f"shard={number:05d}.parquet"


def pool_rows(samples: pd.DataFrame | Path, prefix: str = "") -> int:
    """How many images a pool lists whose keys begin with ``prefix``."""
    if isinstance(samples, pd.DataFrame):
        return int(samples["key"].str.startswith(prefix).sum())
    import pyarrow.parquet as pq

    if not prefix:
        return int(pq.read_metadata(samples).num_rows)
    with pq.ParquetFile(samples) as file:
        return sum(len(batch) for batch in _of_source(file, ["key"], prefix, 65_536))


def pool_slices(
    samples: pd.DataFrame | Path, shard_rows: int, prefix: str = ""
) -> Iterator[pd.DataFrame]:
    """The pool in slices of ``shard_rows`` rows by ascending key, the last one shorter.

    A frame is sorted if need be; a parquet index must be sorted already, since it is streamed.
    With ``prefix`` only the images of that source: those whose keys begin so.
    """
    if isinstance(samples, pd.DataFrame):
        samples = samples[samples["key"].str.startswith(prefix)]
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
        for batch in _of_source(file, list(IDENTIFYING), prefix, shard_rows):
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


def _of_source(
    file: pq.ParquetFile, columns: list[str], prefix: str, rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of an index sorted by key, of the images whose keys begin with ``prefix``."""
    import pyarrow.compute as pc

    for group in range(file.num_row_groups):
        limits = file.metadata.row_group(group).column(0).statistics
        known = limits is not None and limits.has_min_max
        # Stretches of other sources need not be read.
        if known and (limits.max < prefix or limits.min[: len(prefix)] > prefix):
            continue
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
            yield batch.filter(pc.starts_with(batch["key"], prefix)) if prefix else batch


def finished(out: Path, number: int, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of shard ``number`` if it is finished, intact and of this identity."""
    parquet = shard_path(out, number)
    try:
        manifest = read_json(parquet.with_suffix(".json"))
        if manifest["identity_sha256"] != sha256_json(identity):
            return None
        expected = manifest["parquet_sha256"]
        for entry in manifest["quarantined"]:
            _ = entry["key"], entry["reason"]
        _ = manifest["listed"] + manifest["rows"], manifest["number"], manifest["identity"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        _log.warning("%s is damaged; its shard is scored again", parquet.with_suffix(".json"))
        return None
    if not parquet.is_file() or sha256_file(parquet) != expected:
        _log.warning("%s is missing or damaged; it is scored again", parquet)
        return None
    return dict(manifest)


def write_plan(out: Path, listed: int, shard_rows: int, prefix: str = "") -> int:
    """Note how many shards the pool makes, so that a missing one is missed; returns the count."""
    count = -(-listed // shard_rows)
    plan = {"listed": listed, "shard_rows": shard_rows, "shards": count, "prefix": prefix}
    write_json(out / _PLAN, plan)
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
    if "feat" in columns:
        width = len(columns["feat"][0]) if len(columns["feat"]) else 1
        schema = schema.append(pa.field("feat", pa.list_(pa.float16(), width)))
    path = shard_path(out, number)
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns, schema=schema), aside, compression="zstd")
    sealed = manifest | {
        "first_key": str(columns["key"][0]) if len(columns["key"]) else None,
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


def score_folders(scores: Path | Sequence[Path]) -> list[Path]:
    """The folders of shards, one a source of the pool.

    ``scores`` is such a folder, or one that holds a folder a source (all of them, or those that
    its record of sources names), or several of either kind. Raises DataError when there is none.
    """
    folders = []
    for folder in [scores] if isinstance(scores, Path) else scores:
        if (folder / _PLAN).is_file():
            folders.append(folder)
        elif (folder / _SOURCES).is_file():
            folders += [folder / name for name in read_json(folder / _SOURCES)["sources"]]
        else:
            plans = sorted(folder.glob(f"*/{_PLAN}"))
            folders += [plan.parent for plan in plans if plan.parent.name != "archive"]
    if not folders:
        given = [scores] if isinstance(scores, Path) else scores
        raise DataError(f"no scores in {', '.join(map(str, given))}: score the pool first")
    for folder in folders:
        if not (folder / _PLAN).is_file():
            raise DataError(f"no scores in {folder}: score the pool first")
    return folders


def score_prefixes(scores: Path | Sequence[Path]) -> list[str]:
    """What the keys of each source begin with."""
    return [read_json(folder / _PLAN)["prefix"] for folder in score_folders(scores)]


def write_sources(scores: Path, names: Sequence[str]) -> Path:
    """Record which sources the pool has now, and their contents; older ones stay, unused.

    The record changes when a shard of these sources does, and only then.
    """
    shards: dict[str, str] = {}
    images: dict[str, list[str]] = {name: [] for name in names}
    for path, manifest in read_manifests([scores / name for name in names]).items():
        shards[path.relative_to(scores).as_posix()] = manifest["parquet_sha256"]
        images[path.parent.name].append(manifest["identity"]["inputs_sha256"])
    record = {
        "sources": sorted(names),
        "inputs": {name: sha256_json(known) for name, known in images.items()},
        "outputs": shards,
    }
    return update_json(scores / _SOURCES, record)


def quarantined(scores: Path | Sequence[Path]) -> pd.DataFrame:
    """Images of the pool that could not be read: columns key, reason, line (NA); by key."""
    rows = [
        (entry["key"], entry["reason"], None)
        for manifest in read_manifests(scores).values()
        for entry in manifest["quarantined"]
    ]
    return quarantine_frame(sorted(rows))


def read_manifests(scores: Path | Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Manifests of every shard below one or several score folders, by the parquet's path.

    Raises DataError when there is none, or when a folder lacks one of its shards: a list mined
    from half a pool would look like any other.
    """
    manifests: dict[Path, dict[str, Any]] = {}
    for folder in score_folders(scores):
        wanted = read_json(folder / _PLAN)["shards"]
        here = []
        for path in sorted(folder.glob("shard=*.json")):
            here.append(read_json(path))
            manifests[path.with_suffix(".parquet")] = here[-1]
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
