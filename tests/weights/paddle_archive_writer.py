"""Inference archives as Paddle writes them, for tests: both program formats, tar or folder.

Nothing here is shared with the reader. The operations of a network are traced from our module by
torch.fx, so that names meet operations by the module that owns them and not by any order; the
layout of the files was taken from the ones in tests/golden/paddle_files, written by Paddle 3.3.1.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

Arrays = Mapping[str, np.ndarray]


@dataclass
class Node:
    """An operation: kind, the value it makes, the values and parameters it takes by slot."""

    kind: str
    out: str
    inputs: dict[str, list[str]]


@dataclass
class Net:
    """Operations in order, and for every parameter its structured and its framework name."""

    nodes: list[Node] = field(default_factory=list)
    framework: dict[str, str] = field(default_factory=dict)  # in order of construction


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not list(module.children()) and "scale" not in module._parameters


def network(model: nn.Module, first: Mapping[str, int] | None = None, shuffle: int = 0) -> Net:
    """The traced ``model``; counters begin at ``first`` and are dealt again where ``shuffle``."""
    net = Net()
    _name_parameters(net, model, first or {}, shuffle)
    values: dict[fx.Node, str] = {}
    count = 0

    def emit(kind: str, **inputs: list[str]) -> str:
        nonlocal count
        count += 1
        net.nodes.append(Node(kind, f"{kind}_{count}.tmp_0", inputs))
        return net.nodes[-1].out

    for node in _Tracer().trace(model.eval()).nodes:
        given = [values[n] for n in node.all_input_nodes]
        p = net.framework
        if node.op == "placeholder":
            values[node] = "x"
        elif node.op == "get_attr":
            values[node] = p[str(node.target)]
        elif node.op == "call_module":
            module, target = model.get_submodule(str(node.target)), str(node.target)
            if isinstance(module, nn.Conv2d):
                kind = "depthwise_conv2d" if module.groups > 1 else "conv2d"
                values[node] = emit(kind, Input=given, Filter=[p[f"{target}.weight"]])
                if module.bias is not None:
                    bias = emit("reshape2", X=[p[f"{target}.bias"]])
                    values[node] = emit("elementwise_add", X=[values[node]], Y=[bias])
            elif isinstance(module, nn.BatchNorm2d):
                slots = {
                    "X": given,
                    "Scale": [p[f"{target}.weight"]],
                    "Bias": [p[f"{target}.bias"]],
                    "Mean": [p[f"{target}._mean"]],
                    "Variance": [p[f"{target}._variance"]],
                }
                values[node] = emit("batch_norm", **slots)
            elif isinstance(module, nn.Linear):
                flat = emit("matmul_v2", X=given, Y=[p[f"{target}.weight"]])
                values[node] = emit("elementwise_add", X=[flat], Y=[p[f"{target}.bias"]])
            elif isinstance(module, nn.Identity):
                values[node] = given[0]
            else:
                values[node] = emit("relu", X=given)
        elif node.op in ("call_function", "call_method"):
            name = getattr(node.target, "__name__", str(node.target))
            if name in ("mul", "add") and len(given) == 2:
                x, y = given
                values[node] = emit(f"elementwise_{name}", X=[x], Y=[y])
            elif name == "cat":
                values[node] = emit("concat", X=given)
            else:
                values[node] = emit(name, X=given)
    emit("softmax", X=[net.nodes[-1].out])
    return net


_LAYERS: list[tuple[type[nn.Module], str, dict[str, str]]] = [
    (nn.Conv2d, "conv2d", {"weight": "w_0", "bias": "b_0"}),
    (
        nn.BatchNorm2d,
        "batch_norm2d",
        {"weight": "w_0", "bias": "b_0", "_mean": "w_1", "_variance": "w_2"},
    ),
    (nn.Linear, "linear", {"weight": "w_0", "bias": "b_0"}),
    (nn.Module, "learnable_affine_block", {"scale": "w_0", "bias": "w_1"}),
]


def _name_parameters(net: Net, model: nn.Module, first: Mapping[str, int], shuffle: int) -> None:
    layers: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for name, module in model.named_modules():
        if module._parameters:
            kind, parts = next((k, p) for t, k, p in _LAYERS if isinstance(module, t))
            own = {
                part: end for part, end in parts.items() if part[0] == "_" or part in _of(module)
            }
            layers.setdefault(kind, []).append((name, own))
    numbers = {kind: list(range(first.get(kind, 0), 10_000)) for kind in layers}
    for kind, found in layers.items():
        numbers[kind] = numbers[kind][: len(found)]
        if shuffle:
            random.Random(shuffle).shuffle(numbers[kind])
        for number, (name, own) in zip(numbers[kind], found, strict=True):
            for part, end in own.items():
                net.framework[f"{name}.{part}"] = f"{kind}_{number}.{end}"


def _of(module: nn.Module) -> set[str]:
    return {name for name, value in module._parameters.items() if value is not None}


# --- the files --------------------------------------------------------------------------------

_CODES = {"<f4": 5, "<f2": 4, "<f8": 6, "<i8": 3, "<u2": 22}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | 0x80 if value else low)
        if not value:
            return bytes(out)


def part(number: int, value: int | bytes | str) -> bytes:
    """A field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor_desc(code: int, shape: tuple[int, ...]) -> bytes:
    return part(1, code) + b"".join(part(2, n) for n in shape)


