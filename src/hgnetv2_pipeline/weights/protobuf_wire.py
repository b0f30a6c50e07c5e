"""The wire format of Protocol Buffers, as strictly as any reader of it.

A message is a run of (field number, wire type, value). Paddle's programs and ONNX files are read
with it. A runtime parses the same bytes once more with Google's code, which cuts a field's key down
to 32 bits: what would mean one thing here and another there is refused. Nothing is allocated for a
length that the data does not have, and the number of fields that one file may make us look at is
bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FIELDS = 500_000  # the program of a B6 has about 20,000; this many take a second
_MAX_PACKED = 64  # dimensions of a tensor are all that is read from such fields
_MAX_BYTES = 5  # of a key or a length
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Wire:
    """Reads messages and counts fields over all of them. Raises ``ValueError``."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """(field number, value) in order; a value is an unsigned integer or its bytes."""
        at, end = 0, len(data)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {MAX_FIELDS:,} fields")
            began = at
            key, at = varint(data, at)
            if key >= 1 << 32 or at - began > _MAX_BYTES:
                raise ValueError("a field whose key has more than 32 bits")
            number, wire = key >> 3, key & 7
            if number == 0:
                raise ValueError("a field with the number 0")
            if wire == _VARINT:
                value, at = varint(data, at)
                yield number, value
                continue
            if wire == _BYTES:
                began = at
                length, at = varint(data, at)
                if length >= 1 << 31 or at - began > _MAX_BYTES:
                    raise ValueError("a length of more than 31 bits")
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4  # a number as well, and never text
            else:
                raise ValueError(f"wire type {wire}, which such files do not have")
            if length > end - at:
                raise ValueError(f"field {number} ends {length - (end - at):,} bytes past the end")
            content = data[at : at + length]
            yield number, content if wire == _BYTES else int.from_bytes(content, "little")
            at += length


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The unsigned 64-bit varint at ``at`` and where it ends. Raises ``ValueError``."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise ValueError("cut short inside a number")
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + index + 1
    raise ValueError("a number of more than 64 bits")


def message(value: int | memoryview) -> memoryview:
    """``value`` as the bytes of a message."""
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def as_string(value: int | memoryview) -> str:
    """``value`` as a string."""
    return str(message(value), "utf-8")


def as_unsigned(value: int | memoryview) -> int:
    """``value`` as an unsigned integer."""
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")
    return value


def as_signed(values: int | memoryview) -> list[int]:
    """A repeated int64, one at a time or packed."""
    if isinstance(values, int):
        found = [values]
    else:
        found, at = [], 0
        while at < len(values):
            value, at = varint(values, at)
            found.append(value)
            if len(found) > _MAX_PACKED:
                raise ValueError(f"more than {_MAX_PACKED} numbers in one field")
    return [value - (1 << 64) if value >= 1 << 63 else value for value in found]
