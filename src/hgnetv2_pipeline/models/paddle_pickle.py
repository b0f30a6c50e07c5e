"""Paddle's pickled files (.pdparams, .pdopt, .pdstates), read without running anything in them.

A pickle is a program. ``pickle.load`` runs it, and guarding the names it may import is not enough:
BUILD still hands hostile state to whatever those names return. Here the opcodes are interpreted by
this file alone. The few globals that Paddle writes become inert symbols, REDUCE and BUILD accept
them with exactly the arguments Paddle gives, and every other opcode, name or shape is refused with
``WeightsError``. Nothing is imported, looked up or called on behalf of the file, and its memory is
bounded by its own size. ``paddle_writer`` makes such files.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from hgnetv2_pipeline.errors import WeightsError

NAMES_KEY = "StructuredToParameterName@@"  # Paddle's table of structured -> framework names
_SPLIT_KEY = "UnpackBigParamInfor@@"

_MAX_OPCODES = 500_000  # a B6 state dict needs 25,000; this many take about a second
_MAX_VALUES = 100_000
_MAX_DEPTH = 64
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

_GLOBALS = {
    "numpy.core.multiarray _reconstruct": "reconstruct",  # written under numpy 1
    "numpy._core.multiarray _reconstruct": "reconstruct",  # written under numpy 2
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",  # bytes in protocol 2
    "__builtin__ bytes": "bytes",  # empty bytes in protocol 2
    "builtins tuple": "tuple",  # a tensor outside a flat state dict: (name, array)
    "__builtin__ tuple": "tuple",
    "collections OrderedDict": "ordered_dict",
}
_EVAL_HINT = (
    "Paddle writes it for static-graph tensors and attackers for anything; "
    "save layer.state_dict() instead"
)
_HINTS = {
    "builtins eval": _EVAL_HINT,
    "__builtin__ eval": _EVAL_HINT,
    "builtins complex": "complex numbers are no weights",
    "__builtin__ complex": "complex numbers are no weights",
}


@dataclass(frozen=True)
class _Symbol:
    """A global of the file: a name, nothing behind it."""

    role: str


@dataclass(eq=False)
class _Dtype:
    """``numpy.dtype(code)`` on its way: usable once BUILD has given its byte order."""

    code: str
    built: bool = False


@dataclass(eq=False)
class _Array:
    """``numpy.ndarray`` on its way: ``value`` is set by BUILD."""

    value: np.ndarray | None = None


class _Refused(Exception):  # noqa: N818 - becomes a WeightsError with the file's name
    pass


def _brief(value: Any) -> str:
    """A value of the file in a message; never the repr of a container, which may be a bomb."""
    return ascii(value[:80]).strip("'") if isinstance(value, str) else type(value).__name__


class _Interpreter:
    """A stack machine for the opcodes Paddle's files consist of."""

    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each open MARK
        self._memo: dict[int, Any] = {}
        self._payload_left = size  # bytes of tensors that a file of this size can hold
        self._string_left = size

    def run(self, source: mmap.mmap) -> Any:
        stopped_at = -1
        # A map reads like a file but never allocates for a length that the file does not have.
        opcodes = pickletools.genops(cast("IO[bytes]", source))
        for count, (opcode, argument, position) in enumerate(opcodes):
            if count > _MAX_OPCODES:
                raise _Refused(f"more than {_MAX_OPCODES:,} opcodes")
            name = opcode.name
            if count == 0 and name != "PROTO":
                raise _Refused("it does not begin as a pickle of protocol 2, 3 or 4")
            if name == "STOP":
                stopped_at = position or 0
                continue
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self._stack.append(argument)
            elif (handler := _HANDLERS.get(name)) is not None:
                handler(self, argument)
            else:
                raise _Refused(f"opcode {name} at byte {position}, which no Paddle file contains")
        if stopped_at != len(source) - 1:
            raise _Refused(f"{len(source) - 1 - stopped_at} bytes follow the end of the pickle")
        if len(self._stack) != 1 or self._marks:
            raise _Refused("the pickle ends in the middle of something")
        return self._stack[0]

    # --- stack and memo
    def proto(self, version: int) -> None:
        if version not in (2, 3, 4) or self._stack or self._memo:
            raise _Refused(f"pickle protocol {version}; Paddle writes 2, 3 or 4, once")

    def mark(self, _: None) -> None:
        if len(self._marks) >= _MAX_DEPTH:
            raise _Refused(f"nested deeper than {_MAX_DEPTH}")
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise _Refused("a group ends that never began")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise _Refused("the stack is empty where a value is needed")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise _Refused("the stack is empty where a value is needed")
        return self._stack[-1]

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise _Refused(f"memo entry {index} is read before it is written")
        self._stack.append(self._memo[index])

    # --- containers
    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple(self._pop(count)))

    def tuple_from_mark(self, _: None) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise _Refused("values are appended to something that is not a list")
        target.extend(items)

    def append(self, _: None) -> None:
        self._extend(self._pop(1))

    def appends(self, _: None) -> None:
        self._extend(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise _Refused("keys and values are set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise _Refused(f"a dict key that is not a string: {type(key).__name__}")
            if key in target:
                raise _Refused(f"the key {_brief(key)} twice")
            target[key] = value

    def setitem(self, _: None) -> None:
        self._set(self._pop(2))

    def setitems(self, _: None) -> None:
        self._set(self._pop_mark())

    # --- globals, and the two opcodes that act on them
    def find(self, name: str) -> None:
        if name not in _GLOBALS:
            dotted = _brief(name.replace(" ", "."))
            hint = _HINTS.get(name, "no weight file of Paddle names it; it may be an attack")
            raise _Refused(f"it asks for {dotted}, which is never run here: {hint}")
        self._stack.append(_Symbol(_GLOBALS[name]))

    def stack_global(self, _: None) -> None:
        module, name = self._pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("a global whose name is not a string")
        self.find(f"{module} {name}")

    def reduce(self, _: None) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, _Symbol) or not isinstance(arguments, tuple):
            raise _Refused("a call of something that is not a known global")
        call = _CALLS.get(function.role)
        if call is None:
            raise _Refused(f"a call of {function.role}")
        self._stack.append(call(self, arguments))

    def make_array(self, arguments: tuple[Any, ...]) -> _Array:
        if arguments != (_Symbol("ndarray"), (0,), b"b"):
            raise _Refused("an array begun with unusual arguments")
        return _Array()

    def make_dtype(self, arguments: tuple[Any, ...]) -> _Dtype:
        # numpy before 1.17 wrote 0 and 1 for False and True; they compare equal.
        if len(arguments) != 3 or arguments[1:] != (False, True) or arguments[0] not in DTYPES:
            kind = _brief(arguments[0]) if arguments else "none"
            raise _Refused(f"a tensor of type {kind}; known are {', '.join(DTYPES)}")
        return _Dtype(arguments[0])

    def make_scalar(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 2:
            raise _Refused("a scalar of unusual form")
        return self._decode(arguments[0], (), False, arguments[1])[()]

    def make_bytes(self, arguments: tuple[Any, ...]) -> bytes:
        if arguments == ():
            return b""
        if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
            raise _Refused("bytes of unusual form")
        self._string_left -= len(arguments[0])
        if self._string_left < 0:
            raise _Refused("more bytes decoded than the file holds")
        try:
            return arguments[0].encode("latin1")
        except UnicodeEncodeError:
            raise _Refused("bytes that are not latin1") from None

    def make_tuple(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(arguments) != 1 or not isinstance(arguments[0], tuple) or len(arguments[0]) != 2:
            raise _Refused("a tuple that is not (name, array)")
        name, value = arguments[0]
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise _Refused("a tuple that is not (name, array)")
        return arguments[0]

    def make_dict(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments != ():
            raise _Refused("an OrderedDict with arguments")
        return {}

    def build(self, _: None) -> None:
        (state,) = self._pop(1)
        target = self._top()
        if isinstance(target, _Dtype) and not target.built:
            order = "|" if target.code.endswith("1") else "<"
            if state != (3, order, None, None, None, -1, -1, 0):
                raise _Refused(f"a {target.code} type with unusual state (big-endian?)")
            target.built = True
        elif isinstance(target, _Array) and target.value is None:
            if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
                raise _Refused("an array with unusual state")
            _, shape, dtype, fortran, data = state
            target.value = self._decode(dtype, shape, fortran, data)
        else:
            raise _Refused("state is set on something that takes none")

    def _decode(self, dtype: Any, shape: Any, fortran: Any, data: Any) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or not dtype.built:
            raise _Refused("a tensor without a type")
        if not isinstance(data, bytes) or not isinstance(fortran, bool):
            raise _Refused("a tensor without plain bytes")
        if not isinstance(shape, tuple) or len(shape) > 8:
            raise _Refused("a tensor whose shape is not a short tuple")
        if any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
            raise _Refused("a tensor with an impossible shape")
        kind = np.dtype(dtype.code).newbyteorder("<")
        if math.prod(shape) * kind.itemsize != len(data):
            raise _Refused(f"{len(data)} bytes for a {dtype.code} tensor of shape {list(shape)}")
        self._payload_left -= len(data)
        if self._payload_left < 0:
            raise _Refused("tensors larger than the file that holds them")
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
    + ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
    + ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
)
_Handler = Callable[[_Interpreter, Any], None]
_HANDLERS: dict[str, _Handler] = {
    "PROTO": _Interpreter.proto,
    "FRAME": lambda machine, _: None,  # a hint for buffered readers; the opcodes are the same
    "MARK": _Interpreter.mark,
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "BINPUT": _Interpreter.put,
    "LONG_BINPUT": _Interpreter.put,
    "MEMOIZE": _Interpreter.memoize,
    "BINGET": _Interpreter.get,
    "LONG_BINGET": _Interpreter.get,
    "TUPLE": _Interpreter.tuple_from_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Interpreter.append,
    "APPENDS": _Interpreter.appends,
    "SETITEM": _Interpreter.setitem,
    "SETITEMS": _Interpreter.setitems,
    "GLOBAL": _Interpreter.find,
    "STACK_GLOBAL": _Interpreter.stack_global,
    "REDUCE": _Interpreter.reduce,
    "BUILD": _Interpreter.build,
}
_CALLS: dict[str, Callable[[_Interpreter, tuple[Any, ...]], Any]] = {
    "reconstruct": _Interpreter.make_array,
    "scalar": _Interpreter.make_scalar,
    "dtype": _Interpreter.make_dtype,
    "encode": _Interpreter.make_bytes,
    "bytes": _Interpreter.make_bytes,
    "tuple": _Interpreter.make_tuple,
    "ordered_dict": _Interpreter.make_dict,
}


class _Resolver:
    """Replaces the unfinished things of the interpreter by arrays; refuses cycles and bombs."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._seen += 1
        if self._seen > _MAX_VALUES:
            raise _Refused(f"more than {_MAX_VALUES:,} values")
        if depth > _MAX_DEPTH:  # a container inside itself ends here too
            raise _Refused(f"nested deeper than {_MAX_DEPTH}")
        if isinstance(value, _Array):
            if value.value is None:
                raise _Refused("an array without values")
            return value.value
        if isinstance(value, dict):
            return {key: self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple(self(item, depth + 1) for item in value)
        if isinstance(value, _Symbol | _Dtype):
            raise _Refused("a bare global where a value is expected")
        return value


def read_object(path: Path) -> Any:
    """What a pickled Paddle file holds: dicts, lists, numbers, strings, read-only arrays.

    For ``.pdopt`` and ``.pdstates`` as well as ``.pdparams``; a tensor that is not in a flat state
    dict is a tuple (name, array). Raises ``WeightsError`` on anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weight file at {path}")
    with path.open("rb") as file:
        start = file.read(4)
        if not start:
            raise WeightsError(f"{path} is empty: a download that failed?")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
                return _Resolver()(_Interpreter(len(source)).run(source))
        except _Refused as reason:
            raise WeightsError(f"{path} is refused: {reason}{_guess(start)}") from None
        except (ValueError, OverflowError, struct.error) as error:
            # What pickletools raises on a cut or garbled file.
            raise WeightsError(f"{path} is damaged or cut short: {error}{_guess(start)}") from error


def _guess(start: bytes) -> str:
    if start.lstrip()[:1] == b"<":
        return " (it looks like a web page: a download that failed?)"
    if start == b"PK\x03\x04":
        return " (it is a zip archive: a PyTorch .pth?)"
    return ""


def read_pdparams(path: Path) -> dict[str, np.ndarray]:
    """Paddle's structured names -> arrays (read-only, in the file's order and layout).

    Nested dicts (``{'Teacher': {...}}``) come out as dotted names. bfloat16 is stored as uint16 and
    stays so here. Raises ``WeightsError`` for anything that is not a state dict.
    """
    state = read_object(path)
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}, not a state dict")
    tensors = dict(_tensors(state, "", path))
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    return tensors


def _tensors(state: dict[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in state.items():
        name = f"{prefix}{key}"
        if key == _SPLIT_KEY:
            raise WeightsError(
                f"{path} splits tensors over 4 GB ({_SPLIT_KEY}); save it again with protocol 4"
            )
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
            value = value[1]
        if isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, dict):
            if key != NAMES_KEY:
                yield from _tensors(value, f"{name}.", path)
        elif not isinstance(value, str | int | float | None):
            raise WeightsError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
