"""Paddle's two program formats, read as far as the parameters and what is done with them.

``inference.pdmodel`` is a ProgramDesc of framework.proto (up to Paddle 2.6, and 3 on request);
``inference.json`` is the PIR program of Paddle 3. Field numbers of framework.proto:
ProgramDesc.blocks 1; BlockDesc.vars 3, .ops 4; VarDesc.name 1, .type 2, .persistable 3;
VarType.type 1, .lod_tensor 3; LoDTensorDesc.tensor 1; TensorDesc.data_type 1, .dims 2;
OpDesc.inputs 1, .outputs 2, .type 3; OpDesc.Var.parameter 1, .arguments 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hgnetv2_pipeline.foreign import parse_json
from hgnetv2_pipeline.weights.protobuf_wire import Wire, as_signed, as_string, as_unsigned, message

Value = str | int  # a value of the program: a name, or a PIR number

DTYPES = {  # VarType.Type -> numpy's code; bfloat16 stays as its 16 bits, as in .pdparams
    0: "b1", 1: "i2", 2: "i4", 3: "i8", 4: "f2", 5: "f4", 6: "f8", 20: "u1", 21: "i1", 22: "u2",
}  # fmt: skip
_PIR_DTYPES = {
    "bool": "b1", "i16": "i2", "i32": "i4", "i64": "i8", "f16": "f2", "f32": "f4", "f64": "f8",
    "ui8": "u1", "i8": "i1", "bf16": "u2",
}  # fmt: skip
_TENSOR = 7  # VarType.Type LOD_TENSOR
_NO_DATA = (9, 10, 15, 17)  # feed and fetch lists, readers, raw: persistable, never saved

_KINDS = {
    "conv2d": "conv",
    "depthwise_conv2d": "conv",
    "batch_norm": "batch_norm",
    "sync_batch_norm": "batch_norm",
    "matmul": "linear",
    "matmul_v2": "linear",
    "mul": "linear",
    "add": "add",
    "elementwise_add": "add",
    "multiply": "multiply",
    "elementwise_mul": "multiply",
    "reshape": "view",
    "reshape2": "view",
    "unsqueeze": "view",
    "unsqueeze2": "view",
    "cast": "view",
    "assign": "view",
}
# The inputs that matter, in one order for both formats: slots by name, operands by position.
_SLOTS = {
    "conv": ("Input", "Filter"),
    "batch_norm": ("X", "Scale", "Bias", "Mean", "Variance"),
    "linear": ("X", "Y"),
    "add": ("X", "Y"),
    "multiply": ("X", "Y"),
    "view": ("X",),
}
_OPERANDS = {"batch_norm": (0, 3, 4, 1, 2)}  # PIR has x, mean, variance, scale, bias


@dataclass(frozen=True)
class DeclaredTensor:
    """What a program says of a parameter: its shape and numpy's code of its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Op:
    """An operation: ``kind`` as in this file where it is a known one, else Paddle's own name.

    Inputs of a known kind come in this order: conv (x, weight); batch_norm (x, scale, bias, mean,
    variance); linear, add, multiply (x, y); view (x, ...).
    """

    kind: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Program:
    """Parameters by framework name (``conv2d_0.w_0``) and the operations in order."""

    parameters: dict[str, DeclaredTensor]
    ops: list[Op]


# --- inference.pdmodel ------------------------------------------------------------------------


def read_pdmodel(data: bytes) -> Program:
    """The program of an ``inference.pdmodel``. Raises ``ValueError``."""
    wire = Wire()
    parameters: dict[str, DeclaredTensor] = {}
    ops = []
    blocks = 0
    for field, block in wire.fields(memoryview(data)):
        if field != 1:
            continue
        blocks += 1
        for kind, value in wire.fields(message(block)):
            if kind == 3:
                name, declared = _variable(wire, message(value))
                if declared is not None:
                    _declare(parameters, name, declared)
            elif kind == 4 and blocks == 1:
                ops.append(_op_desc(wire, message(value)))
    if not blocks:
        raise ValueError("it is no program of Paddle's")
    return Program(parameters, ops)


def _variable(wire: Wire, data: memoryview) -> tuple[str, DeclaredTensor | None]:
    name, kind, persistable = "", memoryview(b""), 0
    for field, value in wire.fields(data):
        if field == 1:
            name = as_string(value)
        elif field == 2:
            kind = message(value)
        elif field == 3:
            persistable = as_unsigned(value)
    if not persistable:
        return name, None
    type_code, tensor = -1, memoryview(b"")
    for field, value in wire.fields(kind):
        if field == 1:
            type_code = as_unsigned(value)
        elif field == 3:
            for inner, content in wire.fields(message(value)):
                if inner == 1:
                    tensor = message(content)
    if type_code in _NO_DATA:
        return name, None
    if type_code != _TENSOR:
        raise ValueError(f"{brief_name(name)} is a variable of type {type_code}, not a tensor")
    return name, read_tensor_desc(tensor, brief_name(name), wire)


def read_tensor_desc(data: memoryview, name: str, wire: Wire | None = None) -> DeclaredTensor:
    """A TensorDesc: the type once, the dimensions, nothing else. Raises ``ValueError``."""
    types: list[int] = []
    shape: list[int] = []
    for field, value in (wire or Wire()).fields(data):
        if field == 1:
            types.append(as_unsigned(value))
        elif field == 2:
            shape += as_signed(value)
        else:
            raise ValueError(f"{name} is described with an unknown field {field}")
    if len(types) != 1 or types[0] not in DTYPES:
        raise ValueError(f"{name} has the type {types[:3]}; known are {sorted(DTYPES)}")
    return DeclaredTensor(_checked_shape(shape, name), DTYPES[types[0]])


