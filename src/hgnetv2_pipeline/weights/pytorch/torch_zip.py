"""The zip archive that ``torch.save`` writes: members stored as they are, found by their directory.

Python's own reader makes an object of half a kilobyte of every 46 bytes of a directory, inflates
what is compressed, and believes sizes; here a member is a place in the file, inside the file, or
the archive is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_FORM = struct.Struct("<4s4H2IH")
_END64_FORM = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64_FORM = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_LONGEST_COMMENT = 0xFFFF
_NOT_HERE = 0xFFFFFFFF  # the number is in the extra field, with 64 bits
_MAX_MEMBERS = 50_000  # one a tensor; a B6 with two moments and averaged weights has about 3,000


@dataclass(frozen=True)
class ZipMember:
    """Where the bytes of a member are in the file."""

    offset: int
    size: int


def zip_members(file: BinaryIO, size: int) -> dict[str, ZipMember]:
    """The members of the zip archive that fills ``file`` of ``size`` bytes, by name.

    Raises ``ValueError`` for what ``torch.save`` does not write: no zip, compressed or encrypted
    members, a name twice, a place outside the file.
    """
    count, length, start = _directory(file, size)
    if count > _MAX_MEMBERS:
        raise ValueError(f"a zip archive of {count:,} members; {_MAX_MEMBERS:,} are allowed")
    if start + length > size or count * _ENTRY.size > length:
        raise ValueError("a zip archive whose directory is outside it")
    directory = memoryview(_bytes(file, start, length))
    found: dict[str, ZipMember] = {}
    at = 0
    for _ in range(count):
        entry = _ENTRY.unpack_from(directory, at)
        sign, _, _, flags, method, _, _, _, packed, plain, *lengths, _, _, _, place = entry
        n_name, n_extra, n_comment = lengths
        at += _ENTRY.size
        name = str(directory[at : at + n_name], "utf-8")
        extra = directory[at + n_name : at + n_name + n_extra]
        at += n_name + n_extra + n_comment
        if sign != b"PK\x01\x02" or at > length:
            raise ValueError("a zip archive with a damaged directory")
        plain, packed, place = _with_64_bits([plain, packed, place], extra)
        if flags & 1:
            raise ValueError(f"the member {ascii(name[:80])} is encrypted")
        if method or packed != plain:
            raise ValueError(f"the member {ascii(name[:80])} is compressed, as PyTorch never does")
        if name in found:
            raise ValueError(f"the member {ascii(name[:80])} twice")
        found[name] = ZipMember(_behind_header(file, place, size), plain)
        if found[name].offset + plain > size:
            raise ValueError(f"it is cut short: {ascii(name[:80])} ends outside the file")
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """How many entries the directory has, how many bytes, and where it begins."""
    tail = min(size, _END_FORM.size + _LONGEST_COMMENT)
    end = _bytes(file, size - tail, tail)
    at = end.rfind(_END)
    if at < 0 or at + _END_FORM.size > len(end):
        raise ValueError("no whole zip archive, which a PyTorch checkpoint is")
    *_, count, length, start, _ = _END_FORM.unpack_from(end, at)
    if _NOT_HERE not in (length, start) and count != 0xFFFF:
        return count, length, start
    before = size - tail + at - _LOCATOR64_FORM.size
    sign, _, place, _ = _LOCATOR64_FORM.unpack(_bytes(file, before, _LOCATOR64_FORM.size))
    if sign != _LOCATOR64:
        raise ValueError("a zip archive without the end that its size needs")
    record = _END64_FORM.unpack(_bytes(file, place, _END64_FORM.size))
    if record[0] != _END64:
        raise ValueError("a zip archive without the end that its size needs")
    return record[7], record[8], record[9]


def _with_64_bits(numbers: list[int], extra: memoryview) -> list[int]:
    """Numbers that are too large for 32 bits are in the extra field 1, in this order."""
    missing = [index for index, number in enumerate(numbers) if number == _NOT_HERE]
    at = 0
    while missing and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1 and length >= 8 * len(missing) and at + 4 + length <= len(extra):
            for index in missing:
                at += 8
                (numbers[index],) = struct.unpack_from("<Q", extra, at - 4)
            return numbers
        at += 4 + length
    if missing:
        raise ValueError("a zip archive with a size missing")
    return numbers


def _behind_header(file: BinaryIO, place: int, size: int) -> int:
    if place + _LOCAL.size > size:
        raise ValueError("a zip archive whose members are outside it")
    header = _LOCAL.unpack(_bytes(file, place, _LOCAL.size))
    if header[0] != b"PK\x03\x04":
        raise ValueError("a zip archive whose directory does not lead to its members")
    n_name, n_extra = header[-2:]
    return place + _LOCAL.size + int(n_name) + int(n_extra)


def _bytes(file: BinaryIO, place: int, count: int) -> bytes:
    if place < 0 or place >= 1 << 62:
        raise ValueError("a zip archive whose parts are outside it")
    file.seek(place)
    data = file.read(count)
    if len(data) != count:
        raise ValueError("a zip archive that is cut short")
    return data
