"""The reader of Protocol Buffers against Google's own: what it takes means the same there. O01."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline.weights import protobuf_wire
from hgnetv2_pipeline.weights.onnx_file import CHILDREN
from hgnetv2_pipeline.weights.protobuf_wire import Wire, varint


def message_fields(found: dict[str, dict[int, str]], kind: Descriptor) -> None:
    if kind.name not in found:
        found[kind.name] = {f.number: f.message_type.name for f in kind.fields if f.message_type}
        for field in kind.fields:
            if field.message_type:
                message_fields(found, field.message_type)


def test_the_table_of_messages_is_onnxs_own() -> None:
    """A message that was not entered could hold a tensor that nobody looked at."""
    theirs: dict[str, dict[int, str]] = {}
    message_fields(theirs, onnx.ModelProto.DESCRIPTOR)
    assert {kind: fields for kind, fields in theirs.items() if fields} == CHILDREN


numbers = st.one_of(
    st.integers(0, 3), st.integers(0, 2**64 - 1), st.sampled_from([2**31 - 1, 2**31, 2**63])
)


@st.composite
def varints(draw: st.DrawFn, values: st.SearchStrategy[int] = numbers) -> bytes:
    """A number, at times in more bytes than it needs."""
    value, least = draw(values), draw(st.sampled_from([0, 0, 0, 2, 5, 6, 10]))
    data = bytearray()
    while value > 0x7F or len(data) + 1 < least:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


@st.composite
def tensor_fields(draw: st.DrawFn) -> bytes:
    """A field of a TensorProto, or what looks like one."""
    number = draw(st.sampled_from([1, 2, 4, 8, 9, 12, 13, 14, 15, 16, 2**28, 2**29, 2**29 + 14]))
    kind = draw(st.sampled_from([0, 0, 2, 2, 2, 1, 5, 3, 4]))
    key = draw(varints(st.just(number << 3 | kind | draw(st.sampled_from([0, 0, 0, 1])) << 32)))
    if kind == 0:
        return key + draw(varints())
    if kind in (1, 5):
        return key + bytes(8 if kind == 1 else 4)
    content = draw(st.binary(max_size=6))
    return (
        key + draw(varints(st.just(len(content) + draw(st.sampled_from([0, 0, 0, 1]))))) + content
    )


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(tensor_fields(), max_size=4))
def test_what_is_taken_means_the_same_to_googles_parser(parts: list[bytes]) -> None:
    data = b"".join(parts)
    try:
        read = list(Wire().fields(memoryview(data)))
        for field, value in read:
            if field in (13, 16) and not isinstance(value, int):
                list(Wire().fields(value))
    except ValueError:
        return  # stricter than Google's is no fault
    try:
        tensor = onnx.TensorProto.FromString(data)
    except Exception:
        # Packed numbers and floats, which are skipped here by their length.
        assert {n for n, v in read if not isinstance(v, int)} & {1, 4}
        return
    outside = any(n == 13 or (n == 14 and value != 0) for n, value in read)
    assert outside or not (tensor.external_data or tensor.data_location)
    names = [bytes(v) for n, v in read if n == 8 and not isinstance(v, int)]
    if names:
        told = tensor.name  # bytes where they are no UTF-8
        assert (told.encode() if isinstance(told, str) else told) == names[-1]


@pytest.mark.parametrize("high", [1, 2, 255])
@pytest.mark.parametrize("number", [13, 14, 7, 1])
def test_a_key_beyond_32_bits_is_refused(number: int, high: int) -> None:
    """Google's parser drops the high bits and sees the field; others see an unknown one."""
    key, data = (number << 3 | 2) | high << 32, bytearray()
    while key > 0x7F:
        data.append(key & 0x7F | 0x80)
        key >>= 7
    data += bytes([key, 0])
    with pytest.raises(ValueError, match="more than 32 bits"):
        list(Wire().fields(memoryview(bytes(data))))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x8a\x80\x80\x80\x80\x00\x00", "more than 32 bits"),
        (b"\x0a\x80\x80\x80\x80\x80\x00", "more than 31 bits"),
        (b"\x0a\x80\x80\x80\x80\x08", "more than 31 bits"),
        (b"\x02\x00", "number 0"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0a\x05abc", "past the end"),
        (b"\x08" + b"\xff" * 10, "64 bits"),
        (b"\x08\x80", "cut short"),
    ],
)
def test_what_no_library_writes_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(Wire().fields(memoryview(data)))


def test_the_fields_of_one_file_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_wire, "MAX_FIELDS", 9)
    wire = Wire()
    assert len(list(wire.fields(memoryview(b"\x08\x00" * 6)))) == 6
    with pytest.raises(ValueError, match="more than 9 fields"):
        list(wire.fields(memoryview(b"\x08\x00" * 4)))


@given(value=st.integers(0, 2**64 - 1))
def test_a_number_is_read_back(value: int) -> None:
    data = onnx.TensorProto(uint64_data=[value]).SerializeToString()
    assert varint(memoryview(data), 2) == (value, len(data))
