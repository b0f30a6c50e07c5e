"""The frame of samples: its schema, its file (parquet) and how the bytes behind a row are read.

A row is an image: ``key`` (path below the root, or ``archive.tar!member``), ``path`` (the file
or the archive, below the root), ``offset`` (-1 for a plain file) and ``length`` in bytes, ``label``
(NA if unlabelled), ``width`` and ``height`` (pixels, upright), ``format``, ``bytes_sha256``. Rows
are sorted by key. Where images may belong to several classes there is one more column, ``labels``
(Arrow fixed-size list of uint8, a 0 or 1 a class), and ``label`` is NA throughout. Where images are
decoded otherwise than by default there is the column ``background``: the colour behind transparent
pixels as ``#rrggbb``, ``depth=12`` or ``depth=100-4000`` for the part of 16 bits that is seen, or
both with a space between. Whoever reads the images of an index decodes them by it, and whatever is
made from an index depends on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hgnetv2_pipeline.data.decode import Decoding, decode_image, read_regular_file
from hgnetv2_pipeline.data.depth import FULL, check_depth
from hgnetv2_pipeline.data.scan.archives import read_member
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

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
DECODED_BY = "background"
"""The column that says how images are decoded; named when there was nothing else to say."""
ARCHIVE_MARK = ".tar!"
_ROW_GROUP = 131_072
_DECODED_BY = re.compile(r"(?:#([0-9a-f]{6}))?(?: ?depth=([0-9]{1,5})(?:-([0-9]{1,5}))?)?")
# The columns by which an image, where it is and what it holds are known again.
IDENTIFYING = ("key", "path", "offset", "length", "bytes_sha256")


def samples_frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    """A frame of samples from rows in the order of ``SCHEMA``; sorted by key, keys unique.

    Raises:
        DataError: a key occurs twice.
    """
    import pyarrow as pa

    schema, coming = arrow_schema(), iter(rows)
    parts = [schema.empty_table()]
    # Packed as they come: millions of tuples of Python objects take five times the memory.
    while stretch := list(islice(coming, _ROW_GROUP)):
        columns = [
            pa.array(values, field.type, from_pandas=True)  # whose NA is no None
            for values, field in zip(zip(*stretch, strict=True), schema, strict=True)
        ]
        parts.append(pa.table(columns, schema=schema))
    table = pa.concat_tables(parts)
    parts.clear()  # or ``_to_frame`` could free nothing
    return sorted_samples(_to_frame(table))


def sorted_samples(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with its columns (those of ``SCHEMA``, and ``labels`` and ``background`` where it
    has them) in their types, sorted by key, numbered from 0.
    """
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise DataError(f"a frame of samples lacks the columns {', '.join(missing)}")
    kept = [*SCHEMA, *(name for name in (LABELS, DECODED_BY) if name in frame.columns)]
    ordered = frame[kept].astype(SCHEMA)
    # Sorting copies all columns, and most frames come sorted.
    if not _neighbours(ordered["key"], "less").all():
        ordered = ordered.sort_values("key", kind="stable")
        twice = np.flatnonzero(_neighbours(ordered["key"], "equal"))
        if len(twice):
            key = ordered["key"].iloc[twice[0]]
            raise DataError(f"key {key!r} occurs twice in a frame of samples")
    return ordered.reset_index(drop=True)


def _neighbours(keys: pd.Series[str], how: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each key is ``less`` than the next one, or ``equal`` to it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pa.array(keys, pa.large_string())
    found: np.ndarray[Any, np.dtype[np.bool_]] = getattr(pc, how)(texts[:-1], texts[1:]).to_numpy(
        zero_copy_only=False
    )
    return found


def arrow_schema(classes: int | None = None, *, decoded_by: bool = False) -> pa.Schema:
    """``SCHEMA`` as pyarrow has it: strings as text, labels and other numbers as integers.

    ``classes``: their number where the rows have the column ``labels``. ``decoded_by``: whether
    they have the column of that constant.
    """
    import pyarrow as pa

    kinds = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "int32": pa.int32()}
    fields = [(name, kinds[kind]) for name, kind in SCHEMA.items()]
    if classes is not None:
        fields.append((LABELS, pa.list_(pa.uint8(), classes)))
    if decoded_by:
        fields.append((DECODED_BY, pa.string()))
    return pa.schema(fields)


