"""The messages of ``open_inference.proto`` as classes, made when they are imported.

Code that protoc generates is tied to releases of protobuf; descriptors work with all of them. What
is read is as much of proto3 as that file uses: messages within messages, ``repeated``, ``map`` and
``oneof``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILE = Path(__file__).parent / "open_inference.proto"
_TOKEN = re.compile(r"//[^\n]*|\"[^\"]*\"|[\w.]+|[^\s\w]")
_SCALARS = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def read_proto(text: str) -> tuple[descriptor_pb2.FileDescriptorProto, dict[str, tuple[str, str]]]:
    """The file's descriptor, and each call of its service with its request and response."""
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", syntax="proto3")
    tokens = (word for word in _TOKEN.findall(text) if not word.startswith("//"))
    calls: dict[str, tuple[str, str]] = {}
    for word in tokens:
        if word == "package":
            file.package = next(tokens)
        elif word == "rpc":
            name, _, request, _, _, _, response = (next(tokens) for _ in range(7))
            calls[name] = request, response
        elif word == "message":
            _read_message(tokens, file.message_type.add(), f".{file.package}")
    return file, calls


def _read_message(tokens: Iterator[str], message: Any, scope: str) -> None:
    message.name = next(tokens)
    own = f"{scope}.{message.name}"
    assert next(tokens) == "{"  # noqa: S101 - our own file
    for word in tokens:
        if word == "}":
            return
        if word == "message":
            _read_message(tokens, message.nested_type.add(), own)
        elif word == "oneof":
            message.oneof_decl.add(name=next(tokens))
            next(tokens)
            while (kind := next(tokens)) != "}":
                _read_field(tokens, message, own, kind).oneof_index = len(message.oneof_decl) - 1
        elif word == "map":
            _, key, _, value, _ = (next(tokens) for _ in range(5))
            _read_map(tokens, message, own, (key, value))
        elif word == "repeated":
            _read_field(tokens, message, own, next(tokens)).label = 3
        else:
            _read_field(tokens, message, own, word)


def _read_field(tokens: Iterator[str], message: Any, own: str, kind: str) -> Any:
    name, _, number, _ = (next(tokens) for _ in range(4))
    return _add_field(message, own, kind, name, int(number))


def _add_field(message: Any, own: str, kind: str, name: str, number: int) -> Any:
    field = message.field.add(name=name, number=number, label=1)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        nested = any(kind == each.name for each in message.nested_type)
        field.type_name = f"{own}.{kind}" if nested else f".{own.split('.')[1]}.{kind}"
        field.type = field.TYPE_MESSAGE
    return field


def _read_map(tokens: Iterator[str], message: Any, own: str, kinds: tuple[str, str]) -> None:
    """A map is a repeated message of its keys and values."""
    name, _, number, _ = (next(tokens) for _ in range(4))
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    for place, (kind, part) in enumerate(zip(kinds, ("key", "value"), strict=True), 1):
        _add_field(entry, f"{own}.{entry.name}", kind, part, place)
    _add_field(message, own, entry.name, name, int(number)).label = 3


_file, CALLS = read_proto(_FILE.read_text(encoding="utf-8"))
SERVICE = f"{_file.package}.GRPCInferenceService"
_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file)
MESSAGES: dict[str, Any] = {
    each.name: message_factory.GetMessageClass(
        _pool.FindMessageTypeByName(f"{_file.package}.{each.name}")
    )
    for each in _file.message_type
}
"""The classes of the outermost messages, by name."""
