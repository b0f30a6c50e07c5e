"""Records as text and files: the two line formats of the PP-HGNetV2 page, CSV, JSON lines, Parquet,
and a sheet of pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.data.decode import DECODING, Decoding
from hgnetv2_pipeline.deployment.inputs import ImageInput, Span
from hgnetv2_pipeline.deployment.predict import Record
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.printable import csv_line, json_text, printable

if TYPE_CHECKING:
    from PIL import Image


_ROWS_A_GROUP = 4096
_FEATURES_A_GROUP = 1024  # of 2048 numbers each: 8 MiB


def format_infer(records: Iterable[Record]) -> str:
    """The page's section 2.5 (``tools/infer.py``): one Python list of dicts, scores to 5 decimals.

    A bad input's dict has empty lists and a fifth entry, ``error``.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        row: dict[str, Any] = {
            "class_ids": record["class_ids"],
            "scores": [round(score, 5) for score in record["scores"]],
            "file_name": record["file_name"],
            "label_names": record["label_names"],
        }
        if "error" in record:
            row["error"] = record["error"]
        rows.append(row)
    return repr(rows)


def format_predict_cls(record: Record) -> str:
    """The page's section 3.2 (``predict_cls.py``): one line, base name, scores to 2 decimals."""
    name = printable(Path(record["file_name"]).name)
    if "error" in record:
        return f"{name}:    error: {printable(record['error'])}"
    scores = ", ".join(f"{score:.2f}" for score in record["scores"])
    return (
        f"{name}:    class id(s): {record['class_ids']}, score(s): [{scores}], "
        f"label_name(s): {record['label_names']}"
    )


def csv_lines(records: Iterable[Record], *, topk: int) -> Iterator[str]:
    """A header and a row an input: ``file_name, error``, then ``id, score, label`` of each of
    ``topk`` ranks. Texts are written by ``printable.csv_cell``: no formula, no control character.
    """
    if topk < 1:
        raise ParameterError(f"topk={topk}; it must be at least 1")
    ranks = range(1, topk + 1)
    yield csv_line(
        ["file_name", "error"]
        + [f"{what}_{rank}" for rank in ranks for what in ("id", "score", "label")]
    )
    for record in records:
        ranked = zip(record["class_ids"], record["scores"], record["label_names"], strict=True)
        cells = [cell for answer in ranked for cell in answer][: 3 * topk]
        padding = [""] * (3 * topk - len(cells))
        yield csv_line([record["file_name"], record.get("error", ""), *cells, *padding])


def jsonl_lines(records: Iterable[Record]) -> Iterator[str]:
    """One JSON object per line, the record as it is (full precision, ``error`` for a bad input)."""
    for record in records:
        yield json_text({key: value for key, value in record.items() if key != "embedding"})


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write lines as they come; the file is there when all of them are."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)
    return Path(path)


def write_predictions_csv(path: Path, records: Iterable[Record], *, topk: int) -> Path:
    """``csv_lines`` in a file."""
    return write_lines(path, csv_lines(records, topk=topk))


def write_predictions_jsonl(path: Path, records: Iterable[Record]) -> Path:
    """``jsonl_lines`` in a file."""
    return write_lines(path, jsonl_lines(records))


def write_predictions_parquet(path: Path, records: Iterable[Record]) -> Path:
    """A row an input: ``file_name, class_ids, scores, label_names`` (lists) and ``error``, which is
    null for a good one; written as the records come.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("file_name", pa.string()),
            ("class_ids", pa.list_(pa.int32())),
            ("scores", pa.list_(pa.float64())),
            ("label_names", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )
    stream = iter(records)
    with write_aside(path) as aside, parquet.ParquetWriter(aside, schema) as writer:
        while rows := list(islice(stream, _ROWS_A_GROUP)):
            whole = [{"error": None, **record} for record in rows]
            writer.write_table(pa.Table.from_pylist(whole, schema=schema))
    return Path(path)


@contextmanager
def write_features(
    path: Path, about: Mapping[str, str]
) -> Iterator[Callable[[Iterable[Record]], Iterator[Record]]]:
    """A Parquet file of embeddings, written as records pass through what the body is given.

    A row an input: ``file_name``, ``embedding`` (float32 list, null for a bad one) and ``error``
    (null for a good one). ``about`` becomes the file's metadata. Once the body has ended without an
    error the file is there.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("file_name", pa.string()),
            ("embedding", pa.list_(pa.float32())),
            ("error", pa.string()),
        ],
        metadata=dict(about),
    )
    rows: list[Record] = []

    def passing(records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            rows.append(record)
            if len(rows) == _FEATURES_A_GROUP:
                write()
            yield record

    def write() -> None:
        columns = [[row.get(field.name) for row in rows] for field in schema]
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)
        ]
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        rows.clear()

    with write_aside(path) as aside, parquet.ParquetWriter(aside, schema) as writer:
        yield passing
        write()


def prediction_sheet(
    inputs: Sequence[ImageInput],
    records: Sequence[Record],
    *,
    columns: int = 8,
    cell: int = 96,
    multi_label: bool = False,
    decoding: Decoding = DECODING,
) -> Image.Image:
    """The images in rows, below each its best class and score (``multi_label``: all its classes); a
    bad one crossed out, with its reason. ``decoding`` says how they are decoded, as the
    model sees them. Inputs that are no files, such as bytes, are left out;
    DataError when none is left.
    """
    import pandas as pd

    from hgnetv2_pipeline.data.index import with_decoding
    from hgnetv2_pipeline.data.report import contact_sheet

    places, captions = [], []
    for entry, record in zip(inputs, records, strict=True):
        source = entry.source
        if isinstance(source, Path):
            source = Span(source, -1, 0)
        if not isinstance(source, Span):
            continue
        # A sheet has one root; files may be anywhere.
        places.append((str(source.path.resolve())[1:], source.offset, source.length))
        if "error" in record:
            captions.append(record["error"])
        elif multi_label:
            captions.append(", ".join(record["label_names"]) or "-")
        elif record["class_ids"]:
            captions.append(f"{record['label_names'][0]} {record['scores'][0]:.2f}")
        else:
            captions.append("-")
    # As they are: pandas' strings are UTF-8, names of files need not be.
    frame = pd.DataFrame(places, columns=["path", "offset", "length"], dtype=object)
    frame = with_decoding(frame, decoding)
    return contact_sheet(frame, Path("/"), columns=columns, cell=cell, captions=captions)
