"""Score shards: fixed slices of the sorted pool, a parquet file each, and what is said of them.

``plan.json`` beside them says how many there are, so that a missing one is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hgnetv2_pipeline.data.index import DECODED_BY, IDENTIFYING
from hgnetv2_pipeline.data.quarantine import quarantine_frame
from hgnetv2_pipeline.durable import read_json, sha256_json, update_json, write_json
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.shards import ShardStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_PLAN = "plan.json"
_SOURCES = "manifest.json"


def score_store(out: Path) -> ShardStore:
    """The score shards in the folder ``out``.

    Their manifests hold the identity in full (``num_classes`` is read from it) beside its hash.
    """
    return ShardStore(out, ".parquet", "identity_sha256", "parquet_sha256", _is_readable)


def _is_readable(manifest: Mapping[str, Any], size: int) -> bool:
    """Whether all is there that ``read_manifests`` and its callers ask for."""
    for entry in manifest["quarantined"]:
        _ = entry["key"], entry["reason"]
    _ = manifest["listed"] + manifest["rows"], manifest["number"], manifest["identity"]
    return True


def pool_rows(index: Path, prefix: str = "") -> int:
    """How many images of a pool's parquet index have keys that begin with ``prefix``."""
    import pyarrow.parquet as pq

    if not prefix:
        return int(pq.read_metadata(index).num_rows)
    with pq.ParquetFile(index) as file:
        return sum(len(batch) for batch in _of_source(file, ["key"], prefix, 65_536))


def pool_slices(index: Path, shard_rows: int, prefix: str = "") -> Iterator[pd.DataFrame]:
    """The pool in slices of ``shard_rows`` rows by ascending key, the last one shorter.

    The parquet index is streamed. With ``prefix`` only the images of that source: those whose keys
    begin so. Raises DataError if the index is not sorted by key.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.RecordBatch] = []
    held, last_key = 0, ""
    with pq.ParquetFile(index) as file:
        known = [name for name in (*IDENTIFYING, DECODED_BY) if name in file.schema_arrow.names]
        for batch in _of_source(file, known, prefix, shard_rows):
            keys = batch.column(0).to_pandas()
            if len(keys) and (keys.iloc[0] < last_key or not keys.is_monotonic_increasing):
                raise DataError(
                    f"{index} is not sorted by key near {keys.iloc[0]!r}; "
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


def write_plan(out: Path, listed: int, shard_rows: int, prefix: str = "") -> int:
    """Note how many shards the pool makes, so that a missing one is missed; returns the count."""
    count = -(-listed // shard_rows)
    plan = {"listed": listed, "shard_rows": shard_rows, "shards": count, "prefix": prefix}
    write_json(out / _PLAN, plan)
    return count


def write_scores(
    out: Path, number: int, columns: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the columns as shard ``number``; returns its manifest, complete.

    ``manifest`` gives identity, number, listed, rows and quarantined (key and reason each); the
    columns are those of ``column_names``.
    """
    import pyarrow.parquet as pq

    table = scores_table(columns)

    def save(path: Path) -> dict[str, Any]:
        pq.write_table(table, path, compression="zstd")
        return {**manifest, "first_key": table["key"][0].as_py() if len(table) else None}

    return score_store(out).write(number, sha256_json(manifest["identity"]), save)


def column_names(*, features: bool) -> list[str]:
    """The columns of a shard, without or with the features."""
    names = ["key", "top_ids", "top_logits", "lse", "score_q", "phash64", "bytes_sha256"]
    return [*names, "feat"] if features else names


def scores_table(columns: Mapping[str, Any]) -> pa.Table:
    """The columns of a shard in their types."""
    import pyarrow as pa

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
    return pa.table(dict(columns), schema=schema)


def content_bits(sha256s: pa.LargeStringArray) -> NDArray[np.uint64]:
    """The first 64 bits of each SHA-256, which is given in hexadecimal digits.

    Raises:
        DataError: one of them is something else.
    """
    ends = np.frombuffer(sha256s.buffers()[1] or b"", np.int64)[
        sha256s.offset : sha256s.offset + len(sha256s) + 1
    ]
    digits = memoryview(sha256s.buffers()[2] or b"")
    try:
        raw = bytes.fromhex(bytes(digits[ends[0] : ends[-1]]).decode("ascii")) if len(ends) else b""
    except ValueError:
        raw = b""
    if len(raw) != 32 * len(sha256s):
        raise DataError("bytes_sha256 of the scores is no SHA-256: score the pool again")
    return np.frombuffer(raw, ">u8")[::4].astype(np.uint64)


def score_folders(scores: Path | Sequence[Path]) -> list[Path]:
    """The folders of shards, one per source of the pool.

    ``scores`` is such a folder, or one that holds a folder per source (all of them, or those that
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


def record_sources(scores: Path, names: Sequence[str]) -> Path:
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


def read_quarantined(scores: Path | Sequence[Path]) -> pd.DataFrame:
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
