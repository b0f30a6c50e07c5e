"""The frame of samples: its schema, its file (parquet) and how the bytes behind a row are read.

A row is an image: ``key`` (path below the root, or ``archive.tar!member``), ``path`` (the file
or the archive, below the root), ``offset`` (-1 for a plain file) and ``length`` in bytes, ``label``
(NA if unlabelled), ``width`` and ``height`` (pixels, upright), ``format``, ``bytes_sha256``. Rows
are sorted by key. Where images may belong to several classes there is one more column, ``labels``
(Arrow fixed-size list of uint8, a 0 or 1 a class), and ``label`` is NA throughout. Where
transparency is not dropped there is the column ``background``, the colour behind transparent pixels
as ``#rrggbb``: whoever reads the images of an index decodes them by it, and whatever is made from
an index depends on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd

from hgnetv2_pipeline.data.decode import Colour, Decoding, decode_image, read_regular_file
from hgnetv2_pipeline.data.scan.archives import read_member
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import DataError

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
BACKGROUND = "background"
ARCHIVE_MARK = ".tar!"
_ROW_GROUP = 131_072
# The columns by which an image, where it is and what it holds are known again.
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
    """``frame`` with its columns (those of ``SCHEMA``, and ``labels`` and ``background`` where it
    has them) in their types, sorted by key, numbered from 0.
    """
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise DataError(f"a frame of samples lacks the columns {', '.join(missing)}")
    kept = [*SCHEMA, *(name for name in (LABELS, BACKGROUND) if name in frame.columns)]
    typed = frame[kept].astype(SCHEMA)
    ordered = typed.sort_values("key", kind="stable", ignore_index=True)
    twice = ordered["key"].duplicated()
    if twice.any():
        raise DataError(f"key {ordered['key'][twice].iloc[0]!r} occurs twice in a frame of samples")
    return ordered


def arrow_schema(classes: int | None = None, *, background: bool = False) -> pa.Schema:
    """``SCHEMA`` as pyarrow has it: strings as text, labels and other numbers as integers.

    ``classes``: their number where the rows have the column ``labels``. ``background``: whether
    they have that column.
    """
    import pyarrow as pa

    kinds = {"str": pa.string(), "int64": pa.int64(), "Int64": pa.int64(), "int32": pa.int32()}
    fields = [(name, kinds[kind]) for name, kind in SCHEMA.items()]
    if classes is not None:
        fields.append((LABELS, pa.list_(pa.uint8(), classes)))
    if background:
        fields.append((BACKGROUND, pa.string()))
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
    schema = arrow_schema(classes, background=BACKGROUND in ordered.columns)
    with index_writer(path, schema) as write:
        write(pa.Table.from_pandas(ordered, schema=schema, preserve_index=False))
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
        # Anything else as pandas has it; a list would become an object per row.
        return pd.ArrowDtype(arrow) if pa.types.is_fixed_size_list(arrow) else None

    try:
        return sorted_samples(table.to_pandas(types_mapper=kind))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def images_hash(rows: pd.DataFrame) -> str:
    """SHA-256 over what identifies the images of ``rows``: key, place and bytes, row by row, and
    the background where there is one.
    """
    digest = hashlib.sha256()
    named = [*IDENTIFYING, *([BACKGROUND] if BACKGROUND in rows.columns else [])]
    for values in rows[named].itertuples(index=False):
        digest.update("\0".join(map(str, values)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def with_background(samples: pd.DataFrame, background: Colour | None) -> pd.DataFrame:
    """``samples`` whose images are decoded on ``background``; None: transparency is dropped."""
    if background is None:
        return samples.drop(columns=BACKGROUND, errors="ignore")
    return samples.assign(**{BACKGROUND: "#" + bytes(background).hex()})


def decoding_of(samples: pd.DataFrame) -> Decoding:
    """How the images of ``samples`` are decoded, all of them alike.

    Raises:
        DataError: some have another background than others.
    """
    if BACKGROUND not in samples.columns or not len(samples):
        return Decoding()
    return _the_one_decoding(samples[BACKGROUND].unique().tolist(), "a frame of samples")


def decoding_in(path: Path) -> Decoding:
    """The same of the index at ``path``, of which only that column is read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if BACKGROUND not in file.schema_arrow.names:
            return Decoding()
        column = file.read(columns=[BACKGROUND])[BACKGROUND]
    found = column.unique().to_pylist()
    return _the_one_decoding(found, str(path)) if found else Decoding()


def _the_one_decoding(found: list[Any], where: str) -> Decoding:
    if len(found) > 1:
        raise DataError(
            f"{where} has images on the backgrounds {found[0]} and {found[1]}: the lists were made "
            "under different values of data.alpha; run the ingestion pipeline again"
        )
    return _decoding(found[0])


def _decoding(background: Any) -> Decoding:
    """By a value of the column ``background``, or its absence."""
    if background is None:
        return Decoding()
    if not isinstance(background, str) or not re.fullmatch("#[0-9a-f]{6}", background):
        raise DataError(
            f"background {background!r:.80} in an index, where #rrggbb is needed; run the "
            "ingestion pipeline again"
        )
    red, green, blue = bytes.fromhex(background[1:])
    return Decoding(background=(red, green, blue))


def read_image(row: Any, root: Path) -> Image.Image:
    """The image of a row, upright and in mode RGB, decoded as its index says.

    Args:
        row: a row of samples (Series, named tuple, mapping).
        root: what its path is relative to.

    Raises:
        DataError: as ``read_bytes`` and ``decode_image``.
    """
    known = row if isinstance(row, Mapping | pd.Series) else row._asdict()
    return decode_image(read_bytes(row, root), _decoding(known.get(BACKGROUND)))


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
