"""Spoiled ONNX files with a card for ``mutation.run_mutations``, and the judge of what is answered.

Three ways to spoil one: bytes anywhere; the fields of its messages, keys and lengths written as no
library writes them among it; the values of its card.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: F401 - before the memory of a case is counted
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hgnetv2_pipeline.deployment.engines import with_ort  # noqa: F401
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.weights.onnx_file import onnx_props
from hgnetv2_pipeline.weights.protobuf_wire import varint
from spoiling import mutate, spoil

SIDE, CLASSES = 8, ("a", "b", "c")
PREPROCESS = {
    "resize_short": 9, "crop": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
    "interpolation": "bicubic", "max_pixels": 50_000_000,
}  # fmt: skip

PROBES = json.dumps({"allowed": 0.1, "logits": [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]})


def card(**entries: str) -> dict[str, str]:
    """The text entries of a good card, with ``entries`` in place of its own."""
    return {
        "format": "hgnetv2_pipeline.onnx/1",
        "preprocess": json.dumps(PREPROCESS),
        "classes": json.dumps(CLASSES),
        "variant": "b0",
        "precision": "fp32",
    } | entries


def model(
    nodes: list[Any] | None = None,
    *,
    weight: np.ndarray | None = None,
    props: dict[str, str] | None = None,
    functions: list[Any] | None = None,
    classes: int = len(CLASSES),
) -> Any:
    """A ModelProto: the mean of each channel times a weight [3, classes], then ``nodes`` from
    ``q`` to ``y``."""
    if weight is None:
        weight = np.random.default_rng(0).standard_normal((3, classes)).astype(np.float32)
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["q"]),
            *(nodes or [helper.make_node("Identity", ["q"], ["y"])]),
        ],
        "g",
        [images],
        [logits],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])
    helper.set_model_props(made, card() if props is None else props)
    return made


# --- the wire -------------------------------------------------------------------------------------


def number(value: int, length: int = 0) -> bytes:
    """A varint, of ``length`` bytes at least."""
    data = bytearray()
    while value > 0x7F or len(data) + 1 < length:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def field(key: int, content: bytes, *, wide: int = 0, high: int = 0) -> bytes:
    """A field of bytes; ``wide`` bytes of key, and ``high`` beyond its 32 bits."""
    return number((key << 3 | 2) | high << 32, wide) + number(len(content)) + content


def flag(key: int, value: int, *, wide: int = 0, high: int = 0) -> bytes:
    """A field of a number."""
    return number((key << 3) | high << 32, wide) + number(value)


def spans(data: bytes, begin: int = 0, end: int | None = None, depth: int = 0) -> Iterator[Any]:
    """(start of the key, start of the content, end) of fields of bytes, messages taken for such."""
    end = len(data) if end is None else end
    view, at = memoryview(data), begin
    while at < end and depth < 12:
        start = at
        try:
            key, at = varint(view, at)
            kind = key & 7
            length, at = varint(view, at) if kind in (0, 2) else (8 if kind == 1 else 4, at)
        except ValueError:
            return
        if kind == 0:
            continue
        if kind not in (1, 2, 5) or at + length > end:
            return
        if kind == 2:
            yield start, at, at + length
            yield from spans(data, at, at + length, depth + 1)
        at += length


@functools.cache
def honest() -> tuple[bytes, ...]:
    deeper = [
        helper.make_node("Relu", ["q"], ["r"]),
        helper.make_node("Add", ["r", "q"], ["y"]),
    ]
    branch = helper.make_graph(
        [helper.make_node("Neg", ["q"], ["n"])], "b", [],
        [helper.make_tensor_value_info("n", 1, None)],
    )  # fmt: skip
    branching = [
        helper.make_node("Constant", [], ["t"], value=helper.make_tensor("t", 9, [], [True])),
        helper.make_node("If", ["t"], ["y"], then_branch=branch, else_branch=branch),
    ]
    return tuple(model(nodes).SerializeToString() for nodes in (None, deeper, branching))


OUTSIDE = field(13, field(1, b"location") + field(2, b"secret.bin"))
PIECES = [
    flag(14, 1), flag(14, 1 << 32 | 1), flag(14, 1, high=1), OUTSIDE, flag(20, 5),
    field(4, b"Loop"),
    field(4, b"Scan"), field(4, b"NoSuchOperator"), field(7, b"com.microsoft"), field(25, b""),
    field(13, field(1, b"location") + field(2, b"s"), wide=7), field(13, OUTSIDE[2:], high=1),
    field(14, field(1, b"format") + field(2, b"x")), flag(1, 2**40), flag(1, 2**63), flag(1, 0),
    flag(2, 1), flag(2, 16), flag(2, 23), field(9, b""), field(9, b"\0\0\xc0\x7f" * 9), b"\x0b",
    b"\x0c", b"\x80" * 10, b"\xff" * 10, field(1, b"\xff\xfe"),
]  # fmt: skip


def make_onnx(rng: random.Random) -> tuple[bytes, Any]:
    source = rng.choice(honest())
    way = rng.random()
    if way < 0.25:
        return mutate(source, rng.choice(honest()), PIECES, rng), None
    if way < 0.55:
        entries = card()
        key = rng.choice([*entries, "macs", "parity_error", "thresholds", "task", "probes"])
        value = entries.get(key, PROBES if key == "probes" else "1")
        try:
            spoilt = json.dumps(spoil(json.loads(value), rng))
        except ValueError:
            spoilt = rng.choice(["", "NaN", "1e400", "[" * 9_000, "-1", "é\x1b[2J", "b9"])
        return model(props=entries | {key: spoilt}).SerializeToString(), None
    # A whole field changed, with the lengths around it right, so that it is reached.
    start, begin, end = rng.choice(list(spans(source)))
    piece = rng.choice(PIECES)
    changed = rng.choice([piece, source[begin:end] + piece, piece + source[begin:end], b""])
    return rewritten(source, start, begin, end, changed, rng), None


def rewritten(
    data: bytes, start: int, begin: int, end: int, content: bytes, rng: random.Random
) -> bytes:
    """``data`` with the field at ``start`` holding ``content``, all lengths around it right."""
    key = varint(memoryview(data), start)[0]
    made = number(key | (rng.random() < 0.1) << 32, rng.choice((0, 0, 0, 3, 5, 6)))
    made += number(len(content), rng.choice((0, 0, 0, 5, 9))) + content
    return enclosed(data, start, end, made)


def rewritten_at(data: bytes, name: bytes, more: bytes) -> bytes:
    """``data`` with ``more`` behind the field that is ``name``, all lengths around it right."""
    start, begin, end = next(s for s in spans(data) if data[s[1] : s[2]] == name)
    return enclosed(data, start, end, data[start:end] + more)


def enclosed(data: bytes, start: int, end: int, made: bytes) -> bytes:
    """``data`` with ``made`` in place of a field, and the lengths of the messages around it."""
    around = [s for s in spans(data) if s[1] <= start and end <= s[2]]
    for s, b, e in reversed(around):
        inner = data[b:start] + made + data[end:e]
        made = key_of(data, s) + number(len(inner)) + inner
        start, end = s, e
    return data[:start] + made + data[end:]


def key_of(data: bytes, at: int) -> bytes:
    return data[at : varint(memoryview(data), at)[1]]


def check_onnx(path: Path, _: Any) -> str:
    engine = load_engine(path, "ort", threads=1)
    told = onnx.load_from_string(path.read_bytes())
    assert {entry.key: entry.value for entry in told.metadata_props} == onnx_props(path)
    assert not list(tensors_outside(told))
    (record,) = engine.predict([Image.new("RGB", (12, 10), (90, 20, 200))])
    if "error" in record:
        return "no answer, and a reason"
    assert record["class_ids"] and np.isfinite(record["scores"]).all()
    return "answered"


def tensors_outside(message: Any) -> Iterator[str]:
    """Names of the tensors of a message, found by onnx's own parser, that are elsewhere."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for item in value if descriptor.is_repeated else [value]:
            if descriptor.message_type.name == "TensorProto" and (
                item.data_location or item.external_data
            ):
                yield item.name
            yield from tensors_outside(item)
