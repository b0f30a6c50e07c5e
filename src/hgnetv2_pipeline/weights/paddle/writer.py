"""Weights written as ``paddle.save`` writes them, opcode for opcode, without Paddle or pickle.

The one difference is deliberate: the array constructor bears numpy 1's module name, which every
numpy (and so every Paddle) can read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.weights.paddle.pdparams import NAMES_KEY, SPLIT_KEY
from hgnetv2_pipeline.weights.pickle_machine import DTYPES, key_problem


class _Writer:
    """Emits pickle opcodes in the order of CPython's pickler, memo and frames included."""

    _FRAME = 64 * 1024

    def __init__(self, write: Callable[[bytes], Any], protocol: int) -> None:
        self._out, self._protocol = write, protocol
        self._frame = bytearray()
        self._known: dict[Any, int] = {}
        self._memo_size = 0

    def _raw(self, code: bytes) -> None:
        self._frame += code

    def _flush(self, least: int) -> None:
        if len(self._frame) >= least and self._frame:
            if self._protocol >= 4 and len(self._frame) >= 4:
                self._out(b"\x95" + struct.pack("<Q", len(self._frame)))
            self._out(bytes(self._frame))
            self._frame.clear()

    def _memoize(self, key: Any = None) -> None:
        index, self._memo_size = self._memo_size, self._memo_size + 1
        if key is not None:
            self._known[key] = index
        if self._protocol >= 4:
            self._raw(b"\x94")
        else:
            self._raw(b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def _recall(self, key: Any) -> bool:
        """Emit a reference to what was written under ``key``, if it was."""
        index = self._known.get(key)
        if index is None:
            return False
        self._raw(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
        return True

    def text(self, value: str, *, once: bool = False) -> None:
        if not once and self._recall(("text", value)):
            return
        data = value.encode("utf-8")
        if self._protocol >= 4 and len(data) < 256:
            self._raw(b"\x8c" + bytes([len(data)]) + data)
        else:
            self._large(b"X" + struct.pack("<I", len(data)), data)
        self._memoize(None if once else ("text", value))

    def _large(self, header: bytes, data: bytes) -> None:
        if self._protocol >= 4 and len(data) >= self._FRAME:  # large bytes are outside frames
            self._flush(0)
            self._out(header)
            self._out(data)
        else:
            self._raw(header + data)
        if self._protocol < 4:
            self._flush(self._FRAME)

    def name(self, module: str, name: str) -> None:
        if self._recall(("global", module, name)):
            return
        if self._protocol >= 4:
            self.text(module)
            self.text(name)
            self._raw(b"\x93")
        else:
            self._raw(f"c{module}\n{name}\n".encode())
        self._memoize(("global", module, name))

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self._raw(b"K" + bytes([value]))
        elif 0 <= value < 65536:
            self._raw(b"M" + struct.pack("<H", value))
        else:
            self._raw(b"J" + struct.pack("<i", value))

    def data(self, value: bytes) -> None:
        if self._protocol >= 3:
            size = len(value)
            if size < 256:
                self._raw(b"C" + bytes([size]) + value)
            elif size < 2**32:
                self._large(b"B" + struct.pack("<I", size), value)
            else:
                self._large(b"\x8e" + struct.pack("<Q", size), value)
            self._memoize()
        elif not value:  # protocol 2 has no bytes: Paddle's are bytes() or encode(text, 'latin1')
            self.name("__builtin__", "bytes")
            self._raw(b")R")
            self._memoize()
        else:
            self.name("_codecs", "encode")
            self.text(value.decode("latin1"), once=True)
            self.text("latin1")
            self._raw(b"\x86")
            self._memoize()
            self._raw(b"R")
            self._memoize()

    def _type(self, dtype: np.dtype[Any]) -> None:
        if self._recall(("dtype", dtype.str)):
            return
        self.name("numpy", "dtype")
        self.text(dtype.str[1:])
        self._raw(b"\x89\x88\x87")
        self._memoize()
        self._raw(b"R")
        self._memoize(("dtype", dtype.str))
        self._raw(b"(K\x03")
        self.text(dtype.str[0])
        self._raw(b"NNN")
        self.integer(-1)
        self.integer(-1)
        self.integer(0)
        self._raw(b"t")
        self._memoize()
        self._raw(b"b")

    def _shape(self, shape: tuple[int, ...]) -> None:
        if not shape:
            self._raw(b")")
            return
        if len(shape) > 3:
            self._raw(b"(")
        for n in shape:
            self.integer(n)
        self._raw({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(shape), b"t"))
        self._memoize()

    def array(self, value: np.ndarray) -> None:
        # numpy 1's name of the function, which every numpy accepts and released weights carry.
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.integer(0)
        self._raw(b"\x85")
        self._memoize()
        if not self._recall("kind"):
            self.data(b"b")
            self._known["kind"] = self._memo_size - 1
        self._raw(b"\x87")
        self._memoize()
        self._raw(b"R")
        self._memoize()
        self._raw(b"(K\x01")
        self._shape(value.shape)
        self._type(value.dtype)
        self._raw(b"\x89")
        self.data(value.tobytes())
        self._raw(b"t")
        self._memoize()
        self._raw(b"b")

    def mapping(self, items: Mapping[str, Any], value: Callable[[Any], None]) -> None:
        """A dict; in batches of 1000 keys, as pickle does."""
        self._raw(b"}")
        self._memoize()
        pairs = list(items.items())
        if len(pairs) == 1:
            self.text(pairs[0][0])
            value(pairs[0][1])
            self._raw(b"s")
            return
        for start in range(0, len(pairs), 1000):
            self._raw(b"(")
            for key, item in pairs[start : start + 1000]:
                self.text(key)
                value(item)
                if self._protocol >= 4:
                    self._flush(self._FRAME)
            self._raw(b"u")

    def state_dict(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._out(b"\x80" + bytes([self._protocol]))

        def member(item: Any) -> None:
            if isinstance(item, np.ndarray):
                self.array(item)
            else:
                self.mapping(item, self.text)

        self.mapping({**tensors, NAMES_KEY: _framework_names(tensors)}, member)
        self._raw(b".")
        self._flush(0)


def _framework_names(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Names as Paddle gives its parameters: ``conv2d_0.w_0``, ``batch_norm2d_3.b_0``, ..."""
    names: dict[str, str] = {}
    numbers: dict[str, dict[str, int]] = {}  # kind -> layer -> its number
    norms = {key.rpartition(".")[0] for key in tensors if key.endswith("._mean")}
    convs = {key.rpartition(".")[0] for key, value in tensors.items() if value.ndim == 4}
    for key in tensors:
        layer, _, leaf = key.rpartition(".")
        if layer in norms:
            kind = "batch_norm2d"
            suffix = {"weight": "w_0", "bias": "b_0", "_mean": "w_1", "_variance": "w_2"}.get(leaf)
        elif leaf == "scale" or f"{layer}.scale" in tensors:
            kind, suffix = "learnable_affine_block", {"scale": "w_0", "bias": "w_1"}.get(leaf)
        else:
            kind = "conv2d" if layer in convs else "linear"
            suffix = {"weight": "w_0", "bias": "b_0"}.get(leaf)
        number = numbers.setdefault(kind, {}).setdefault(layer, len(numbers[kind]))
        names[key] = f"{kind}_{number}.{suffix or leaf}"
    return names


def write_pdparams(path: Path, tensors: Mapping[str, np.ndarray], protocol: int = 4) -> None:
    """Write ``tensors`` as ``paddle.save(layer.state_dict(), path)`` does, whole or not at all.

    Names and layout must already be Paddle's (``weights.to_paddle`` makes them). ``protocol`` is
    2, 3 or 4; Paddle's default is 4. bfloat16 goes in as uint16. Names and types that
    ``read_pdparams`` would refuse are a ``ParameterError`` here.
    """
    if protocol not in (2, 3, 4):
        raise ParameterError(f"pickle protocol {protocol!r}; Paddle reads 2, 3 or 4")
    if not tensors:
        raise ParameterError(f"there are no tensors to write to {path}")
    plain: dict[str, np.ndarray] = {}
    for key, value in tensors.items():
        problem = "that is Paddle's own" if key in (NAMES_KEY, SPLIT_KEY) else key_problem(key)
        if problem is not None:
            raise ParameterError(f"a tensor has a name {problem}")
        array = np.asarray(value, order="C")
        if array.dtype.str[1:] not in DTYPES or array.dtype.str[0] == ">":
            raise ParameterError(f"{key} has the type {array.dtype}, which Paddle's files have not")
        if protocol < 4 and array.nbytes >= 2**30:
            raise ParameterError(f"{key} is too large for protocol {protocol}; use protocol 4")
        plain[key] = array
    with write_aside(Path(path)) as aside, aside.open("wb") as file:
        _Writer(file.write, protocol).state_dict(plain)
