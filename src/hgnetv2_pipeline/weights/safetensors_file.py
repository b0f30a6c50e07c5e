"""safetensors files: a header of JSON that is checked as a whole, and the bytes it speaks of.

Eight bytes say how long the header is; it gives each tensor's type, shape and place; the data fill
the rest without gap or overlap, so that a file holds no more than its size. Names and metadata are
text from outside: a key appears once, and the names of tensors can be printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import MAX_JSON, parse_json
from hgnetv2_pipeline.weights.pickle_machine import brief_value, key_problem
from hgnetv2_pipeline.weights.tensor_file import likeness, open_weight_file

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip
"""Types that are read, and the bytes of a value."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of the file: ``begin`` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself, the tensors in the order of their bytes."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked. Raises ``WeightsError``."""
    path = Path(path)
    with open_weight_file(path) as (file, size):
        return header_of(file, size, path)


def header_of(file: BinaryIO, size: int, name: object) -> Header:
    """The header of the safetensors file that fills ``file``. Raises ``WeightsError``."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    try:
        if len(start) < 8 or length > size - 8:
            raise ValueError("it ends before its header does")
        if length > MAX_JSON:
            raise ValueError(f"a header of {length:,} bytes; {MAX_JSON:,} are allowed")
        return _checked(parse_json(str(file.read(length), "utf-8")), 8 + length, size)
    except (ValueError, RecursionError) as problem:
        file.seek(0)
        start = file.read(512)
        hint = "" if start[8:9] == b"{" else likeness(start)
        raise WeightsError(f"{name} is not a whole safetensors file: {problem}{hint}") from None


def _checked(header: Any, begin: int, size: int) -> Header:
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not text by name")
    found = {}
    for key, entry in header.items():
        if (problem := key_problem(key)) is not None:
            raise ValueError(f"a tensor's name {problem}")
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{key} is described with other things than type, shape and place")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in WIDTHS:
            raise ValueError(
                f"{key} is of type {brief_value(dtype)}; known are {', '.join(WIDTHS)}"
            )
        if not _counts(shape) or len(shape) > 8 or any(n >= 1 << 40 for n in shape):
            raise ValueError(f"{key} has an impossible shape")
        if not _counts(place) or len(place) != 2:
            raise ValueError(f"{key} has an impossible place")
        taken = math.prod(shape) * WIDTHS[dtype]
        if place[1] - place[0] != taken:
            raise ValueError(
                f"{key} is {dtype} {shape}, {taken:,} bytes, and has {place[1] - place[0]:,}"
            )
        found[key] = TensorEntry(dtype, tuple(shape), begin + place[0], taken)
    ordered = dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].size)))
    at = begin
    for key, tensor in ordered.items():
        if tensor.begin != at:
            raise ValueError(f"{key} begins at byte {tensor.begin:,}, where {at:,} is due")
        at += tensor.size
    if at != size:
        raise ValueError(f"{size:,} bytes long, where its header needs {at:,}")
    return Header(ordered, metadata)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
