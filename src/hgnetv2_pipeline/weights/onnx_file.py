"""Look into an ONNX file without importing ``onnx``: is it whole, does it end, is it all there?

``CHILDREN`` has the field numbers of onnx.proto; a test compares it with onnx's own table.
A runtime gets the bytes that were looked at, and never the path: what it reads is what was checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights.protobuf_wire import Wire, as_string, message

_TEXT = "StringStringEntryProto"
CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {
        7: "GraphProto", 8: "OperatorSetIdProto", 14: _TEXT, 20: "TrainingInfoProto",
        25: "FunctionProto", 26: "DeviceConfigurationProto",
    },
    "GraphProto": {
        1: "NodeProto", 5: "TensorProto", 11: "ValueInfoProto", 12: "ValueInfoProto",
        13: "ValueInfoProto", 14: "TensorAnnotation", 15: "SparseTensorProto", 16: _TEXT,
    },
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto", 3: _TEXT, 4: _TEXT},
    "FunctionProto": {
        7: "NodeProto", 9: "OperatorSetIdProto", 11: "AttributeProto", 12: "ValueInfoProto",
        14: _TEXT,
    },
    "NodeProto": {5: "AttributeProto", 9: _TEXT, 10: "NodeDeviceConfigurationProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto", 14: "TypeProto",
        15: "TypeProto", 22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "TensorProto": {3: "Segment", 13: _TEXT, 16: _TEXT},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "ValueInfoProto": {2: "TypeProto", 4: _TEXT},
    "TypeProto": {
        1: "Tensor", 4: "Sequence", 5: "Map", 7: "Opaque", 8: "SparseTensor", 9: "Optional",
    },
    "Tensor": {2: "TensorShapeProto"},
    "SparseTensor": {2: "TensorShapeProto"},
    "TensorShapeProto": {1: "Dimension"},
    "Sequence": {1: "TypeProto"},
    "Optional": {1: "TypeProto"},
    "Map": {2: "TypeProto"},
    "TensorAnnotation": {2: _TEXT},
    "NodeDeviceConfigurationProto": {2: "ShardingSpecProto"},
    "ShardingSpecProto": {3: "IntIntListEntryProto", 4: "ShardedDimProto"},
    "ShardedDimProto": {2: "SimpleShardedDimProto"},
}  # fmt: skip
"""Message -> its fields that are messages. All are entered: where one hid a key of more than 32
bits, a runtime would read another file than was checked."""

_GRAPH, _FUNCTIONS, _METADATA = 7, 25, 14  # of ModelProto
_OPERATOR = 4  # of NodeProto
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # of TensorProto
_ENDLESS = ("Loop", "Scan")
_MAX_DEPTH = 40
_MAX_FILE = 2 << 30  # of any message of Protocol Buffers


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was looked at.

    ``content``: its bytes; ``props``: the text entries of its metadata; ``outside``: names of the
    tensors whose values are in other files; ``endless``: its operators that need not end;
    ``functions``: how many it defines itself.
    """

    path: Path
    content: bytes
    props: dict[str, str]
    outside: tuple[str, ...]
    endless: tuple[str, ...]
    functions: int


def examine_onnx(path: Path) -> OnnxFile:
    """Look into the ONNX file ``path``; WeightsError when it is no whole one."""
    path = Path(path)
    content = _content(path)
    with foreign_file(path, WeightsError, "is not a whole ONNX file"):
        data = memoryview(content)
        found = list(_walk(Wire(), data, "ModelProto", 0))
        kinds = [what for what, _ in found]
        if "graph" not in kinds:
            raise ValueError("it holds no graph")
        return OnnxFile(
            path,
            content,
            _props(data),
            tuple(name for what, name in found if what == "external"),
            tuple(name for what, name in found if what == "endless"),
            kinds.count("function"),
        )


def read_onnx(path: Path) -> OnnxFile:
    """The ONNX file ``path`` with bytes that a runtime may be given.

    Raises WeightsError when it is not a whole ONNX model (cut short, another format), when tensors
    are in other files (such a file may name any path of the reader's disk, and is not what its hash
    says it is), and for what may repeat without end: Loop and Scan need not end, and functions
    within functions are a small file that unfolds to any number of nodes.
    """
    file = examine_onnx(path)
    if file.outside:
        raise WeightsError(
            f"{path} keeps {len(file.outside)} tensors in other files (first: {file.outside[0]}); "
            "only single-file ONNX models are read: save it again with its data inside"
        )
    if file.endless:
        raise WeightsError(
            f"{path} has the operator {file.endless[0]}, which need not end; classifiers without "
            f"{' and '.join(_ENDLESS)} are run"
        )
    if file.functions:
        raise WeightsError(
            f"{path} has {file.functions} functions of its own, which may unfold without end: "
            "inline them (onnx.inliner.inline_local_functions) and save it again"
        )
    return file


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
                entry[field] = as_string(content)
        if entry[1] in found:  # runtimes differ in which of the two they take
            raise ValueError(f"the entry {ascii(entry[1][:80])} of its metadata twice")
        found[entry[1]] = entry[2]
    return found


def _walk(wire: Wire, data: memoryview, kind: str, depth: int) -> Iterator[tuple[str, str]]:
    """(what, name) of all that a reader has to know of: graph, function, endless, external."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    external, name = False, ""
    children = CHILDREN.get(kind, {})
    for number, value in wire.fields(data):
        if kind == "TensorProto":
            if number == _NAME:
                name = ascii(str(message(value)[:80], "utf-8", "replace"))[1:-1]
            # Whatever is not plainly inside: a runtime cuts the number to 32 bits.
            external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        elif kind == "NodeProto" and number == _OPERATOR:
            operator = as_string(value)
            if operator in _ENDLESS:
                yield "endless", operator
        elif kind == "ModelProto" and number in (_GRAPH, _FUNCTIONS):
            yield "graph" if number == _GRAPH else "function", ""
        if number in children:
            yield from _walk(wire, message(value), children[number], depth + 1)
    if external:
        yield "external", name or "(unnamed)"