@contextmanager
def index_writer(
    path: Path, schema: pa.Schema | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Yields what adds rows to a parquet index of any length, which is written whole or not at all.

    It takes tables of ``schema`` (None: the plain ``arrow_schema``) in ascending order of keys,
    each key once (DataError if not); how the rows are divided among them leaves the file's bytes as
    they are.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = arrow_schema() if schema is None else schema
    waiting, last = schema.empty_table(), ""
    with (
        write_aside(path) as aside,
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
    schema = arrow_schema(classes, decoded_by=DECODED_BY in ordered.columns)
    with index_writer(path, schema) as write:
        for first in range(0, len(ordered), _ROW_GROUP):
            rows = ordered.iloc[first : first + _ROW_GROUP]
            write(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
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

    try:
        return sorted_samples(_to_frame(table))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """``table`` as pandas has it, each column freed once it is converted: it cannot be used after.

    A list would become an object per row, and stays Arrow's.
    """
    import pyarrow as pa

    def kind(arrow: pa.DataType) -> Any:
        return pd.ArrowDtype(arrow) if pa.types.is_fixed_size_list(arrow) else None

    frame: pd.DataFrame = table.to_pandas(types_mapper=kind, self_destruct=True)
    return frame


def images_hash(rows: pd.DataFrame) -> str:
    """SHA-256 over what identifies the images of ``rows``: key, place and bytes, row by row, and
    how they are decoded where that is said.
    """
    digest = hashlib.sha256()
    named = [*IDENTIFYING, *([DECODED_BY] if DECODED_BY in rows.columns else [])]
    for values in rows[named].itertuples(index=False):
        digest.update("\0".join(map(str, values)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def with_decoding(samples: pd.DataFrame, decoding: Decoding) -> pd.DataFrame:
    """``samples`` whose images are decoded by background and depth of ``decoding``."""
    words = []
    if decoding.background is not None:
        words.append("#" + bytes(decoding.background).hex())
    if decoding.depth != FULL:
        levels = decoding.depth if isinstance(decoding.depth, tuple) else (decoding.depth,)
        words.append("depth=" + "-".join(map(str, levels)))
    if not words:
        return samples.drop(columns=DECODED_BY, errors="ignore")
    return samples.assign(**{DECODED_BY: " ".join(words)})


def decoding_of(samples: pd.DataFrame) -> Decoding:
    """How the images of ``samples`` are decoded, all of them alike.

    Raises:
        DataError: some have another background or depth than others.
    """
    if DECODED_BY not in samples.columns or not len(samples):
        return Decoding()
    return _the_one_decoding(samples[DECODED_BY].unique().tolist(), "a frame of samples")


def decoding_in(path: Path) -> Decoding:
    """The same of the index at ``path``, of which only that column is read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if DECODED_BY not in file.schema_arrow.names:
            return Decoding()
        column = file.read(columns=[DECODED_BY])[DECODED_BY]
    found = column.unique().to_pylist()
    return _the_one_decoding(found, str(path)) if found else Decoding()


def _the_one_decoding(found: list[Any], where: str) -> Decoding:
    if len(found) > 1:
        raise DataError(
            f"{where} has images decoded by {found[0]} and by {found[1]}: the lists were made "
            "under different values of data.alpha or data.depth; run the ingestion pipeline again"
        )
    return _decoding(found[0])


def _decoding(said: Any) -> Decoding:
    """By a value of the column ``background``, or its absence."""
    if said is None:
        return Decoding()
    found = _DECODED_BY.fullmatch(said) if said and isinstance(said, str) else None
    try:
        if found is None:
            raise ParameterError("no background, no depth")
        colour, low, high = found.groups()
        depth = check_depth((int(low), int(high)) if high else int(low or 16), "data.depth")
    except ParameterError as error:
        raise DataError(
            f"background {said!r:.80} in an index, where #rrggbb or depth=BITS is needed; run the "
            "ingestion pipeline again"
        ) from error
    background = bytes.fromhex(colour or "")
    return Decoding(
        background=(background[0], background[1], background[2]) if colour else None, depth=depth
    )


def read_image(row: Any, root: Path) -> Image.Image:
    """The image of a row, upright and in mode RGB, decoded as its index says.

    Args:
        row: a row of samples (Series, named tuple, mapping).
        root: what its path is relative to.

    Raises:
        DataError: as ``read_bytes`` and ``decode_image``.
    """
    known = row if isinstance(row, Mapping | pd.Series) else row._asdict()
    return decode_image(read_bytes(row, root), _decoding(known.get(DECODED_BY)))


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
