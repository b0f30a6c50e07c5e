"""PyTorch checkpoints, read without ``torch.load`` and without running any of them.

A checkpoint is a zip archive: ``data.pkl`` describes the tensors, ``data/<key>`` holds the bytes of
their storages. Before PyTorch 1.6 it was five pickles, one behind the other, and then the storages.
The description is interpreted as Paddle's pickles are, by ``pickle_machine`` with
PyTorch's few globals in place of Paddle's, into plans of tensors: where the values would be, and
how many. Sizes are decided from the plans, before anything is made; only the network's own tensors
are, not an optimiser's beside them. What else training programs save beside a network - arguments,
paths, dates - is there as an empty stand-in, ``stand_ins``.

``torch.load(weights_only=True)`` runs nothing either, but makes what a plan asks for: a file of
1.5 kB that expands one number to 3 GB, for one.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.pickle_machine import (
    DTYPES,
    MAX_SHARING,
    Machine,
    PickleRefusedError,
    Resolver,
    Symbol,
    UnfinishedDtype,
    brief_value,
    interpret,
    key_problem,
)
from hgnetv2_pipeline.weights.places import Unwrapped, Wanted, unwrap_checkpoint
from hgnetv2_pipeline.weights.pytorch.stand_ins import STAND_INS
from hgnetv2_pipeline.weights.pytorch.torch_zip import ZipMember, zip_members
from hgnetv2_pipeline.weights.styles import State
from hgnetv2_pipeline.weights.tensor_file import likeness, open_weight_file

_TYPES = {  # the storage's class in the file -> the type of its values
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_OTHER_TYPES = (
    "ComplexFloatStorage", "ComplexDoubleStorage", "QInt8Storage", "QUInt8Storage",
    "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage", "UntypedStorage",
)  # fmt: skip
_CONSTANTS = [
    name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype | torch.qscheme)
]
_CONTAINERS = (list, dict, tuple, str)
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first of five pickles: a number
_COUNT = struct.Struct("<q")
_MAX_PICKLE = 64 << 20  # of the largest of our networks with an optimiser it is about 1 MB

_GLOBALS: dict[tuple[str, str], Symbol] = {
    ("torch._utils", "_rebuild_tensor"): Symbol("tensor"),
    ("torch._utils", "_rebuild_tensor_v2"): Symbol("tensor"),
    ("torch._utils", "_rebuild_tensor_v3"): Symbol("tensor_of_a_type"),
    ("torch._utils", "_rebuild_parameter"): Symbol("parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"): Symbol("parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"): Symbol("subclass"),
    ("torch._utils", "_rebuild_sparse_tensor"): Symbol("odd", "sparse"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): Symbol("odd", "without values (meta)"),
    ("torch._utils", "_rebuild_qtensor"): Symbol("odd", "quantised"),
    ("torch._utils", "_rebuild_nested_tensor"): Symbol("odd", "nested"),
    ("torch._utils", "_rebuild_wrapper_subclass"): Symbol("odd", "of a class of its own"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): Symbol("odd", "of another device"),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): Symbol("odd", "of another device"),
    ("torch.serialization", "_get_layout"): Symbol("first"),
    ("torch", "Size"): Symbol("first"),
    ("torch", "device"): Symbol("device"),
    ("torch", "Tensor"): Symbol("value", "torch.Tensor"),
    ("torch.nn.parameter", "Parameter"): Symbol("value", "torch.nn.Parameter"),
    ("torch.nn.parameter", "Buffer"): Symbol("value", "torch.nn.Buffer"),
    ("collections", "Counter"): Symbol("first"),
    ("__builtin__", "set"): Symbol("first"),
    ("builtins", "set"): Symbol("first"),
}
_TENSORS = ("tensor", "tensor_of_a_type", "parameter", "subclass", "odd")  # roles that make one


@dataclass(frozen=True, eq=False)
class _Storage:
    """Values of one type under ``key``, of which tensors are views."""

    key: str
    kind: str  # a name of _TYPES or _OTHER_TYPES
    count: int


@dataclass(frozen=True, eq=False)
class _Plan:
    """A tensor that could be made; ``problem``: what keeps it from being weights."""

    storage: _Storage | None
    offset: Any = 0
    size: Any = ()
    stride: Any = ()
    problem: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one state dict in a checkpoint, and where it lies there.

    ``left``: names of what is beside it; ``found``: how it was found.
    """

    tensors: State
    left: tuple[str, ...]
    found: Unwrapped


