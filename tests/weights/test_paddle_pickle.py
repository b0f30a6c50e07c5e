"""The reader of Paddle's pickles: true values from real files, and what is written comes back."""

from __future__ import annotations

import io
import logging
import math
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.weights.load import read_state
from hgnetv2_pipeline.weights.paddle.pdparams import (
    NAMES_KEY,
    read_object,
    read_paddle_state,
    read_pdparams,
    read_stream,
)
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.pickle_machine import DTYPES

PROTOCOLS = st.sampled_from((2, 3, 4))
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
    assert sorted(velocities) == [
        "batch_norm2d_0.b_0_velocity_0",
        "batch_norm2d_0.w_0_velocity_0",
        "conv2d_0.w_0_velocity_0",
        "linear_0.b_0_velocity_0",
        "linear_0.w_0_velocity_0",
    ]
    assert all(name == key for key, (name, _) in velocities.items())
    np.testing.assert_array_equal(
        velocities["linear_0.b_0_velocity_0"][1], np.full(5, 7.6, np.float32)
    )
    assert read_object(FILES / "tiny.pdstates") == {"metric": 0.5, "epoch": 3}


def test_what_is_no_tensor_is_left_out_by_name_and_logged(tmp_path, caplog, true_values):
    path = FILES / "tiny_nested.pdparams"
    state = read_paddle_state(path)
    assert state.leftovers == ("note",)
    with caplog.at_level(logging.WARNING):
        assert list(read_pdparams(path)) == list(state.tensors)
    assert "left out 1 entries that are not tensors: note" in caplog.text
    caplog.clear()
    path = tmp_path / "w.pdparams"
    odd = {"epoch": 3, "lr": {"last": 0.1, "by": "step"}, "best": np.float32(0.5), "none": None}
    whole = {**odd, "flag": True, "one": 1, NAMES_KEY: {"w": "linear_0.w_0"}, **true_values}
    path.write_bytes(pickle.dumps(whole, 4))
    state = read_paddle_state(path)
    assert list(state.tensors) == list(true_values)
    assert state.leftovers == ("epoch", "lr.last", "lr.by", "best", "none", "flag", "one")
    read_pdparams(path)
    assert "left out 7 entries" in caplog.text
    assert "best, none, ..." in caplog.text
    caplog.clear()
    read_pdparams(FILES / "tiny_protocol4.pdparams")
    assert not caplog.records


def test_bfloat16_is_uint16_in_the_file_and_exact_in_a_state(tmp_path):
    """Nothing in a file tells the two apart; for a network uint16 can only mean bfloat16."""
    path = tmp_path / "w.pdparams"
    stored = np.array([[0x3F80, 0xC040, 0x0001], [0x8000, 0x7F7F, 0x3DCD]], np.uint16)
    write_pdparams(path, {"w": stored})
    assert read_pdparams(path)["w"].dtype == np.uint16
    found = read_state(path).tensors["w"].numpy()
    assert found.tobytes() == (stored.astype(np.uint32) << 16).tobytes()
    assert found[0, 0] == 1.0


def test_a_read_array_is_aligned_and_cannot_be_written(true_values):
    for value in read_pdparams(FILES / "tiny_protocol4.pdparams").values():
        assert value.flags.aligned
        assert not value.flags.writeable


def test_a_part_of_a_stream_is_read_to_the_end(true_values):
    data = (FILES / "tiny_protocol4.pdparams").read_bytes()
    stream = io.BytesIO(b"header" + data)
    stream.seek(6)
    read = read_stream(stream, len(data), "member")
    assert set(true_values) < set(read)


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


NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=30
).filter(lambda name: name != NAMES_KEY)


@st.composite
def tensors(draw) -> np.ndarray:
    """Any type, shape and memory layout, with every pattern of bits."""
    kind = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = math.prod(shape)
    raw = rng.integers(0, 2 if kind.kind == "b" else 256, count * kind.itemsize, dtype=np.uint8)
    value = raw.view(kind).reshape(shape)
    return value.T if draw(st.booleans()) else value


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("round") / "w.pdparams"


@settings(max_examples=100)
@given(state=st.dictionaries(NAMES, tensors(), min_size=1, max_size=6), protocol=PROTOCOLS)
def test_any_state_dict_comes_back_bit_for_bit(state, protocol, scratch):
    write_pdparams(scratch, state, protocol)
    read = read_paddle_state(scratch)
    assert read.leftovers == ()
    assert list(read.tensors) == list(state)
    plain = pickle.loads(scratch.read_bytes())  # noqa: S301 - made three lines above
    for key, value in state.items():
        for other in (read.tensors[key], plain[key]):
            assert (other.dtype, other.shape) == (value.dtype, value.shape)
            assert other.tobytes() == value.tobytes()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner)
    | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=100)
@given(value=VALUES, protocol=PROTOCOLS)
def test_any_nest_of_plain_values_from_a_real_pickler_comes_back(value, protocol):
    data = pickle.dumps(value, protocol)
    read = read_stream(io.BytesIO(data), len(data), "w.pdstates")
    assert read == value
    assert repr(read) == repr(value)  # 1, 1.0 and True compare equal


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "no tensors to write"),
        ({NAMES_KEY: np.ones(1, np.float32)}, "Paddle's own"),
        ({"a\nb": np.ones(1, np.float32)}, "control characters"),
        ({"a" * 513: np.ones(1, np.float32)}, "513 characters"),
        ({"\ud800": np.ones(1, np.float32)}, "control characters"),
        ({"big": np.ones(1, ">f4")}, "big has the type"),
    ],
)
def test_the_writer_makes_no_file_that_the_reader_refuses(state, reason, tmp_path):
    with pytest.raises(ParameterError, match=reason):
        write_pdparams(tmp_path / "w.pdparams", state)
    assert not list(tmp_path.iterdir())


def test_a_writer_asked_for_what_paddle_cannot_read_refuses(tmp_path):
    path = tmp_path / "w.pdparams"
    for protocol in (0, 1, 5):
        with pytest.raises(ParameterError, match="protocol"):
            write_pdparams(path, {"a": np.zeros(1, np.float32)}, protocol)
    with pytest.raises(ParameterError, match="complex"):
        write_pdparams(path, {"a": np.zeros(1, np.complex64)})
    assert not path.exists()