def record(array: np.ndarray, desc: bytes | None = None) -> bytes:
    """One tensor of .pdiparams."""
    desc = tensor_desc(_CODES[array.dtype.str], array.shape) if desc is None else desc
    return struct.pack("<IQIi", 0, 0, 0, len(desc)) + desc + array.tobytes()


def pdiparams(variables: Arrays) -> bytes:
    return b"".join(record(variables[name]) for name in sorted(variables))


def _variable(name: str, kind: int, desc: bytes = b"", *, persistable: bool) -> bytes:
    body = part(1, kind) + (part(3, part(1, desc) + part(2, 0)) if desc else b"")
    return part(3, part(1, name) + part(2, body) + (part(3, 1) if persistable else b""))


def pdmodel(net: Net, variables: Arrays) -> bytes:
    """A ProgramDesc: variables in sorted order, then the operations, as Paddle 2 writes it."""
    block = part(1, 0) + part(2, (1 << 64) - 1)
    found = [_variable("feed", 9, persistable=True), _variable("fetch", 10, persistable=True)]
    for name, array in variables.items():
        desc = tensor_desc(_CODES[array.dtype.str], array.shape)
        found.append(_variable(name, 7, desc, persistable=True))
    for node in net.nodes:
        found.append(_variable(node.out, 7, tensor_desc(5, (-1, 4)), persistable=False))
    block += b"".join(sorted(found))
    for node in [Node("feed", "x", {"X": ["feed"]}), *net.nodes]:
        slots = {**node.inputs}
        outputs = {"Out": [node.out]}
        if node.kind == "batch_norm":
            outputs = {"MeanOut": slots["Mean"], "VarianceOut": slots["Variance"], "Y": [node.out]}
            slots["MomentumTensor"] = []
        op = b"".join(_slot(1, slot, slots[slot]) for slot in sorted(slots))
        op += b"".join(_slot(2, slot, values) for slot, values in outputs.items())
        op += part(3, node.kind)
        op += part(4, part(1, "op_callstack") + part(2, 5) + part(8, '  File "x.py", line 1'))
        block += part(4, op)
    return part(1, block) + part(4, part(1, 0)) + part(5, part(1, part(1, "conv2d")))


def _slot(number: int, name: str, values: list[str]) -> bytes:
    return part(number, part(1, name) + b"".join(part(2, value) for value in values))


_PIR_TYPES = {"<f4": "f32", "<f2": "f16", "<f8": "f64", "<i8": "i64", "<u2": "bf16"}
_PIR_NAMES = {
    "elementwise_add": "add",
    "elementwise_mul": "multiply",
    "batch_norm": "batch_norm_",
    "matmul_v2": "matmul",
    "reshape2": "reshape",
}


