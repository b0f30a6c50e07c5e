"""The reader of Paddle's pickles: true values from real files, and nothing ever executed."""

from __future__ import annotations

import pickle
import pickletools
import random
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models.paddle_pickle import NAMES_KEY, read_object, read_pdparams
from hgnetv2_pipeline.models.paddle_writer import write_pdparams

FILES = Path(__file__).parents[1] / "golden" / "paddle_files"


@pytest.fixture
def true_values() -> dict[str, np.ndarray]:
    with np.load(FILES / "tiny_values.npz") as values:
        return dict(values)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddles_own_files_read_to_their_true_values(protocol, true_values):
    read = read_pdparams(FILES / f"tiny_protocol{protocol}.pdparams")
    assert list(read) == list(true_values)
    for key, value in true_values.items():
        assert read[key].dtype == value.dtype
        np.testing.assert_array_equal(read[key], value)


def test_a_nested_file_reads_to_dotted_names(true_values):
    read = read_pdparams(FILES / "tiny_nested.pdparams")
    assert list(read) == [f"Teacher.{key}" for key in true_values]
    for key, value in true_values.items():
        np.testing.assert_array_equal(read[f"Teacher.{key}"], value)


def test_optimizer_and_epoch_files_can_be_inspected():
    (velocities,) = read_object(FILES / "tiny.pdopt")
    name, value = velocities["linear_0.b_0_velocity_0"]
    assert name == "linear_0.b_0_velocity_0"
    np.testing.assert_array_equal(value, np.full(5, 7.6, np.float32))
    assert read_object(FILES / "tiny.pdstates") == {"metric": 0.5, "epoch": 3}


def opcodes(data: bytes) -> list[tuple[str, object]]:
    found = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "FRAME":
            continue
        if isinstance(argument, str):
            argument = argument.replace("numpy._core", "numpy.core")
        found.append((opcode.name, argument))
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_writer_gives_paddles_own_opcodes(protocol, true_values, tmp_path):
    path = tmp_path / "ours.pdparams"
    write_pdparams(path, true_values, protocol)
    theirs = (FILES / f"tiny_protocol{protocol}.pdparams").read_bytes()
    assert opcodes(path.read_bytes()) == opcodes(theirs)


def assorted_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]
    tensors = {f"of_{kind}": (rng.normal(size=(2, 3)) * 9).astype(kind) for kind in kinds}
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["empty"] = np.zeros((0, 3), np.float32)
    tensors["large"] = rng.normal(size=(70, 400)).astype(np.float32)  # over one pickle frame
    tensors["deep"] = rng.normal(size=(1, 2, 1, 2, 300)).astype(np.float32)
    tensors["transposed"] = rng.normal(size=(3, 4)).T
    return tensors


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_plain_unpickler_and_ours_read_what_is_written(protocol, tmp_path):
    tensors = assorted_tensors() | {f"key{i}": np.full(3, i, np.float32) for i in range(1100)}
    path = tmp_path / "w.pdparams"
    write_pdparams(path, tensors, protocol)
    plain = pickle.loads(path.read_bytes())  # noqa: S301 - made two lines above
    assert list(plain)[-1] == NAMES_KEY
    assert set(plain.pop(NAMES_KEY)) == set(tensors)
    for read in (plain, read_pdparams(path)):
        assert list(read) == list(tensors)
        for key, value in tensors.items():
            assert read[key].dtype == value.dtype
            np.testing.assert_array_equal(read[key], value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_a_real_pickler_writes_of_odd_values_is_read(protocol, tmp_path):
    rng = np.random.default_rng(1)
    value = {
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "nested": OrderedDict(a=[1, -2, 2**40, 0.5, None, True, ("n", 3)], text="é" * 300),
        "metric": np.float64(0.25),
        "top1": np.float32(0.5),
        "shared": [],
    }
    value["again"] = value["shared"]
    path = tmp_path / "x.pdstates"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    read = read_object(path)
    np.testing.assert_array_equal(read.pop("fortran"), value.pop("fortran"))
    assert read == value


def test_a_writer_asked_for_what_paddle_cannot_read_refuses(tmp_path):
    path = tmp_path / "w.pdparams"
    for protocol in (0, 1, 5):
        with pytest.raises(ParameterError, match="protocol"):
            write_pdparams(path, {"a": np.zeros(1, np.float32)}, protocol)
    with pytest.raises(ParameterError, match="complex"):
        write_pdparams(path, {"a": np.zeros(1, np.complex64)})
    assert not path.exists()


# --- attacks --------------------------------------------------------------------------------------


class Call:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.what = (function, arguments)

    def __reduce__(self):
        return self.what


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01%s"
    b"cnumpy\ndtype\nX\x02\x00\x00\x00%s\x89\x88\x87R(K\x03X\x01\x00\x00\x00%sNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89%stb"
)