def _checked_shape(shape: list[Any], name: str) -> tuple[int, ...]:
    if len(shape) > 8 or any(type(n) is not int or not 0 < n < 1 << 40 for n in shape):
        raise ValueError(f"{name} has an impossible shape {shape[:8]!r:.120}")
    return tuple(shape)


def _declare(parameters: dict[str, DeclaredTensor], name: str, declared: DeclaredTensor) -> None:
    if not name or name in parameters:
        raise ValueError(
            f"the parameter {brief_name(name)!r} twice" if name else "a nameless parameter"
        )
    parameters[name] = declared


def _op_desc(wire: Wire, data: memoryview) -> Op:
    slots: dict[str, list[Value]] = {}
    outputs: list[Value] = []
    name = ""
    for field, value in wire.fields(data):
        if field == 3:
            name = as_string(value)
        elif field in (1, 2):
            slot, arguments = "", []
            for inner, content in wire.fields(message(value)):
                if inner == 1:
                    slot = as_string(content)
                elif inner == 2:
                    arguments.append(as_string(content))
            if field == 2:
                outputs += arguments
            else:
                slots.setdefault(slot, []).extend(arguments)
    kind = _KINDS.get(name, name)
    inputs: list[Value] = []
    for slot in _SLOTS.get(kind, ()):
        values = slots.pop(slot, [])
        if len(values) != 1:
            raise ValueError(f"an operation {brief_name(name)} with {len(values)} inputs {slot}")
        inputs += values
    for values in slots.values():
        inputs += values
    return Op(kind, tuple(inputs), tuple(outputs))


# --- inference.json ---------------------------------------------------------------------------


def read_pir(data: bytes) -> Program:
    """The program of an ``inference.json``. Raises ``ValueError``."""
    root = parse_json(str(data, "utf-8"))
    if _get(_get(root, "base_code", dict), "magic", str) != "pir":
        raise ValueError("it is no PIR program of Paddle's")
    (region,) = _exactly_one(_get(_get(root, "program", dict), "regions", list), "region")
    (block,) = _exactly_one(_get(region, "blocks", list), "block")
    parameters: dict[str, DeclaredTensor] = {}
    names: dict[int, str] = {}  # numbers of the values that are parameters
    ops = []
    for entry in _get(block, "ops", list):
        name = _get(entry, "#", str).rpartition(".")[2]
        if name in ("p", "parameter"):
            result = _get(entry, "O", dict)
            attributes = _get(entry, "A", list)
            if len(attributes) != 4 or not isinstance(attributes[3], str):
                raise ValueError("a parameter without a name")
            _declare(parameters, attributes[3], _pir_type(result, brief_name(attributes[3])))
            names[_get(result, "%", int)] = attributes[3]
        else:
            ops.append(_pir_op(entry, name, names))
    return Program(parameters, ops)


def _get(value: Any, key: str, kind: type) -> Any:
    """``value[key]``, which must be there and of that very type (a bool is no int)."""
    found = value.get(key) if isinstance(value, dict) else None
    if type(found) is not kind:
        raise ValueError(f"{key!r} is missing or no {kind.__name__}")
    return found


def _exactly_one(values: list[Any], what: str) -> list[Any]:
    if len(values) != 1:
        raise ValueError(f"{len(values)} {what}s, where an exported network has one")
    return values


def _pir_type(result: Any, name: str) -> DeclaredTensor:
    kind = _get(result, "TT", dict)
    content = _get(kind, "D", list)
    if not _get(kind, "#", str).endswith(".t_dtensor") or len(content) < 2:
        raise ValueError(f"{name} is no tensor")
    dtype = _get(content[0], "#", str).rpartition("t_")[2]
    if dtype not in _PIR_DTYPES:
        raise ValueError(
            f"{name} has the type {brief_name(dtype)}; known are {', '.join(_PIR_DTYPES)}"
        )
    if not isinstance(content[1], list):
        raise ValueError(f"{name} has no shape")
    return DeclaredTensor(_checked_shape(content[1], name), _PIR_DTYPES[dtype])


def _pir_op(entry: Any, name: str, names: dict[int, str]) -> Op:
    name = name.removesuffix("_")  # in place
    kind = _KINDS.get(name, name)
    inputs: list[Value] = [names.get(v, v) for v in _numbers(entry, "I")]
    order = _OPERANDS.get(kind, range(len(_SLOTS.get(kind, ()))))
    if len(inputs) < len(order):
        raise ValueError(f"an operation {brief_name(name)} with {len(inputs)} inputs")
    inputs = [inputs[i] for i in order] + inputs[len(order) :]
    return Op(kind, tuple(inputs), tuple(_numbers(entry, "O")))


def _numbers(entry: Any, key: str) -> Iterator[int]:
    values = entry.get(key, [])
    for value in values if isinstance(values, list) else [values]:
        yield _get(value, "%", int)


def brief_name(name: str) -> str:
    """A name of the file for a message: short, and without surprises on a terminal."""
    return ascii(name[:80])[1:-1]
