"""Look into an ONNX file without importing ``onnx``: its text entries, and tensors kept elsewhere.

The wire format of Protocol Buffers is a run of (field number, wire type, value); only the fields
that can hold a tensor are entered, everything else is skipped by its length. Field numbers are
those of onnx.proto: ModelProto.graph 7, GraphProto.node 1, GraphProto.initializer 5,
GraphProto.sparse_initializer 15, NodeProto.attribute 5, AttributeProto.t 5, .g 6, .tensors 10,
.graphs 11, .sparse_tensor 22, .sparse_tensors 23, ModelProto.functions 25, FunctionProto.node 7,
.attribute_proto 11, SparseTensorProto.values 1, .indices 2, TensorProto.name 8,
.external_data 13, .data_location 14 (1 = external), ModelProto.metadata_props 14,
StringStringEntryProto.key 1, .value 2.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError

_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_METADATA = 14
_MAX_DEPTH = 40


def onnx_props(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of the ONNX file ``path``; WeightsError when it is no whole one."""
    try:
        with Path(path).open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        entries = [
            {n: bytes(v).decode("utf-8") for n, v in _fields(value) if isinstance(v, memoryview)}
            for number, value in _fields(data)
            if number == _METADATA and isinstance(value, memoryview)
        ]
    except (IndexError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole ONNX file ({error})") from error
    return {entry.get(1, ""): entry.get(2, "") for entry in entries}


def external_tensors(path: Path) -> list[str]:
    """Names of the tensors of the ONNX file ``path`` whose values lie in another file.

    Raises WeightsError when the file is not a whole ONNX model (cut short, another format).
    """
    try:
        with Path(path).open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        found = list(_walk(data, "model", 0))
    except (IndexError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole ONNX file ({error})") from error
    if not found:
        raise WeightsError(f"{path} is not an ONNX file: it holds no graph")
    return [name for kind, name in found if kind == "external"]


def _walk(data: memoryview, kind: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    external, name = False, ""
    for number, value in _fields(data):
        if kind == "tensor":
            if number == _NAME and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8", "replace")
            external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)
        child = _CHILDREN[kind].get(number)
        if child is not None:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of a {kind} is no message")
            if child == "graph" and kind == "model":
                yield "graph", ""
            yield from _walk(value, child, depth + 1)
    if external:
        yield "external", name or "(unnamed)"


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > end:
            raise ValueError(f"a field of {length} bytes ends after the data")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