def read_checkpoint(path: Path, wanted: Wanted | None = None) -> Checkpoint:
    """The tensors of the state dict that is ``wanted`` of a checkpoint.

    Where training programs keep a network, ``places`` knows. Devices do not count: bytes in
    a file are nowhere else. Raises ``WeightsError`` for everything that is no dict of plain, whole
    tensors: expanded, sparse, quantised, meta and nested ones, other types, and more values than
    the file has bytes for.
    """
    with open_weight_file(path) as (file, size):
        try:
            legacy = file.read(len(_LEGACY)) == _LEGACY
            content, members = (_read_legacy if legacy else _read_zip)(file, size)
            found = unwrap_checkpoint(content, wanted or Wanted(), _is_plan, path)
            plans, strangers = _state_dict(found, path)
            tensors = _Storages(file, size, members).tensors(plans)
            return Checkpoint(tensors, (*strangers, *found.rest), found)
        except (PickleRefusedError, ValueError, struct.error) as problem:
            if isinstance(getattr(problem, "exit_code", None), int):
                raise
            file.seek(0)
            raise WeightsError(f"{path} is refused: {problem}{_hint(file.read(512))}") from None


def _is_plan(value: Any) -> bool:
    return isinstance(value, _Plan)


def _read_zip(file: BinaryIO, size: int) -> tuple[Any, dict[str, ZipMember]]:
    members = _parts(zip_members(file, size))
    described = members["data.pkl"]
    if described.size > _MAX_PICKLE:
        raise PickleRefusedError(f"its data.pkl has {described.size:,} bytes")
    file.seek(described.offset)
    stream = io.BytesIO(file.read(described.size))
    return interpret(stream, described.size, _TorchMachine, _TorchResolver), members


def _read_legacy(file: BinaryIO, size: int) -> tuple[Any, dict[str, ZipMember]]:
    """What PyTorch wrote before 1.6: a mark, a version, the machine, the checkpoint, the keys of
    its storages; then of each storage, in that order, how many values it has, and the values.
    """
    file.seek(0)
    # Behind the pickles are the values, so those are not searched for the pickles' end.
    stream = io.BytesIO(file.read(min(size, _MAX_PICKLE)))
    parts, kinds = [], {}
    for _ in range(5):
        left = stream.getbuffer().nbytes - stream.tell()
        machine = _LegacyMachine(stream, left)
        parts.append(_TorchResolver(left)(machine.run()))
        kinds.update(machine.kinds)
    _, version, written, checkpoint, keys = parts
    if version != 1001 or not isinstance(written, dict) or not isinstance(keys, list):
        raise PickleRefusedError("a file of before PyTorch 1.6 of an unknown version")
    if written.get("little_endian") is not True:
        raise PickleRefusedError("it was written on a big-endian machine")
    members, place = {}, stream.tell()
    for key in keys:
        if key not in kinds or f"data/{key}" in members:
            raise PickleRefusedError("a storage that no tensor names, or one twice")
        file.seek(place)
        width = _TYPES[kinds[key]].itemsize if kinds[key] in _TYPES else 0
        (count,) = _COUNT.unpack(file.read(_COUNT.size))
        place += _COUNT.size
        if not width or not 0 <= count <= (size - place) // width:
            raise PickleRefusedError(
                f"it is cut short: {count:,} values are announced and not there"
            )
        members[f"data/{key}"] = ZipMember(place, count * width)
        place += count * width
    if place != size:
        raise PickleRefusedError(f"{size - place} bytes follow the last storage")
    return checkpoint, members