def _pir_value(number: int, shape: list[int], dtype: str = "f32") -> dict[str, Any]:
    content = [{"#": f"0.t_{dtype}"}, shape, "NCHW", [], 0]
    return {"%": number, "TT": {"#": "0.t_dtensor", "D": content}}


def pir(net: Net, variables: Arrays) -> bytes:
    """A PIR program: parameters last first, then data, then operations on numbered values."""
    numbers: dict[str, int] = {}
    ops: list[dict[str, Any]] = []
    for name in reversed([n for n in net.framework.values() if n in variables]):
        array = variables[name]
        numbers[name] = len(numbers) + 1
        value = _pir_value(numbers[name], list(array.shape), _PIR_TYPES[array.dtype.str])
        ops.append(
            {"#": "p", "A": [0, 1, 1, name], "DA": [], "O": value, "OA": [1, 0, 1], "QA": []}
        )
    count = len(numbers) + 1
    numbers["x"] = count
    ops.append({"#": "1.data", "A": [], "I": [], "O": [_pir_value(count, [-1, 3, 8, 8])], "OA": []})
    for node in net.nodes:
        given = [value for values in node.inputs.values() for value in values]
        results = 1
        if node.kind == "batch_norm":
            slots = ("X", "Mean", "Variance", "Scale", "Bias")
            given, results = [node.inputs[slot][0] for slot in slots], 6
        if node.kind in ("mean", "reshape2"):  # their sizes are a tensor of their own
            count += 1
            numbers[f"sizes{count}"] = count
            ops.append({"#": "1.full_int_array", "A": [], "I": [], "O": [_pir_value(count, [2])]})
            given = [*given, f"sizes{count}"]
        made = [_pir_value(count + 1 + i, [-1, 4]) for i in range(results)]
        numbers[node.out] = count + 1
        count += results
        name = f"1.{_PIR_NAMES.get(node.kind, node.kind)}"
        ops.append({"#": name, "A": [], "I": [{"%": numbers[v]} for v in given], "O": made})
    block = {"#": "block_0", "args": [], "ops": ops}
    program = {"regions": [{"#": "region_0", "blocks": [block]}]}
    root = {"base_code": {"magic": "pir", "trainable": True, "version": 4}, "program": program}
    return json.dumps(root, separators=(",", ":")).encode()


def info(net: Net, prefix: str = "") -> bytes:
    """The table of names, a pickle of protocol 2."""
    table = {}
    for name, variable in sorted(net.framework.items(), key=lambda item: item[1]):
        statistic = name.endswith(("_mean", "_variance"))
        table[variable] = {
            "structured_name": prefix + name,
            "stop_gradient": statistic,
            "trainable": not statistic,
        }
    return pickle.dumps(table, 2)


def export(
    model: nn.Module,
    arrays: Arrays,
    style: str,
    *,
    first: Mapping[str, int] | None = None,
    shuffle: int = 0,
    prefix: str | None = None,
) -> dict[str, bytes]:
    """The files of ``model`` with ``arrays``; .info where a ``prefix`` ('' too) is given."""
    net = network(model, first, shuffle)
    variables = {net.framework[name]: array for name, array in arrays.items()}
    files = {"inference.pdiparams": pdiparams(variables)}
    if style == "pir":
        files["inference.json"] = pir(net, variables)
    else:
        files["inference.pdmodel"] = pdmodel(net, variables)
    if prefix is not None:
        files["inference.pdiparams.info"] = info(net, prefix)
    return files


def tar_bytes(files: Mapping[str, bytes], folder: str = "tiny_infer", kind: int = 0) -> bytes:
    """A plain tar of a folder; ``kind`` is a format of ``tarfile``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind or tarfile.GNU_FORMAT) as tar:
        if folder:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


class Tiny(nn.Module):
    """The network of tests/golden/paddle_files: conv, bn, mean, fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))