def array(shape=b"K\x02\x85", kind=b"f4", order=b"<", data=b"C\x08" + bytes(8)) -> bytes:
    return ARRAY % (shape, kind, order, data)


def state_dict(value: bytes, protocol: int = 3) -> bytes:
    return b"\x80" + bytes([protocol]) + b"}" + text("w") + value + b"s."


def attacks(marker: Path) -> dict[str, bytes]:
    import importlib
    import os
    import subprocess

    command = f"touch {marker}"
    source = f"open({str(marker)!r}, 'w')"
    short = command.encode()
    made = {
        f"os.system, protocol {p}": pickle.dumps({"w": Call(os.system, command)}, p)
        for p in range(6)
    }
    for name, call in {
        "eval": Call(eval, source),
        "exec": Call(exec, source),
        "open": Call(open, str(marker), "w"),
        "getattr": Call(getattr, "x", "upper"),
        "subprocess": Call(subprocess.check_call, ["touch", str(marker)]),
        "import_module": Call(importlib.import_module, "antigravity"),
        "numpy.load": Call(np.load, str(marker)),
        "numpy.savetxt": Call(np.savetxt, str(marker), [1]),
        "bytearray bomb": Call(bytearray, 2**40),
        "complex": complex(1, 2),
        "set": {1, 2},
        "int keys": {1: 2},
        "an object of a class": pytest.MonkeyPatch(),
        "structured dtype": np.zeros(2, [("a", "f4")]),
        "object dtype": np.array([None, 1], object),
        "string dtype": np.array(["a"]),
        "big-endian": np.zeros(2, ">f4"),
        "datetime dtype": np.zeros(2, "M8[s]"),
    }.items():
        made[name] = pickle.dumps({"w": call}, 4)
    run = b"(X" + struct.pack("<I", len(short)) + short
    laughs = b"](]q\x00" + b"](h\x00h\x00eq\x00" * 40 + b"e"
    cycle = b"]q\x00(h\x00e"
    made |= {
        "INST": b"\x80\x02" + b"(" + text(command) + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + text(command) + b"o.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n" + text(command) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + text(command) + b"\x85}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "PERSID": b"\x80\x02Pos.system\n.",
        "BINPERSID": b"\x80\x02" + text("os") + b"Q.",
        "REDUCE of a string": b"\x80\x03" + text("os") + run + b"tR.",
        "dotted STACK_GLOBAL": b"\x80\x04" + text("numpy") + text("f2py.crackfortran") + b"\x93.",
        "dotted attribute": b"\x80\x03cnumpy\nndarray.tofile\n.",
        "global built in the memo": b"\x80\x04" + text("os") + b"\x94" + text("system")
        + b"\x94h\x00h\x01\x93" + run + b"tR.",
        "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
        "BUILD on a symbol": b"\x80\x03cnumpy\nndarray\n}" + text("shape") + b"K\x01sb.",
        "BUILD on a dict": b"\x80\x03}}" + text("x") + b"K\x01sb.",
        "BUILD twice": state_dict(array() + b"(K\x01K\x02\x85Ntb"),
        "a bare symbol": state_dict(b"cnumpy\nndarray\n"),
        "an unfinished array": state_dict(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        ),
        "a shape that lies": state_dict(array(shape=b"K\xff\x85")),
        "a negative shape": state_dict(array(shape=b"J\xff\xff\xff\xff\x85")),
        "a huge shape": state_dict(array(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")),
        "a shape of floats": state_dict(array(shape=b"G" + struct.pack(">d", 2) + b"\x85")),
        "an object array": state_dict(array(kind=b"O8")),
        "a void array": state_dict(array(kind=b"V4")),
        "another order": state_dict(array(order=b">")),
        "data that is a list": state_dict(array(data=b"]")),
        "codec trick": b"\x80\x02}" + text("w") + b"c_codecs\nencode\n" + text("a")
        + text("rot13") + b"\x86Rs.",
        "codec with beyond latin1": b"\x80\x02}" + text("w") + b"c_codecs\nencode\n" + text("Ж")
        + text("latin1") + b"\x86Rs.",
        "tuple of a list": state_dict(b"cbuiltins\ntuple\n]\x85R"),
        "a key twice": b"\x80\x03}(" + text("a") + b"K\x01" + text("a") + b"K\x02u.",
        "a list within itself": b"\x80\x03}" + text("w") + cycle + b"s.",
        "a billion laughs": state_dict(laughs),
        "three thousand deep": b"\x80\x03" + b"]" * 3000 + b"a" * 2999 + b".",
        "marks without end": b"\x80\x03" + b"(" * 5000 + b".",
        "huge memo index": b"\x80\x03}j\xff\xff\xff\xff.",
        "a length that lies": b"\x80\x04}\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "a text length that lies": b"\x80\x04}\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        "a second pickle behind": pickle.dumps({}, 3) + pickle.dumps(Call(os.system, command)),
        "no stop": b"\x80\x03}",
        "stop at once": b"\x80\x03.",
        "no protocol": b"}.",
        "protocol twice": b"\x80\x03}\x80\x03.",
        "a stack too short": b"\x80\x03s.",
        "two values left": b"\x80\x03}}.",
        "big parts": pickle.dumps({"w": 1, "UnpackBigParamInfor@@": {}}, 3),
        "a list": pickle.dumps([1], 3),
        "numbers only": pickle.dumps({"a": 1}, 3),
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "an empty file": b"",
        "noise": bytes(range(256)),
    }  # fmt: skip
    return made


NAMES = sorted(attacks(Path("marker")))


def test_there_are_many_attacks():
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(name, tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "w.pdparams"
    path.write_bytes(attacks(marker)[name])
    began = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        read_pdparams(path)
    assert time.monotonic() - began < 1
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not marker.exists()


def test_a_refusal_names_the_global_and_says_what_to_do(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"w": Call(eval, "1")}, 2))
    with pytest.raises(WeightsError, match=r"asks for __builtin__\.eval.*state_dict"):
        read_pdparams(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a billion laughs", "more than 100,000 values"),
        ("a list within itself", "nested deeper"),
        ("a shape that lies", "8 bytes for a f4 tensor of shape"),
        ("a second pickle behind", "bytes follow the end"),
        ("INST", "opcode INST"),
        ("big parts", "over 4 GB"),
        ("a length that lies", "damaged or cut short"),
    ],
)
def test_an_attack_is_refused_for_its_own_reason(name, reason, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(attacks(tmp_path / "ran")[name])
    with pytest.raises(WeightsError, match=reason):
        read_pdparams(path)


def test_a_web_page_and_a_zip_are_recognised(tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(b"\n<html>")
    with pytest.raises(WeightsError, match="web page"):
        read_pdparams(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(WeightsError, match="zip archive"):
        read_pdparams(path)
    with pytest.raises(WeightsError, match="no weight file at"):
        read_pdparams(tmp_path / "absent.pdparams")


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at:at] = rng.choice(
                    [b"cos\nsystem\n", b"R", b"b", b"(", b"t", b"\x93", b"h\x01"]
                )
            case 3:
                del changed[at : at + rng.randrange(1, 20)]
            case 4:
                source = rng.randrange(len(changed))
                changed[at:at] = changed[source : source + rng.randrange(1, 40)]
            case 5:
                del changed[max(at, 1) :]
        if not changed:
            return b"."
    return bytes(changed)


@pytest.mark.parametrize("count", [2_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_read_or_refused_and_nothing_else(count, tmp_path):
    rng = random.Random(7)
    sources = [file.read_bytes() for file in sorted(FILES.glob("tiny*.pd*"))]
    assert len(sources) == 6
    path = tmp_path / "w.pdparams"
    refused, slowest = 0, 0.0
    for _ in range(count):
        path.write_bytes(mutate(rng.choice(sources), rng))
        began = time.process_time()
        try:
            read_object(path)
        except WeightsError:
            refused += 1
        slowest = max(slowest, time.process_time() - began)
    assert refused > count / 2
    assert slowest < 1