def _hint(start: bytes) -> str:
    return "" if start.startswith(b"PK\x03\x04") else likeness(start)


def _parts(members: Mapping[str, ZipMember]) -> dict[str, ZipMember]:
    """The members below the one folder of the archive, whatever its name."""
    tops = {name.partition("/")[0] for name in members}
    if len(tops) != 1:
        raise PickleRefusedError(f"a zip archive of {len(tops)} folders, where PyTorch writes one")
    found = {name.partition("/")[2]: member for name, member in members.items()}
    if "constants.pkl" in found or any(name.startswith("code/") for name in found):
        raise PickleRefusedError("it is a TorchScript program; save model.state_dict() instead")
    if "data.pkl" not in found:
        raise PickleRefusedError("a zip archive without the data.pkl of a PyTorch checkpoint")
    return found


def _state_dict(found: Unwrapped, path: Path) -> tuple[dict[str, _Plan], list[str]]:
    """The tensors of a dict, and the names of what else is in it, if a network is."""
    state = found.content
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path} holds no state dict")
    for key in state:
        if (problem := key_problem(key)) is not None:
            raise PickleRefusedError(f"a key of the state dict {problem}")
    strangers = [key for key, item in state.items() if not isinstance(item, _Plan)]
    if strangers and found.key not in found.places:
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        raise WeightsError(
            f"{path} holds more than tensors: {', '.join(strangers[:5])}{more}; and no network of "
            "ours is below any of its keys"
        )
    return {key: item for key, item in state.items() if isinstance(item, _Plan)}, strangers


class _Storages:
    """Makes tensors of plans; never more than ``MAX_SHARING`` times the bytes of the file."""

    def __init__(self, file: BinaryIO, size: int, members: Mapping[str, ZipMember]) -> None:
        self._file, self._members = file, members
        self._read: dict[tuple[str, str], Tensor] = {}
        self._bytes_left, self._unfolded_left = size, MAX_SHARING * size
        order = members.get("byteorder")
        if order is not None:
            file.seek(order.offset)
            if file.read(min(order.size, 9)) != b"little":
                raise PickleRefusedError("it was written on a big-endian machine")

    def tensors(self, plans: Mapping[str, _Plan]) -> State:
        """All sizes are decided first: a refused file has cost nothing."""
        for key, plan in plans.items():
            self._check(key, plan)
        return {key: self._made(plan) for key, plan in plans.items()}

    def _check(self, key: str, plan: _Plan) -> None:
        storage, size, stride = plan.storage, plan.size, plan.stride
        if plan.problem or storage is None:
            raise PickleRefusedError(f"{key} is {plan.problem}; only plain tensors are read")
        if storage.kind not in _TYPES:
            known = ", ".join(str(kind).removeprefix("torch.") for kind in _TYPES.values())
            raise PickleRefusedError(f"{key} is of type {storage.kind}; known are {known}")
        numbers = (plan.offset, *size, *stride)
        if len(size) > 8 or any(type(n) is not int or not 0 <= n < 1 << 40 for n in numbers):
            raise PickleRefusedError(f"{key} has an impossible shape")
        width = _TYPES[storage.kind].itemsize
        member = self._members.get(f"data/{storage.key}")
        if member is None:
            raise PickleRefusedError(f"the values of {key} are not in the file")
        if member.size != storage.count * width:
            raise PickleRefusedError(
                f"{key} has {member.size:,} bytes in the file where {storage.count * width:,} are "
                "announced"
            )
        count = math.prod(size)
        if any(n > 1 and step == 0 for n, step in zip(size, stride, strict=True)):
            raise PickleRefusedError(
                f"{key} is expanded: fewer values are in the file than it shows"
            )
        last = plan.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and (count > storage.count or last >= storage.count):
            raise PickleRefusedError(f"{key} shows more values than its storage has")
        self._unfolded_left -= count * width
        if self._unfolded_left < 0:
            raise PickleRefusedError("the same values under too many names")
        if (storage.key, storage.kind) not in self._read:
            # Members may overlap, as PyTorch's never do.
            self._bytes_left -= member.size
            if self._bytes_left < 0:
                raise PickleRefusedError("tensors larger than the file that holds them")
            self._read[storage.key, storage.kind] = torch.empty(0)  # to be read

    def _made(self, plan: _Plan) -> Tensor:
        storage = plan.storage
        assert storage is not None
        dtype = _TYPES[storage.kind]
        if not math.prod(plan.size):
            return torch.empty(plan.size, dtype=dtype)
        values = self._read[storage.key, storage.kind]
        if not len(values):
            values = torch.empty(storage.count, dtype=dtype)
            self._file.seek(self._members[f"data/{storage.key}"].offset)
            wanted = memoryview(values.view(torch.uint8).numpy())
            if self._file.readinto(wanted) != len(wanted):  # type: ignore[attr-defined]
                raise PickleRefusedError("it changed while it was read")
            self._read[storage.key, storage.kind] = values
        return values.as_strided(plan.size, plan.stride, plan.offset)


