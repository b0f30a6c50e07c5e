"""Hostile weight files by name, mutations of honest ones, and a process that reads them all.

``attacks(marker)``: contents of files that would create ``marker`` if they were run, or that lie,
loop or grow. ``mutate``: an honest file, damaged. As a script it reads many files under a limit of
memory and prints what happened, so that no limit hangs over the test process itself:

    python hostile_pickles.py FOLDER corpus
    python hostile_pickles.py FOLDER mutations COUNT SEED
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import json
import operator
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spoiling import mutate

FILES = Path(__file__).parents[1] / "golden" / "paddle_files"
MEMORY = 1 << 29  # bytes of address space, Python and numpy included


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def short(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(data)]) + data


def names(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01%s"
    b"cnumpy\ndtype\nX\x02\x00\x00\x00%s\x89\x88\x87R(K\x03X\x01\x00\x00\x00%sNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89%stb"
)
BEGUN = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
F4 = (
    b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
STATE = b"(K\x01K\x02\x85" + F4 + b"\x89C\x08" + bytes(8) + b"t"


def array(
    shape: bytes = b"K\x02\x85",
    kind: bytes = b"f4",
    order: bytes = b"<",
    data: bytes = b"C\x08" + bytes(8),
) -> bytes:
    return ARRAY % (shape, kind, order, data)


def of(value: bytes, protocol: int = 4) -> bytes:
    """A state dict with one entry."""
    return b"\x80" + bytes([protocol]) + b"}" + text("w") + value + b"s."


def memoised(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def recalled(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


class Call:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.what


# Functions that would do harm, most of them on the way of published bypasses of pickle scanners.
DANGEROUS = [
    "os system", "posix system", "nt system", "os popen", "os execv", "os remove",
    "subprocess Popen", "subprocess check_output", "subprocess getoutput",
    "importlib import_module", "importlib __import__", "imp load_source", "zipimport zipimporter",
    "runpy run_path", "runpy _run_code", "pty spawn", "platform popen",
    "ctypes CDLL", "_ctypes dlopen", "ctypes.util find_library",
    "builtins eval", "builtins exec", "builtins compile", "builtins getattr", "builtins setattr",
    "builtins open", "builtins __import__", "builtins globals", "builtins breakpoint",
    "builtins map", "builtins bytes", "builtins bytearray", "builtins list", "builtins print",
    "__builtin__ eval", "__builtin__ execfile", "__builtin__ apply", "__builtin__ file",
    "numpy load", "numpy fromfile", "numpy memmap", "numpy savetxt", "numpy genfromtxt",
    "numpy.f2py.crackfortran param_eval", "numpy.testing._private.utils runstring",
    "numpy.testing runstring", "numpy.distutils.exec_command _exec_command",
    "numpy.core.multiarray fromfile", "numpy.core.multiarray frombuffer", "numpy matrix",
    "_codecs decode", "codecs encode", "codecs open", "_codecs lookup",
    "operator attrgetter", "operator methodcaller", "_operator itemgetter", "functools partial",
    "collections Counter", "collections defaultdict", "collections namedtuple",
    "copyreg _reconstructor", "copy_reg _reconstructor", "types CodeType", "types FunctionType",
    "timeit timeit", "cProfile run", "pdb run", "code InteractiveInterpreter", "bdb Bdb",
    "shutil rmtree", "shutil copyfile", "tempfile mktemp", "pathlib Path", "glob glob",
    "socket create_connection", "urllib.request urlopen", "http.client HTTPConnection",
    "webbrowser open", "smtplib SMTP", "ssl get_server_certificate", "logging.config listen",
    "pickle loads", "_pickle loads", "marshal loads", "shelve open", "joblib load",
    "torch load", "torch.hub load", "torch._utils _rebuild_tensor_v2", "torch.jit load",
    "paddle load", "paddle.base.core eager", "pip main", "site main", "pydoc pipepager",
    "lib2to3.pgen2.grammar Grammar.loads", "idlelib.autocomplete AutoComplete.get_entity",
    "unittest.mock _importer", "doctest debug_script", "trace Trace.run", "atexit register",
    "threading Thread", "multiprocessing Process", "asyncio run", "signal signal", "sys modules",
]  # fmt: skip


def executions(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that ask for a function, by every opcode that can."""
    command = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w')"
    for protocol in range(6):
        yield (
            f"os.system, protocol {protocol}",
            pickle.dumps({"w": Call(os.system, command)}, protocol),
        )
    made: dict[str, Any] = {
        "eval": Call(eval, source),
        "exec": Call(exec, source),
        "compile": Call(compile, source, "x", "eval"),
        "open": Call(open, str(marker), "w"),
        "a chain of getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "methodcaller": Call(operator.methodcaller, "touch"),
        "partial": Call(partial, os.system, command),
        "check_call": Call(subprocess.check_call, ["touch", str(marker)]),
        "import_module": Call(importlib.import_module, "antigravity"),
        "savetxt": Call(np.savetxt, str(marker), [1]),
        "codecs.open": Call(codecs.open, str(marker), "w"),
        "a bomb of bytes": Call(bytearray, 2**40),
        "a range": range(2**60),
        "a complex number": complex(1, 2),
        "a counter": Counter("ab"),
        "a set": {1, 2},
        "a path": Path("x"),
        "an exception": ValueError("x"),
        "a function": os.system,
        "an ordered dict with arguments": Call(OrderedDict, [("a", 1)]),
        "a matrix": np.asmatrix([1.0]),
    }
    for name, value in made.items():
        yield name, pickle.dumps({"w": value}, 4)
    run = b"(" + text(command) + b"t"
    for dotted in DANGEROUS:
        module, _, name = dotted.rpartition(" ")
        yield f"GLOBAL {dotted}", of(names(module, name) + run + b"R", 2)
    for module, name in [
        ("os", "system"), ("builtins", "eval"), ("numpy", "f2py.crackfortran.param_eval"),
        ("numpy", "ndarray.tofile"), ("numpy", "dtype.__class__"), ("numpy.", "dtype"),
        ("", "os.system"), ("numpy dtype", ""), ("", "numpy dtype"), ("numpy", "dtype\n"),
        ("numpy\ndtype", "x"), ("NUMPY", "dtype"), ("numpy", "dtуpe"), ("оs", "system"),
        ("ｏs", "system"), ("builtins\u200b", "eval"), ("builtins", "ev\u0430l"),
        ("os\0", "system"),
        ("collections", "OrderedDict.fromkeys"), ("_codecs", "encode.__self__"),
    ]:  # fmt: skip
        yield (
            f"STACK_GLOBAL {module!a} {name!a}",
            of(short(module) + short(name) + b"\x93" + run + b"R"),
        )
    target = names("os", "system")
    yield from {
        "GLOBAL with a carriage return": of(b"cos\r\nsystem\r\n" + run + b"R"),
        "GLOBAL in Latin-1": of(b"co\xe9s\nsystem\n" + run + b"R"),
        "GLOBAL that is a dotted attribute": of(b"cnumpy\nndarray.tofile\n"),
        "GLOBAL without end": b"\x80\x02cos",
        "GLOBAL of a megabyte": b"\x80\x02c" + b"a" * 2**20 + b"\nb\n.",
        "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
        "STACK_GLOBAL from the memo": b"\x80\x04" + text("os") + b"\x94" + text("system")
        + b"\x94h\x00h\x01\x93" + run + b"R.",
        "INST": b"\x80\x02(" + text(command) + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(" + target + text(command) + b"o.",
        "NEWOBJ": b"\x80\x02" + target + text(command) + b"\x85\x81.",
        "NEWOBJ of a known global": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + target + text(command) + b"\x85}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"\x80\x02Pos.system\n.",
        "BINPERSID": b"\x80\x02" + text("os") + b"Q.",
        "REDUCE of text": b"\x80\x03" + text("os") + run + b"R.",
        "REDUCE of the result of a call": of(BEGUN + b")R"),
        "REDUCE with a list": of(b"cbuiltins\ntuple\n]R"),
        "tuple of a list": of(b"cbuiltins\ntuple\n]\x85R"),
        "tuple of numbers": of(b"cbuiltins\ntuple\nK\x01K\x02\x86\x85R"),
        "encode by rot13": of(b"c_codecs\nencode\n" + text("bf") + text("rot13") + b"\x86R"),
        "encode by zip": of(b"c_codecs\nencode\n" + text("a") + text("zip") + b"\x86R"),
        "encode beyond Latin-1": of(b"c_codecs\nencode\n" + text("Ж") + text("latin1") + b"\x86R"),
        "encode of a list": of(b"c_codecs\nencode\n]" + text("latin1") + b"\x86R"),
        "bytes of a number": of(b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R"),
        "an array of a subclass": of(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nK\x00\x85C\x01b\x87R"
        ),
        "an array begun huge": of(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R"
        ),
        "a scalar of objects": of(
            b"cnumpy.core.multiarray\nscalar\n" + names("numpy", "dtype") + text("O8")
            + b"\x89\x88\x87R" + text("x") + b"\x86R"
        ),
        "a scalar of too few": of(b"cnumpy.core.multiarray\nscalar\n)R"),
        "BUILD on a symbol": of(b"cnumpy\nndarray\n}" + text("shape") + b"K\x01sb"),
        "BUILD on a dict": of(b"}}" + text("x") + b"K\x01sb"),
        "BUILD on text": of(text("x") + b"}b"),
        "BUILD twice": of(array() + STATE + b"b"),
        "BUILD of a dtype twice": of(
            F4 + b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        ),
        "BUILD of a dtype with fields": of(
            b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R(K\x03" + text("|") + b"N(" + text("a")
            + b"t}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        ),
        "a symbol alone": of(b"cnumpy\nndarray\n"),
        "a dtype alone": of(F4),
        "a symbol in a list": of(b"](cnumpy\nndarray\ne"),
        "an array without values": of(BEGUN),
    }.items()  # fmt: skip


def tensors() -> Iterator[tuple[str, bytes]]:
    """Tensors of a type, shape or length that no Paddle file has."""
    for name, value in {
        "of records": np.zeros(2, [("a", "f4")]),
        "of objects": np.array([None, 1], object),
        "of text": np.array(["a"]),
        "of bytes": np.array([b"a"]),
        "of void": np.zeros(2, "V4"),
        "of dates": np.zeros(2, "M8[s]"),
        "of durations": np.zeros(2, "m8[s]"),
        "of complex": np.zeros(2, np.complex64),
        "of long doubles": np.zeros(2, np.longdouble),
        "big-endian": np.zeros(2, ">f4"),
    }.items():
        yield f"a tensor {name}", pickle.dumps({"w": value}, 4)
    yield "a tensor in protocol 5", pickle.dumps({"w": np.zeros(5)}, 5)
    buffers: list[Any] = []
    yield (
        "NEXT_BUFFER",
        pickle.dumps({"w": pickle.PickleBuffer(b"x")}, 5, buffer_callback=buffers.append),
    )
    side = b"J\xff\xff\xff\x7f"
    eight_gibi = b"\x8a\x05" + (2**33).to_bytes(5, "little")
    yield from {
        "READONLY_BUFFER": b"\x80\x04C\x01a\x98.",
        "BYTEARRAY8": b"\x80\x04\x96" + struct.pack("<Q", 3) + b"abc.",
        "a shape too large": of(array(shape=b"K\xff\x85")),
        "a shape too small": of(array(shape=b"K\x01\x85")),
        "a shape of nothing with bytes": of(array(shape=b"K\x00\x85")),
        "a negative shape": of(array(shape=b"J\xff\xff\xff\xff\x85")),
        "two negative sides": of(array(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86")),
        "a shape that overflows": of(array(shape=eight_gibi * 2 + b"\x86")),
        "a shape that overflows to its length": of(
            array(shape=b"\x8a\x09" + (2**62).to_bytes(9, "little") + b"K\x04K\x02\x87")
        ),
        "empty with sides nobody counts": of(
            array(shape=b"(K\x00" + side * 6 + b"t", data=b"C\x00")
        ),
        "a shape of floats": of(array(shape=b"G" + struct.pack(">d", 2) + b"\x85")),
        "a shape of flags": of(array(shape=b"\x88\x85")),
        "a shape of text": of(array(shape=text("2") + b"\x85")),
        "a shape that is a list": of(array(shape=b"](K\x02e")),
        "a shape of nine sides": of(array(shape=b"(K\x02" + b"K\x01" * 8 + b"t")),
        "an object array by hand": of(array(kind=b"O8")),
        "a void array by hand": of(array(kind=b"V4")),
        "an unsized text array": of(array(kind=b"U0")),
        "an unknown kind": of(array(kind=b"f3")),
        "native order": of(array(order=b"=")),
        "big-endian by hand": of(array(order=b">")),
        "data that is a list": of(array(data=b"]")),
        "data that is text": of(array(data=text("12345678"))),
        "data that is an array": of(array(data=array())),
        "data of another tensor's length": of(array(data=b"C\x0c" + bytes(12))),
    }.items()


def laughs(combine: bytes, first: bytes, levels: int) -> bytes:
    """Each level holds the last one twice: 2**levels values of a few hundred bytes."""
    body = b"(" + first + memoised(0)
    for level in range(levels):
        body += combine.replace(b"?", recalled(level)) + memoised(level + 1)
    return body + b"t"


def structures() -> Iterator[tuple[str, bytes]]:
    """Memo, nesting, growth and lengths."""
    shared = array(shape=b"M\xff\x3f\x85", data=b"B" + struct.pack("<I", 65532) + bytes(65532))
    under_many_names = shared + memoised(0)
    for i in range(2000):
        under_many_names += b"s" + text(f"k{i}") + recalled(0)
    long_names = b"(" + b"".join(text(f"{i}") + b"K\x01" for i in range(9000)) + b"u"
    yield from {
        "memo written twice": b"\x80\x03}q\x00]q\x00.",
        "memo written out of order": b"\x80\x03}q\x01]q\x00.",
        "memo read before it is written": b"\x80\x03h\x00.",
        "memo index huge": b"\x80\x03}r\xff\xff\xff\xff.",
        "memo read huge": b"\x80\x03}j\xff\xff\xff\xff.",
        "memo by text": b"\x80\x03}p0\n.",
        "memo by negative text": b"\x80\x03}p-1\n.",
        "memo read by text": b"\x80\x03}q\x00g0\n.",
        "memo of nothing": b"\x80\x04\x94.",
        "a memoised symbol, built": of(b"cnumpy\ndtype\nq\x00}" + text("type") + b"K\x01sb"),
        "a memoised symbol, called with another": of(
            b"cnumpy\nndarray\nq\x00h\x00\x85R"
        ),
        "a memoised array, built again": of(b"](" + array() + b"q\x00h\x00" + STATE + b"be"),
        "POP": b"\x80\x03}}0.",
        "POP_MARK": b"\x80\x03}(}1.",
        "DUP": b"\x80\x03}2.",
        "a dict within itself": b"\x80\x03}q\x00" + text("w") + b"h\x00s.",
        "a list within itself": of(b"]q\x00(h\x00e"),
        "a tuple within itself": of(b"]q\x00h\x00\x85q\x01a"),
        "laughs by lists": of(laughs(b"](??e", b"]", 40)),
        "laughs by tuples": of(laughs(b"??\x86", b")", 40)),
        "laughs by dicts": of(laughs(b"}(X\x01\x00\x00\x00a?X\x01\x00\x00\x00b?u", b"}", 40)),
        "laughs by arrays": of(laughs(b"](??e", array(), 40)),
        "laughs, wide": of(b"](" + b"]q\x00" + b"h\x00" * 300_000 + b"e"),
        "one tensor under many names": b"\x80\x03}" + text("w") + under_many_names + b"s.",
        "one text encoded many times": b"\x80\x03](" + text("x" * 50_000) + b"q\x00"
        + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 2000 + b"e.",
        "names that multiply": b"\x80\x03}" + text("n" * 10**6) + b"}" + long_names + b"s.",
        "names that nest": b"\x80\x03" + (b"}" + text("n" * 500)) * 60 + array() + b"s" * 60 + b".",
        "lists 3,000 deep": b"\x80\x03" + b"]" * 3000 + b"a" * 2999 + b".",
        "tuples 3,000 deep": b"\x80\x03)" + b"\x85" * 3000 + b".",
        "dicts 3,000 deep": b"\x80\x03" + (b"}" + text("a")) * 3000 + b"N" + b"s" * 3000 + b".",
        "marks without end": b"\x80\x03" + b"(" * 5000 + b".",
        "a million opcodes": b"\x80\x03" + b"N" * 1_000_000 + b".",
        "as many values as allowed and one": b"\x80\x03](" + b"N" * 100_001 + b"e.",
        "STRING": b"\x80\x02S'x'\n.",
        "BINSTRING": b"\x80\x02T\x01\x00\x00\x00x.",
        "SHORT_BINSTRING": b"\x80\x02U\x01x.",
        "UNICODE": b"\x80\x02Vx\n.",
        "INT": b"\x80\x02I1\n.",
        "LONG": b"\x80\x02L1L\n.",
        "FLOAT": b"\x80\x02F1\n.",
        "LONG4": b"\x80\x02\x8b\x01\x00\x00\x00\x01.",
        "EMPTY_SET": b"\x80\x04\x8f.",
        "FROZENSET": b"\x80\x04(K\x01\x91.",
        "ADDITEMS": b"\x80\x04\x8f(K\x01\x90.",
        "an opcode that does not exist": b"\x80\x04\xff.",
        "text beyond the file": b"\x80\x04}\x8c\xffabc.",
        "text of 4 GB": b"\x80\x04}X\xff\xff\xff\xffabc.",
        "text of a terabyte": b"\x80\x04}\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        "text of 2**64": b"\x80\x04}\x8d" + b"\xff" * 8 + b"abc.",
        "bytes beyond the file": b"\x80\x04}C\xffabc.",
        "bytes of 4 GB": b"\x80\x04}B\xff\xff\xff\xffabc.",
        "bytes of 2**62": b"\x80\x04}\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "bytes one too many": of(b"C\x08abc")[:-3],
        "a number beyond the file": b"\x80\x04}\x8a\xffabc.",
        "a frame beyond the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + of(array())[2:],
        "a frame in a frame": b"\x80\x04\x95" + struct.pack("<Q", 20) + b"\x95" + bytes(8)
        + b"}" + text("w") + b"K\x01s.",
        "a frame cut short": b"\x80\x04\x95\x01",
        "a lone surrogate": b"\x80\x03}" + text("\ud800") + array() + b"s.",
        "text that is not UTF-8": b"\x80\x03}X\x02\x00\x00\x00\xff\xfe" + array() + b"s.",
    }.items()  # fmt: skip


def state_dicts(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Whole pickles that are no state dict, or more than one."""
    second = pickle.dumps(Call(os.system, f"touch {marker}"))
    yield from {
        "a key twice": b"\x80\x03}(" + text("a") + array() + text("a") + array() + b"u.",
        "a key twice by nesting": b"\x80\x03}(" + text("a.b") + array() + text("a") + b"}"
        + text("b") + array() + b"su.",
        "a number as key": pickle.dumps({1: np.zeros(1)}, 3),
        "a tuple as key": b"\x80\x03})K\x01s.",
        "None as key": b"\x80\x03}NK\x01s.",
        "a list as key": b"\x80\x03}]K\x01s.",
        "bytes as key": b"\x80\x03}C\x01aK\x01s.",
        "a key that colours the terminal": b"\x80\x03}" + text("\x1b[31mw") + array() + b"s.",
        "a key with a line break": b"\x80\x03}" + text("w\nok: loaded") + array() + b"s.",
        "a key that turns the text": b"\x80\x03}" + text("w\u202ecod") + array() + b"s.",
        "tensors hidden in the table of names": b"\x80\x03}(" + text("w") + array()
        + text("StructuredToParameterName@@") + b"}" + text("v") + array() + b"su.",
        "a table of names that is none": b"\x80\x03}(" + text("w") + array()
        + text("StructuredToParameterName@@") + b"K\x01u.",
        "parts of big tensors": pickle.dumps({"w": 1, "UnpackBigParamInfor@@": {}}, 3),
        "a list of tensors as entry": of(b"](" + array() + b"e"),
        "bytes as entry": of(b"C\x01a"),
        "a list": pickle.dumps([1], 3),
        "a number": pickle.dumps(1, 3),
        "None": pickle.dumps(None, 4),
        "an array": b"\x80\x03" + array() + b".",
        "numbers only": pickle.dumps({"a": 1}, 3),
        "an empty dict": pickle.dumps({}, 4),
        "a second pickle behind": of(array()) + second,
        "a second pickle before": second + of(array()),
        "a byte behind": of(array()) + b"\n",
        "zeros behind": of(array()) + bytes(4096),
        "no stop": of(array())[:-1],
        "stop at once": b"\x80\x03.",
        "no protocol": of(array())[2:],
        "protocol alone": b"\x80",
        "protocol without more": b"\x80\x04",
        "protocol twice": b"\x80\x03}\x80\x03.",
        "protocol 255": b"\x80\xff}.",
        "protocol 0": pickle.dumps({"a": 1}, 0),
        "protocol 1": pickle.dumps({"a": 1}, 1),
        "a stack too short": b"\x80\x03s.",
        "a group that never began": b"\x80\x03t.",
        "a group that never ends": b"\x80\x03}(.",
        "two values left": b"\x80\x03}}.",
        "an odd number of keys and values": b"\x80\x03}(" + text("a") + b"u.",
        "items for a list": b"\x80\x03](" + text("a") + b"K\x01u.",
        "values for a dict": b"\x80\x03}(K\x01e.",
    }.items()  # fmt: skip


def strangers(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files of other kinds under the wrong name."""
    inside = pickle.dumps(Call(os.system, f"touch {marker}"))
    zipped, npz, tar, npy = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", inside)
    np.savez(npz, w=np.zeros(3))
    np.save(npy, np.array([Call(os.system, f"touch {marker}")]), allow_pickle=True)
    with tarfile.open(fileobj=tar, mode="w") as archive_:
        member = tarfile.TarInfo("inference.pdiparams")
        member.size = len(inside)
        archive_.addfile(member, io.BytesIO(inside))
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    yield from {
        "nothing": b"",
        "a torch zip": zipped.getvalue(),
        "a torch file of old": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + inside,
        "an npz": npz.getvalue(),
        "an npy of objects": npy.getvalue(),
        "a tar": tar.getvalue(),
        "gzip": gzip.compress(of(array()), mtime=0),
        "bzip2": bz2.compress(of(array())),
        "safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "ONNX": b"\x08\x08\x12\x07pytorch\x1a\x062.15.0:\x10",
        "a Paddle program": b"\n\x94\x02\x08\x00\x10\xff\xff\xff\xff\x0f\x1a\x07\n\x04feed",
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "a web page with a mark before": b"\xef\xbb\xbf\r\n <html>",
        "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "JSON": b'{"message": "not found"}',
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "a script": b"#!/bin/sh\ntouch x\n",
        "an executable": b"\x7fELF\x02\x01\x01" + bytes(64),
        "zeros": bytes(100_000),
        "every byte": bytes(range(256)),
        "noise": random.Random(0).randbytes(100_000),
        "noise behind a start": b"\x80\x04" + random.Random(1).randbytes(100_000),
    }.items()


def attacks(marker: Path) -> dict[str, bytes]:
    """Name -> contents of a file that ``read_pdparams`` must refuse."""
    pairs = [
        *executions(marker), *tensors(), *structures(), *state_dicts(marker), *strangers(marker)
    ]  # fmt: skip
    found = dict(pairs)
    assert len(found) == len(pairs), "two attacks of one name"
    return found


# --- mutations ------------------------------------------------------------------------------------


def grafts(marker: Path) -> list[bytes]:
    """Pieces that a mutation puts into a file: single opcodes, and whole calls."""
    command = text(f"touch {marker}")
    return [
        b"cos\nsystem\n", b"cos\nsystem\n" + command + b"\x85R", b"cnumpy\nload\n",
        b"(" + command + b"ios\nsystem\n", b"\x8c\x02os\x8c\x06system\x93" + command + b"\x85R",
        b"R", b"b", b"(", b"t", b"e", b"u", b"s", b".", b"0", b"2", b"}", b"]", b")", b"\x85",
        b"\x93", b"\x94", b"h\x01", b"h\x00", b"q\x00", b"j\xff\xff\xff\x7f", b"\x81", b"\x92",
        b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00", b"\x95\xff\xff\xff\xff\x00\x00\x00\x00",
        b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x8a\xff", b"(" * 100, b"h\x01" * 100,
    ]  # fmt: skip


def mutations(count: int, seed: int, marker: Path) -> Iterator[bytes]:
    rng = random.Random(seed)
    sources = [file.read_bytes() for file in sorted(FILES.glob("tiny*.pd*"))]
    assert len(sources) == 6
    pieces = grafts(marker)
    for _ in range(count):
        yield mutate(rng.choice(sources), rng.choice(sources), pieces, rng)


# --- a process of its own -------------------------------------------------------------------------


def calls_of(work: Callable[[], object]) -> int:
    """How many functions ``work`` calls: its effort, the same on every machine."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def read_all(files: Iterator[bytes], *, counted: bool) -> dict[str, Any]:
    """Read each file; count what came of it, and the calls that reading one took at most (makes it
    five times slower). Whatever is not the refusal stops the count."""
    from hgnetv2_pipeline.errors import WeightsError
    from hgnetv2_pipeline.weights.paddle.pdparams import read_stream

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    read = refused = most_calls = 0

    def take(data: bytes) -> None:
        nonlocal read, refused
        try:
            read_stream(io.BytesIO(data), len(data), "w.pdparams")
            read += 1
        except WeightsError as error:
            refused += 1
            if "memory" in str(error):
                raise

    for data in files:
        if counted:
            most_calls = max(most_calls, calls_of(partial(take, data)))
        else:
            take(data)
    return {"read": read, "refused": refused, "most_calls": most_calls}


def main() -> None:
    folder, what, *numbers = sys.argv[1:]
    marker = Path(folder) / "ran"
    if what == "corpus":
        files = iter(attacks(marker).values())
    else:
        count, seed = map(int, numbers)
        files = mutations(count, seed, marker)
    json.dump(read_all(files, counted=what == "corpus") | {"ran": marker.exists()}, sys.stdout)


if __name__ == "__main__":
    main()
