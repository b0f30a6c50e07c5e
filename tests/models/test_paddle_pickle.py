"""The reader of Paddle's pickles: true values from real files, and nothing ever executed."""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from hgnetv2_pipeline.errors import ParameterError
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