class _TorchMachine(Machine):
    """The machine with PyTorch's globals and its opcode for storages."""

    writer = "PyTorch"
    symbols = Machine.symbols | _GLOBALS | STAND_INS
    symbols |= {("torch", name): Symbol("storage", name) for name in (*_TYPES, *_OTHER_TYPES)}
    symbols |= {("torch.storage", "UntypedStorage"): Symbol("storage", "UntypedStorage")}
    symbols |= {("torch", name): Symbol("value", f"torch.{name}") for name in _CONSTANTS}

    @staticmethod
    def key_problem(key: Any) -> str | None:
        """Optimisers and schedules number their entries; other keys are text."""
        return None if key is None or type(key) in (int, float, bool) else key_problem(key)

    def find(self, module: str, name: str) -> None:
        try:
            super().find(module, name)
        except PickleRefusedError as refused:
            raise PickleRefusedError(
                f"{refused}. Where the file is known to be good, save its tensors alone there: "
                "torch.save(model.state_dict(), 'weights.pth')"
            ) from None

    def new_object(self) -> None:
        """An object of a class that is known, to be filled by BUILD or SETITEMS."""
        function, arguments = self._pop(2)
        if not isinstance(function, Symbol) or function.role not in ("object", "list"):
            raise PickleRefusedError("an object of something that is no known class")
        self._stack.append(self.call(function, arguments))

    def storage(self) -> None:
        (arguments,) = self._pop(1)
        match arguments:
            case ("storage", Symbol("storage", kind), str(key), str(), int(count)):
                if not 0 <= count < 1 << 40:
                    raise PickleRefusedError("a storage of an impossible size")
                self._stack.append(_Storage(key, kind, count))
            case _:
                raise PickleRefusedError("a persistent id that is no storage")

    def make_object(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """The stand-in of an object: empty, whatever it was made with."""
        return {}

    def make_list(self, arguments: tuple[Any, ...]) -> list[Any]:
        return []

    def make_dtype(self, arguments: tuple[Any, ...]) -> Any:
        """NumPy's other types, such as text and dates, are no weights: they become stand-ins."""
        plain = bool(arguments) and arguments[0] in DTYPES
        return super().make_dtype(arguments) if plain else self.make_object(arguments)

    def _decode(self, dtype: Any, shape: Any, fortran: Any, data: Any) -> np.ndarray:
        other = isinstance(dtype, dict)
        return np.zeros(()) if other else super()._decode(dtype, shape, fortran, data)

    def build(self) -> None:
        """An OrderedDict carries the versions of its modules, which do not matter here, and what
        is set on a stand-in is dropped."""
        if len(self._stack) > 1 and isinstance(self._stack[-2], dict | list | str):
            self._pop(1)
        else:
            super().build()

    def call(self, function: Symbol, arguments: tuple[Any, ...]) -> Any:
        if function.role == "odd":
            return _Plan(None, problem=function.detail)
        return super().call(function, arguments)

    def make_tensor(self, arguments: tuple[Any, ...]) -> _Plan:
        match arguments:
            case (_Storage() as storage, offset, tuple(size), tuple(stride), *_) if len(
                size
            ) == len(stride):
                return _Plan(storage, offset, size, stride)
        raise PickleRefusedError("a tensor begun with unusual arguments")

    def make_tensor_of_a_type(self, arguments: tuple[Any, ...]) -> _Plan:
        kind = arguments[6] if len(arguments) > 6 else None
        kind_name = kind.detail if isinstance(kind, Symbol) else "unknown"
        return _Plan(None, problem=f"of type {kind_name}")

    def make_parameter(self, arguments: tuple[Any, ...]) -> _Plan:
        if not arguments or not isinstance(arguments[0], _Plan):
            raise PickleRefusedError("a parameter that is no tensor")
        return arguments[0]

    def make_subclass(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes of its own: (function, class, arguments, attributes)."""
        match arguments:
            case (Symbol() as function, Symbol("value"), tuple(inner), _) if (
                function.role in _TENSORS and function.role != "subclass"
            ):
                return self.call(function, inner)
        raise PickleRefusedError("a tensor of an unknown class")

    def make_first(self, arguments: tuple[Any, ...]) -> Any:
        """What takes one list, dict, tuple or text, and is that for our purposes."""
        if len(arguments) > 1 or not all(
            isinstance(a, list | dict | tuple | str) for a in arguments
        ):
            raise PickleRefusedError("a container of unusual form")
        return arguments[0] if arguments else ()

    def make_device(self, arguments: tuple[Any, ...]) -> str:
        """Its kind; which one of them does not matter to bytes in a file."""
        return brief_value(arguments[0]) if arguments else ""

    opcodes: ClassVar[dict[bytes, Callable[[Any], None]]] = Machine.opcodes | {
        b"Q": storage,
        b"b": build,
        b"\x81": new_object,
    }
    calls: ClassVar[dict[str, Callable[[Any, tuple[Any, ...]], Any]]] = Machine.calls | {
        "tensor": make_tensor,
        "tensor_of_a_type": make_tensor_of_a_type,
        "parameter": make_parameter,
        "subclass": make_subclass,
        "first": make_first,
        "device": make_device,
        "dtype": make_dtype,
        "object": make_object,
        "list": make_list,
    }


class _LegacyMachine(_TorchMachine):
    """The machine for one of several pickles in a stream; knows the storages that it met."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__(stream, size)
        self.kinds: dict[str, str] = {}

    def _stop(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise PickleRefusedError("a pickle ends in the middle of something")
        return self._stack[0]

    def storage(self) -> None:
        """As in an archive, and a sixth part: of what it is a view. PyTorch 1 wrote None there."""
        match self._stack and self._stack[-1]:
            case (*parts, None) if len(parts) == 5:
                self._stack[-1] = tuple(parts)
        super().storage()
        found = self._stack[-1]
        if self.kinds.setdefault(found.key, found.kind) != found.kind:
            raise PickleRefusedError("a storage of two types")

    opcodes: ClassVar[dict[bytes, Callable[[Any], None]]] = _TorchMachine.opcodes | {b"Q": storage}


class _TorchResolver(Resolver):
    """Plans stay plans; a type or class becomes its name."""

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Symbol) and value.role in ("value", "object", "list"):
            return value.detail
        if isinstance(value, UnfinishedDtype):
            return f"numpy.{value.code}"
        return super().__call__(value, depth)
