"""The opcodes of weight files' pickles, interpreted; nothing of the file is run.

A pickle is a program. ``pickle.load`` runs it, and guarding the names it may import is not enough:
BUILD still hands hostile state to whatever those names return. Here the few globals that Paddle
writes become inert symbols, REDUCE and BUILD accept them with exactly the arguments Paddle gives,
and every other opcode, name or form is refused. Nothing is imported, looked up or called on behalf
of the file. ``torch_pickle`` adds what PyTorch writes.

Time and memory are bounded by constants and by the file's own size: a length is compared with what
is left of the file before anything is allocated, memo entries are written in order and once, and
what sharing unfolds to is counted. The bytes of a tensor are read once, from the file into the
memory that its array keeps. The file is read, not mapped: if another process cuts it short
meanwhile, the read fails, where a map would kill this process.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

_MAX_OPCODES = 500_000  # a B6 state dict needs 25,000; this many take about half a second
_MAX_VALUES = 100_000
_MAX_DEPTH = 64
MAX_KEY = 512  # characters, of a nested tensor's dotted name as well
MAX_SHARING = 4  # what the arrays may add up to, each counted as often as it is named, over size
_SMALL = 1 << 16  # bytes that may be asked of the file without looking how many it has

_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",  # written under numpy 1
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",  # written under numpy 2
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # bytes in protocol 2
    ("__builtin__", "bytes"): "bytes",  # empty bytes in protocol 2
    ("builtins", "tuple"): "tuple",  # a tensor outside a flat state dict: (name, array)
    ("__builtin__", "tuple"): "tuple",
    ("collections", "OrderedDict"): "ordered_dict",
}
_HINTS = {
    "eval": "Paddle writes it for static-graph tensors and attackers for anything; "
    "save layer.state_dict() instead",
    "complex": "complex numbers are no weights",
}


class PickleRefusedError(Exception):  # noqa: N818 - becomes a WeightsError with the file's name
    """The pickle is not one that Paddle writes."""


@dataclass(frozen=True)
class Symbol:
    """A global of the file: a name, nothing behind it; ``detail`` is for who knows the role."""

    role: str
    detail: str = ""


@dataclass(eq=False)
class UnfinishedDtype:
    """``numpy.dtype(code)`` on its way: usable once BUILD has given its byte order."""

    code: str
    built: bool = False


@dataclass(eq=False)
class _Array:
    """``numpy.ndarray`` on its way: ``value`` is set by BUILD."""

    value: np.ndarray | None = None


_SYMBOLS = {name: Symbol(role) for name, role in _GLOBALS.items()}
_BEGUN_ARRAY = (Symbol("ndarray"), (0,), b"b")
_KINDS = {code: np.dtype(code).newbyteorder("<") for code in DTYPES}


def brief_value(value: Any) -> str:
    """A value of the file in a message; never the repr of a container, which may be a bomb."""
    return ascii(value[:80]).strip("'\"") if isinstance(value, str) else type(value).__name__


def key_problem(key: Any) -> str | None:
    """What keeps ``key`` from being a name in a file, if anything does."""
    if not isinstance(key, str):
        return f"that is not text but {brief_value(key)}"
    if len(key) > MAX_KEY:
        return f"of {len(key):,} characters; {MAX_KEY} are allowed"
    if not key.isprintable():  # it will be in messages, logs and tables
        return f"with control characters: {brief_value(key)}"
    return None


class Machine:
    """A stack machine for the opcodes Paddle's files consist of."""

    writer = "Paddle"
    opcodes: ClassVar[dict[bytes, Callable[[Any], None]]]
    symbols: ClassVar[dict[tuple[str, str], Symbol]]
    calls: ClassVar[dict[str, Callable[[Any, tuple[Any, ...]], Any]]]

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size
        self._read = stream.read
        self._start = stream.tell()
        self._frame_end = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each open MARK
        self._memo: list[Any] = []
        self._payload_left = size  # bytes of tensors that a file of this size can hold
        self._encoded_left = size

    def run(self) -> Any:
        if self._read(1) != b"\x80" or self._read(1) not in (b"\x02", b"\x03", b"\x04"):
            raise PickleRefusedError("it does not begin as a pickle of protocol 2, 3 or 4")
        read, opcodes = self._read, self.opcodes
        for _ in range(_MAX_OPCODES):
            code = read(1)
            action = opcodes.get(code)
            if action is not None:
                action(self)
            elif code == b".":
                return self._stop()
            else:
                raise PickleRefusedError(self._about(code))
        raise PickleRefusedError(f"more than {_MAX_OPCODES:,} opcodes")

    def _about(self, code: bytes) -> str:
        if not code:
            return "it is cut short: the pickle does not end"
        name = _KNOWN.get(code.decode("latin1"), f"{code.hex()} (none that exists)")
        return (
            f"opcode {name} at byte {self._position() - 1}, where no file of {self.writer}'s has it"
        )

    def _stop(self) -> Any:
        left = self._size - self._position()
        if left or self._read(1):
            raise PickleRefusedError(f"{left} bytes follow the end of the pickle")
        if len(self._stack) != 1 or self._marks:
            raise PickleRefusedError("the pickle ends in the middle of something")
        return self._stack[0]

    # --- bytes of the file
    def _position(self) -> int:
        return self._stream.tell() - self._start

    def _take(self, count: int) -> bytes:
        if count > _SMALL and count > self._size - self._position():
            raise PickleRefusedError(
                f"it is cut short: {count:,} bytes are announced and not there"
            )
        data = self._read(count)
        if len(data) != count:
            raise PickleRefusedError(
                f"it is cut short: {count:,} bytes are announced and not there"
            )
        return data

    def frame(self) -> None:
        """A hint for buffered readers; the opcodes are the same, and a false one is refused."""
        (length,) = _U8.unpack(self._take(8))
        at = self._position()
        if at < self._frame_end or length > self._size - at:
            raise PickleRefusedError(f"a frame of {length:,} bytes at byte {at} that cannot be")
        self._frame_end = at + length

    def number(self, form: struct.Struct) -> None:
        self._stack.append(form.unpack(self._take(form.size))[0])

    def long(self) -> None:
        data = self._take(self._take(1)[0])
        self._stack.append(int.from_bytes(data, "little", signed=True))

    def data(self, form: struct.Struct) -> None:
        self._stack.append(self._take(form.unpack(self._take(form.size))[0]))

    def text(self, form: struct.Struct) -> None:
        data = self._take(form.unpack(self._take(form.size))[0])
        try:
            self._stack.append(data.decode("utf-8"))
        except UnicodeDecodeError:  # lone surrogates too, which pickle itself would let through
            raise PickleRefusedError("text that is not UTF-8") from None

    # --- stack and memo
    def mark(self) -> None:
        if len(self._marks) >= _MAX_DEPTH:
            raise PickleRefusedError(f"nested deeper than {_MAX_DEPTH}")
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleRefusedError("a group ends that never began")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise PickleRefusedError("the stack is empty where a value is needed")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise PickleRefusedError("the stack is empty where a value is needed")
        return self._stack[-1]

    def put(self, form: struct.Struct) -> None:
        (index,) = form.unpack(self._take(form.size))
        if index != len(self._memo):  # every pickler numbers in order and overwrites nothing
            raise PickleRefusedError(
                f"memo entry {index} is written where {len(self._memo)} is due"
            )
        self._memo.append(self._top())

    def memoize(self) -> None:
        self._memo.append(self._top())

    def get(self, form: struct.Struct) -> None:
        (index,) = form.unpack(self._take(form.size))
        if index >= len(self._memo):
            raise PickleRefusedError(f"memo entry {index} is read before it is written")
        self._stack.append(self._memo[index])

    # --- containers
    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple(self._pop(count)))

    def tuple_from_mark(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise PickleRefusedError("values are appended to something that is not a list")
        target.extend(items)

    def append(self) -> None:
        self._extend(self._pop(1))

    def appends(self) -> None:
        self._extend(self._pop_mark())

    @staticmethod
    def key_problem(key: Any) -> str | None:
        """What keeps ``key`` from being a key of a dict, if anything does."""
        return key_problem(key)

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleRefusedError("keys and values are set on something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if (problem := self.key_problem(key)) is not None:
                raise PickleRefusedError(f"a dict key {problem}")
            if key in target:
                raise PickleRefusedError(f"the key {brief_value(key)} twice")
            target[key] = value

    def setitem(self) -> None:
        self._set(self._pop(2))

    def setitems(self) -> None:
        self._set(self._pop_mark())

    # --- globals, and the two opcodes that act on them
    def find(self, module: str, name: str) -> None:
        symbol = self.symbols.get((module, name))
        if symbol is None:
            hint = f"no weight file of {self.writer}'s names it; it may be an attack"
            if module in ("builtins", "__builtin__"):
                hint = _HINTS.get(name, hint)
            dotted = f"{brief_value(module)}.{brief_value(name)}"
            raise PickleRefusedError(f"it asks for {dotted}, which is never run here: {hint}")
        self._stack.append(symbol)

    def global_name(self) -> None:
        lines = [self._stream.readline(256), self._stream.readline(256)]
        if not all(line.endswith(b"\n") for line in lines):
            raise PickleRefusedError("a global whose name does not end")
        module, name = (line[:-1].decode("utf-8", "replace") for line in lines)
        self.find(module, name)

    def stack_global(self) -> None:
        module, name = self._pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefusedError("a global whose name is not text")
        self.find(module, name)

    def reduce(self) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, Symbol) or not isinstance(arguments, tuple):
            raise PickleRefusedError("a call of something that is not a known global")
        self._stack.append(self.call(function, arguments))

    def call(self, function: Symbol, arguments: tuple[Any, ...]) -> Any:
        call = self.calls.get(function.role)
        if call is None:
            raise PickleRefusedError(f"a call of {function.role}")
        return call(self, arguments)

    def make_array(self, arguments: tuple[Any, ...]) -> _Array:
        if arguments != _BEGUN_ARRAY:
            raise PickleRefusedError("an array begun with unusual arguments")
        return _Array()

    def make_dtype(self, arguments: tuple[Any, ...]) -> UnfinishedDtype:
        # numpy before 1.17 wrote 0 and 1 for False and True; they compare equal.
        if len(arguments) != 3 or arguments[1:] != (False, True) or arguments[0] not in DTYPES:
            kind = brief_value(arguments[0]) if arguments else "none"
            raise PickleRefusedError(f"a tensor of type {kind}; known are {', '.join(DTYPES)}")
        return UnfinishedDtype(arguments[0])

    def make_scalar(self, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 2:
            raise PickleRefusedError("a scalar of unusual form")
        return self._decode(arguments[0], (), False, arguments[1])[()]

    def make_bytes(self, arguments: tuple[Any, ...]) -> bytes:
        if arguments == ():
            return b""
        if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
            raise PickleRefusedError("bytes of unusual form")
        self._encoded_left -= len(arguments[0])
        if self._encoded_left < 0:
            raise PickleRefusedError("more bytes decoded than the file holds")
        try:
            return arguments[0].encode("latin1")
        except UnicodeEncodeError:
            raise PickleRefusedError("bytes that are not latin1") from None

    def make_tuple(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(arguments) != 1 or not isinstance(arguments[0], tuple) or len(arguments[0]) != 2:
            raise PickleRefusedError("a tuple that is not (name, array)")
        name, value = arguments[0]
        if not isinstance(name, str) or not isinstance(value, _Array):
            raise PickleRefusedError("a tuple that is not (name, array)")
        return arguments[0]

    def make_dict(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments != ():
            raise PickleRefusedError("an OrderedDict with arguments")
        return {}

    def build(self) -> None:
        (state,) = self._pop(1)
        target = self._top()
        if isinstance(target, UnfinishedDtype) and not target.built:
            order = "|" if target.code.endswith("1") else "<"
            if state != (3, order, None, None, None, -1, -1, 0):
                raise PickleRefusedError(f"a {target.code} type with unusual state (big-endian?)")
            target.built = True
        elif isinstance(target, _Array) and target.value is None:
            if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
                raise PickleRefusedError("an array with unusual state")
            _, shape, dtype, fortran, data = state
            target.value = self._decode(dtype, shape, fortran, data)
        else:
            raise PickleRefusedError("state is set on something that takes none")

    def _decode(self, dtype: Any, shape: Any, fortran: Any, data: Any) -> np.ndarray:
        if not isinstance(dtype, UnfinishedDtype) or not dtype.built:
            raise PickleRefusedError("a tensor without a type")
        if not isinstance(data, bytes) or not isinstance(fortran, bool):
            raise PickleRefusedError("a tensor without plain bytes")
        if not isinstance(shape, tuple) or len(shape) > 8:
            raise PickleRefusedError("a tensor whose shape is not a short tuple")
        if any(type(n) is not int or not 0 <= n < 2**40 for n in shape):
            raise PickleRefusedError("a tensor with an impossible shape")
        kind = _KINDS[dtype.code]
        if math.prod(shape) * kind.itemsize != len(data):
            raise PickleRefusedError(
                f"{len(data)} bytes for a {dtype.code} tensor of shape {list(shape)}"
            )
        self._payload_left -= len(data)
        if self._payload_left < 0:
            raise PickleRefusedError("tensors larger than the file that holds them")
        try:
            return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        except ValueError:  # an empty tensor whose other sides numpy cannot count
            raise PickleRefusedError(f"a tensor of the impossible shape {list(shape)}") from None


class Resolver:
    """Replaces the unfinished things of the machine by arrays; refuses cycles and bombs."""

    def __init__(self, size: int) -> None:
        self._values_left = _MAX_VALUES
        self._bytes_left = MAX_SHARING * size

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise PickleRefusedError(f"more than {_MAX_VALUES:,} values")
        if depth > _MAX_DEPTH:  # a container inside itself ends here too
            raise PickleRefusedError(f"nested deeper than {_MAX_DEPTH}")
        if isinstance(value, _Array):
            if value.value is None:
                raise PickleRefusedError("an array without values")
            # Whoever copies what is returned copies a tensor as often as the file names it.
            self._bytes_left -= value.value.nbytes
            if self._bytes_left < 0:
                raise PickleRefusedError("the same tensor under too many names")
            return value.value
        if isinstance(value, dict):
            return {key: self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple(self(item, depth + 1) for item in value)
        if isinstance(value, Symbol | UnfinishedDtype):
            raise PickleRefusedError("a bare global where a value is expected")
        return value


_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_KNOWN = {opcode.code: opcode.name for opcode in pickletools.opcodes}  # for messages alone
Machine.symbols = _SYMBOLS
Machine.opcodes = {
    b"\x95": Machine.frame,
    b"N": lambda machine: machine._stack.append(None),
    b"\x88": lambda machine: machine._stack.append(True),
    b"\x89": lambda machine: machine._stack.append(False),
    b"K": lambda machine: machine.number(_U1),
    b"M": lambda machine: machine.number(_U2),
    b"J": lambda machine: machine.number(_I4),
    b"G": lambda machine: machine.number(_F8),
    b"\x8a": Machine.long,
    b"C": lambda machine: machine.data(_U1),
    b"B": lambda machine: machine.data(_U4),
    b"\x8e": lambda machine: machine.data(_U8),
    b"\x8c": lambda machine: machine.text(_U1),
    b"X": lambda machine: machine.text(_U4),
    b"\x8d": lambda machine: machine.text(_U8),
    b"(": Machine.mark,
    b"q": lambda machine: machine.put(_U1),
    b"r": lambda machine: machine.put(_U4),
    b"\x94": Machine.memoize,
    b"h": lambda machine: machine.get(_U1),
    b"j": lambda machine: machine.get(_U4),
    b")": lambda machine: machine._stack.append(()),
    b"t": Machine.tuple_from_mark,
    b"\x85": lambda machine: machine.tuple_of(1),
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"]": lambda machine: machine._stack.append([]),
    b"a": Machine.append,
    b"e": Machine.appends,
    b"}": lambda machine: machine._stack.append({}),
    b"s": Machine.setitem,
    b"u": Machine.setitems,
    b"c": Machine.global_name,
    b"\x93": Machine.stack_global,
    b"R": Machine.reduce,
    b"b": Machine.build,
}
Machine.calls = {
    "reconstruct": Machine.make_array,
    "scalar": Machine.make_scalar,
    "dtype": Machine.make_dtype,
    "encode": Machine.make_bytes,
    "bytes": Machine.make_bytes,
    "tuple": Machine.make_tuple,
    "ordered_dict": Machine.make_dict,
}


def interpret(
    stream: BinaryIO,
    size: int,
    machine: type[Machine] = Machine,
    resolver: type[Resolver] = Resolver,
) -> Any:
    """The value of the pickle that fills ``stream``, ``size`` bytes from here to its end.

    Dicts with text keys, lists, tuples, numbers, text, bytes, None and read-only arrays. Raises
    ``PickleRefusedError`` for everything else; ``OSError`` and ``MemoryError`` are left to the
    caller.
    """
    return resolver(size)(machine(stream, size).run())
