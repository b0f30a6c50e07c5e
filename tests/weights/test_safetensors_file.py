"""safetensors files: read as the library reads them, refused where it is too kind. W10."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from weight_mutations import safetensors_file, same

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.weights.load import read_file, read_metadata

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=5, max_size=5),
    metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=9), min_size=1),
)
def test_what_the_library_saves_is_read_as_the_library_reads_it(shapes, dtypes, metadata, tmp_path):
    path = tmp_path / "w.safetensors"
    state = {
        f"layer.{number}": (torch.arange(max(1, int(torch.tensor(shape).prod()))) % 3)[
            : int(torch.tensor(shape).prod())
        ].reshape(shape).to(dtype)
        for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }  # fmt: skip
    save_file(state, path, metadata)
    read = read_file(path)
    same(read.tensors, load_file(path))
    assert set(read.tensors) == set(state)
    assert read.metadata == read_metadata(path) == (metadata or {})


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x10280, 0x4B50])
def test_a_header_is_read_whatever_its_length_begins_like(length, tmp_path):
    """640 is 80 02 in the file, as a pickle of protocol 2 begins."""
    path = tmp_path / "w.safetensors"
    header = json.dumps({"w": F32}).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 0.5))
    assert read_file(path).tensors["w"].tolist() == [0.5] == load_file(path)["w"].tolist()


@pytest.mark.parametrize("length", [0, 7, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_another_length_than_it_says_is_refused(length, tmp_path):
    """W10."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + json.dumps({"w": F32}).encode() + bytes(4))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_file(path)


@pytest.mark.parametrize(
    ("header", "data", "told"),
    [
        ('{"w": %s, "w": %s}', 4, "same key twice"),
        ('{"w": %s, "\\u0077": %s}', 4, "same key twice"),
        (
            '{"w": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
            4,
            "twice",
        ),
        ({"a\x1b[31m": F32}, 4, r"name with control characters: a\\x1b"),
        ({"a\nb": F32}, 4, r"control characters: a\\nb"),
        ({"\u202egnp": F32}, 4, r"control characters: \\u202egnp"),
        ({"a" * 600: F32}, 4, "600 characters"),
        *[
            ({"w": F32 | {"dtype": kind}}, 4, rf"of type {kind}; known are F64")
            for kind in ("F4", "F8_E4M3", "F8_E8M0", "C64", "U16", "U64", "f32", "")
        ],
        ({"w": F32 | {"dtype": 1}}, 4, "of type int"),
        *[
            ({"w": F32 | {"shape": shape}}, 4, "w (has an impossible shape|is F32)")
            for shape in ([-1], [1.0], [True], [2], [2**40], [1] * 9, [2**31, 2**31], "1", None, {})
        ],
        *[
            ({"w": F32 | {"data_offsets": place}}, 4, "w (has an impossible place|is F32|begins)")
            for place in (
                [4, 0],
                [0, 5],
                [1, 5],
                [-4, 0],
                [0],
                [0, 4, 8],
                [0.0, 4],
                None,
                [0, 2**63],
            )
        ],
        ({"a": F32, "b": F32}, 8, "b begins at byte .*, where"),
        ({"a": F32, "b": F32 | {"data_offsets": [8, 12]}}, 12, "b begins at byte"),
        ({"w": F32}, 3, "bytes long, where its header needs"),
        ({"w": F32}, 5, "bytes long, where its header needs"),
        ({"w": F32 | {"more": 1}}, 4, "described with other things"),
        ({"w": [1]}, 4, "described with other things"),
        ({"w": F32, "__metadata__": {"a": 1}}, 4, "metadata are not text"),
        ({"w": F32, "__metadata__": [1]}, 4, "metadata are not text"),
        ([1], 0, "no object"),
        ("[" * 50_000, 0, "nested deeper"),
        ("{", 0, "Expecting"),
    ],
)
def test_what_is_no_whole_file_is_refused_in_a_line(header, data, told, tmp_path):
    """W10."""
    if isinstance(header, str):
        header = header.replace("%s", json.dumps(F32)).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_file(header, bytes(data)))
    with pytest.raises(WeightsError, match=told) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
