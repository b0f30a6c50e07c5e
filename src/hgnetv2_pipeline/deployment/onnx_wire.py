"""Look into an ONNX file without importing ``onnx``: is it whole, does it end, is it all there?

Only the fields that can hold a node or a tensor are entered, everything else is skipped by its
length. ``CHILDREN`` has the field numbers of onnx.proto; a test compares it with onnx's own table.
A runtime gets the bytes that were looked at, and never the path: what it reads is what was checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.models.protobuf_wire import Wire, message, text

CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 10: "TensorProto", 6: "GraphProto", 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}  # fmt: skip
"""Message -> the fields below which a node or a tensor may stand, with their messages."""

_GRAPH, _FUNCTIONS, _METADATA = 7, 25, 14  # of ModelProto
_OPERATOR = 4  # of NodeProto
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # of TensorProto
_ENDLESS = ("Loop", "Scan")
_MAX_DEPTH = 40
_MAX_FILE = 2 << 30  # of any message of Protocol Buffers


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was looked at: its ``content``, and the text entries of its metadata."""

    path: Path
    content: bytes
    props: dict[str, str]


def read_onnx(path: Path) -> OnnxFile:
    """The bytes of the ONNX file ``path``, checked, for a runtime.

    Raises WeightsError when the file is not a whole ONNX model (cut short, another format), when
    tensors lie in other files (such a file may name any path of the reader's disk, and is not what
    its hash says it is), and for operators that repeat: Loop and Scan need not end, and functions
    within functions are a small file that unfolds to any number of nodes.
    """
    path = Path(path)
    content = _content(path)
    with foreign_file(path, WeightsError, "is not a whole ONNX file"):
        wire, data = Wire(), memoryview(content)
        graphs, outside = 0, []
        for what, name in _walk(wire, data, "ModelProto", 0):
            graphs += what == "graph"
            if what == "external":
                outside.append(name)
            elif what == "endless":
                raise WeightsError(
                    f"{path} has the operator {name}, which need not end; classifiers without "
                    f"{' and '.join(_ENDLESS)} are run"
                )
            elif what == "function":
                raise WeightsError(
                    f"{path} has functions of its own, which may unfold without end: inline them "
                    "(onnx.inliner.inline_local_functions) and save it again"
                )
        if not graphs:
            raise WeightsError(f"{path} is not an ONNX file: it holds no graph")
        props = _props(data)
    if outside:
        raise WeightsError(
            f"{path} keeps {len(outside)} tensors in other files (first: {outside[0]}); only "
            "single-file ONNX models are read: save it again with its data inside"
        )
    return OnnxFile(path, content, props)


def onnx_props(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of the ONNX file ``path``; WeightsError when it is no whole one."""
    content = _content(Path(path))
    with foreign_file(path, WeightsError, "is not a whole ONNX file"):
        return _props(memoryview(content))


def _content(path: Path) -> bytes:
    with foreign_file(path, WeightsError):
        if not path.is_file():  # nor is a pipe or a device, which could keep us waiting
            raise WeightsError(f"no such model file: {path}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_FILE:
                raise WeightsError(
                    f"{path} is {size:,} bytes long; ONNX files are under {_MAX_FILE:,}"
                )
            return file.read()


def _props(data: memoryview) -> dict[str, str]:
    wire = Wire()
    found: dict[str, str] = {}
    for number, value in wire.fields(data):
        if number != _METADATA:
            continue
        entry = {1: "", 2: ""}
        for field, content in wire.fields(message(value)):
            if field in entry:
                entry[field] = text(content)
        if entry[1] in found:  # runtimes differ in which of the two they take
            raise ValueError(f"the entry {ascii(entry[1][:80])} of its metadata twice")
        found[entry[1]] = entry[2]
    return found


def _walk(wire: Wire, data: memoryview, kind: str, depth: int) -> Iterator[tuple[str, str]]:
    """(what, name) of all that a reader has to know of: graph, function, endless, external."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    external, name = False, ""
    children = CHILDREN[kind]
    for number, value in wire.fields(data):
        if kind == "TensorProto":
            if number == _NAME:
                name = ascii(str(message(value)[:80], "utf-8", "replace"))[1:-1]
            # Whatever is not plainly inside: a runtime cuts the number to 32 bits.
            external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        elif kind == "NodeProto" and number == _OPERATOR:
            operator = text(value)
            if operator in _ENDLESS:
                yield "endless", operator
        elif kind == "ModelProto" and number in (_GRAPH, _FUNCTIONS):
            yield "graph" if number == _GRAPH else "function", ""
        if number in children:
            yield from _walk(wire, message(value), children[number], depth + 1)
    if external:
        yield "external", name or "(unnamed)"
