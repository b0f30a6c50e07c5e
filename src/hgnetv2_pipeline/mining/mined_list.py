"""The training set of stage 1: the mined images and the labelled ones, streamed into one list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.data.index import DECODED_BY, arrow_schema, index_writer
from hgnetv2_pipeline.data.lists.read import list_writer
from hgnetv2_pipeline.errors import DataError, unknown_name
from hgnetv2_pipeline.mining.selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_MODES = ("zero", "teacher_top1")
_ROWS = 65_536


def write_merged(
    selection: Selection,
    *,
    pool: Path,
    labelled: Path | None,
    index: Path,
    listed: Path,
    label_mode: str = "teacher_top1",
) -> dict[str, int]:
    """Write the index and the list (``path label``) of mined and labelled images, by key.

    Args:
        selection: what was mined.
        pool, labelled: indexes of the pool and of the labelled images; None for the pool alone.
        index, listed: where the parquet index and the list go.
        label_mode: mined images carry the teacher's class, or ``zero`` as PaddleClas's lists have
            it, where no label is used.

    Returns:
        Counts: mined, labelled. Memory does not grow with the pool.

    Raises:
        ParameterError: unknown ``label_mode``.
        DataError: a mined image is not in the pool's index, a key is in both indexes, or they were
            made under different values of ``data.alpha``.
    """
    if label_mode not in LABEL_MODES:
        raise unknown_name("label_mode", label_mode, LABEL_MODES, "mining.label_mode")
    import pyarrow.compute as pc

    schema = _schema(pool, labelled)
    mined = _mined(selection, pool, schema, zero=label_mode == "zero")
    known = _batches(labelled, schema) if labelled is not None else iter(())
    rows = 0
    with index_writer(index, schema) as add_rows, list_writer(listed) as add_lines:
        for table in _by_key(known, mined, schema):
            add_rows(table)
            add_lines(table["key"], pc.fill_null(table["label"], 0))
            rows += len(table)
    return {"mined": len(selection), "labelled": rows - len(selection)}


def read_batches(list_or_index: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of a mined list or an index, some ten thousand images at a time."""
    import pyarrow.parquet as pq

    # Reading ahead would hold the whole file.
    with pq.ParquetFile(list_or_index, pre_buffer=False) as file:
        yield from file.iter_batches(_ROWS, columns=list(columns), use_threads=False)


def _schema(pool: Path, labelled: Path | None) -> pa.Schema:
    """That of both indexes, and of what is made of them."""
    import pyarrow.parquet as pq

    indexes = [pool] if labelled is None else [pool, labelled]
    said = {DECODED_BY in pq.read_schema(path).names for path in indexes}
    if len(said) > 1:
        raise DataError(
            f"{pool} and {labelled} were made under different values of data.alpha or data.depth; "
            "run the ingestion pipeline again"
        )
    return arrow_schema(decoded_by=said.pop())


def _batches(index: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in read_batches(index, schema.names):
        yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def _mined(
    selection: Selection, pool: Path, schema: pa.Schema, *, zero: bool
) -> Iterator[pa.Table]:
    """The pool's rows that were mined, with their labels; both sides ascend by key."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = selection.labels_by_key
    if zero:
        labels[:] = 0
    done = 0
    for table in _batches(pool, schema):
        # No more of the mined keys than rows can be here.
        ahead = selection.keys[done : done + len(table)]
        at = pc.index_in(table["key"].cast(pa.large_string()), value_set=ahead)
        some = table.filter(at.is_valid())
        here = labels[done : done + len(some)]
        done += len(some)
        place = some.schema.get_field_index("label")
        yield some.set_column(place, "label", pa.array(here, pa.int64()))
    if done != len(selection):
        raise DataError(
            f"{len(selection) - done:,} mined images are not in {pool}, or not in order: "
            "scores and index are of different runs; score and mine again"
        )


def _by_key(
    first: Iterator[pa.Table], second: Iterator[pa.Table], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Two streams of rows, each ascending by key, as one."""
    import pyarrow as pa

    streams = [first, second]
    heads = [_next(stream, schema) for stream in streams]
    while len(heads[0]) or len(heads[1]):
        full = [head for head in heads if len(head)]
        # Up to the smaller of the last keys nothing can come in between any more.
        limit = min(head["key"][-1].as_py() for head in full)
        parts = []
        for side, head in enumerate(heads):
            rows = _up_to(head, limit)
            parts.append(head[:rows])
            heads[side] = head[rows:] if rows < len(head) else _next(streams[side], schema)
        both = pa.concat_tables(parts)
        yield both.sort_by("key") if all(len(part) for part in parts) else both


def _next(stream: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    """The next table with rows; an empty one at the end."""
    for table in stream:
        if len(table):
            return table
    return schema.empty_table()


def _up_to(table: pa.Table, limit: str) -> int:
    """How many leading rows have keys up to ``limit``."""
    import pyarrow.compute as pc

    return int(pc.sum(pc.less_equal(table["key"], limit)).as_py() or 0)
