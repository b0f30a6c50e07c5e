"""The frame of samples: its schema, its file (parquet) and how the bytes behind a row are read.

A row is an image: ``key`` (path below the root, or ``archive.tar!member``), ``path`` (the file
or the archive, below the root), ``offset`` (-1 for a plain file) and ``length`` in bytes, ``label``
(NA if unlabelled), ``width`` and ``height`` (pixels, upright), ``format``, ``bytes_sha256``. Rows
are sorted by key. Where images may belong to several classes there is one more column, ``labels``
(Arrow fixed-size list of uint8, a 0 or 1 a class), and ``label`` is NA throughout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd

from hgnetv2_pipeline.data.decode import read_regular_file
from hgnetv2_pipeline.data.scan.archives import read_member
from hgnetv2_pipeline.durable import written_aside
from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA: dict[str, str] = {
    "key": "str",
    "path": "str",
    "offset": "int64",
    "length": "int64",
    "label": "Int64",
    "width": "int32",
    "height": "int32",
    "format": "str",
    "bytes_sha256": "str",
}
LABELS = "labels"
ARCHIVE_MARK = ".tar!"
_ROW_GROUP = 131_072
# The columns by which an image, where it lies and what it holds are known again.
IDENTIFYING = ("key", "path", "offset", "length", "bytes_sha256")


def samples_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame of samples from rows in the order of ``SCHEMA``; sorted by key, keys unique.

    Raises:
        DataError: a key occurs twice.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    frame = pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=kind)
            for (name, kind), values in zip(SCHEMA.items(), columns, strict=True)
        }
    )
    return sorted_samples(frame)


def sorted_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with its columns (those of ``SCHEMA``, and ``labels`` where it has them) in their
    types, sorted by key, numbered from 0.
    """
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise DataError(f"a frame of samples lacks the columns {', '.join(missing)}")
    kept = [*SCHEMA, *([LABELS] if LABELS in frame.columns else [])]
    typed = frame[kept].astype(SCHEMA)
    ordered = typed.sort_values("key", kind="stable", ignore_index=True)
    twice = ordered["key"].duplicated()
    if twice.any():
        raise DataError(f"key {ordered['key'][twice].iloc[0]!r} occurs twice in a frame of samples")
    return ordered


def arrow_schema(classes: int | None = None) -> pa.Schema:
    """``SCHEMA`` as pyarrow has it: strings as text, labels and other numbers as integers.

    ``classes``: their number where the rows have the column ``labels``.
    """
    import pyarrow as pa

    kinds = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "int32": pa.int32()}
    fields = [(name, kinds[kind]) for name, kind in SCHEMA.items()]
    if classes is not None:
        fields.append((LABELS, pa.list_(pa.uint8(), classes)))
    return pa.schema(fields)


@contextmanager
def index_writer(path: Path, classes: int | None = None) -> Iterator[Callable[[pa.Table], None]]:
    """Yields what adds rows to a parquet index of any length, which is written whole or not at all.

    It takes tables of ``arrow_schema`` in ascending order of keys, each key once (DataError if
    not); how the rows are divided among them leaves the file's bytes as they are.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = arrow_schema(classes)
    waiting, last = schema.empty_table(), ""
    with (
        written_aside(path) as aside,
        pq.ParquetWriter(aside, schema, compression="zstd") as file,
    ):

        def write(rows: pa.Table) -> None:
            nonlocal waiting, last
            if not len(rows):
                return
            keys = rows["key"].combine_chunks()
            rising = pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py()
            if keys[0].as_py() <= last or not rising:
                raise DataError(f"{path}: keys do not ascend near {keys[0].as_py()!r}")
            last = keys[-1].as_py()
            # Without pandas' own metadata, which names the versions of pandas and pyarrow.
            waiting = pa.concat_tables([waiting, rows.replace_schema_metadata(None)])
            while len(waiting) >= _ROW_GROUP:
                file.write_table(waiting[:_ROW_GROUP])
                waiting = waiting[_ROW_GROUP:]

        yield write
        if len(waiting):
            file.write_table(waiting)


def write_index(path: Path, samples: pd.DataFrame) -> Path:
    """Write ``samples`` as parquet: the same frame gives the same bytes (for one pyarrow version).

    Raises:
        DataError: columns are missing or a key occurs twice.
    """
    import pyarrow as pa

    ordered = sorted_samples(samples)
    classes = None
    if LABELS in ordered.columns:
        classes = ordered[LABELS].array.__arrow_array__().type.list_size
    with index_writer(path, classes) as write:
        write(pa.Table.from_pandas(ordered, schema=arrow_schema(classes), preserve_index=False))
    return Path(path)


def read_index(path: Path) -> pd.DataFrame:
    """Read a frame of samples written by ``write_index``.

    Raises:
        DataError: the file is missing, not parquet, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile rather than read_table: folder names such as seed=0 are not columns.
        table = pq.ParquetFile(path).read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the index is missing; the ingestion pipeline makes it") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error

    def kind(arrow: pa.DataType) -> Any:
        # Anything else as pandas has it; a list would become an object a row.
        return pd.ArrowDtype(arrow) if pa.types.is_fixed_size_list(arrow) else None

    try:
        return sorted_samples(table.to_pandas(types_mapper=kind))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def images_hash(rows: pd.DataFrame) -> str:
    """SHA-256 over what identifies the images of ``rows``: key, place and bytes, row by row."""
    digest = hashlib.sha256()
    for values in rows[list(IDENTIFYING)].itertuples(index=False):
        digest.update("\0".join(map(str, values)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def read_bytes(row: Any, root: Path) -> bytes:
    """The bytes of an image: of a plain file, or of a member of an archive.

    Args:
        row: a row of samples (Series, named tuple, mapping) or a tuple (path, offset, length).
        root: what ``path`` is relative to.

    Raises:
        DataError: with the reason, free of the path: missing, unreadable, cut short, outside root.
    """
    path, offset, length = _fields(row)
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError("the path leads out of the root")
    file = Path(root) / path
    if offset < 0:
        return read_regular_file(file)
    return read_member(file, offset, length)


def _fields(row: Any) -> tuple[str, int, int]:
    if isinstance(row, Mapping | pd.Series):
        return str(row["path"]), int(row["offset"]), int(row["length"])
    if isinstance(row, tuple) and len(row) == 3:
        return str(row[0]), int(row[1]), int(row[2])
    return str(row.path), int(row.offset), int(row.length)
