"""Where the files of an inference archive lie: in a folder, or inside a tar that stays packed.

Of a tar only the headers are read, by this file: the standard library's reader allocates what a
header claims and has looped for ever on hostile ones. Nothing is unpacked, so a name that leads
elsewhere leads nowhere; it is refused all the same, as are links, devices and sparse members in
the place of a file that is wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hgnetv2_pipeline.errors import WeightsError

_BLOCK = 512
_MAX_HEADERS = 10_000
_MAX_EXTENDED = 1 << 20  # bytes of one extended header (a long name, pax records)
_REGULAR, _DIRECTORY, _LINK_OR_DEVICE = b"07\0", b"5", b"12346"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}


@dataclass(frozen=True)
class Member:
    """A file of an archive: ``size`` bytes at ``offset`` of ``path``; ``str()`` is for messages."""

    path: Path
    name: str  # its name inside a tar; empty for a file of its own
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}!{self.name}" if self.name else str(self.path)

    def read(self, limit: int) -> bytes:
        """All its bytes. Raises ``WeightsError`` if there are more than ``limit``."""
        if self.size > limit:
            raise WeightsError(f"{self} has {self.size:,} bytes; {limit:,} at most are read")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise WeightsError(f"{self} changed while it was read")
        return data


def find_members(path: Path, wanted: Collection[str]) -> dict[str, Member]:
    """The files called as in ``wanted`` of a folder, or of one folder of the tar ``path``.

    Raises ``WeightsError``: not a tar, damaged, or a wanted file is there twice or is no file.
    """
    if path.is_dir():
        files = [path / name for name in wanted if (path / name).is_file()]
        return {file.name: Member(file, "", 0, file.stat().st_size) for file in files}
    if not path.is_file():
        raise WeightsError(f"there is no weight file at {path}")
    found: dict[str, Member] = {}
    folders: set[PurePosixPath] = set()
    try:
        for kind, member in _members(path):
            place = PurePosixPath(member.name)
            if place.name not in wanted or kind in _DIRECTORY:
                continue
            name = _brief(member.name)
            if place.is_absolute() or ".." in place.parts:
                raise ValueError(f"its member {name} leads out of the archive")
            if kind not in _REGULAR:
                raise ValueError(f"its member {name} is a link, a device or sparse, not a file")
            folders.add(place.parent)
            if len(folders) > 1:
                both = " and ".join(sorted(_brief(str(folder)) for folder in folders))
                raise ValueError(f"it holds several networks, in {both}; give one of them")
            if place.name in found:
                raise ValueError(f"its member {name} is there twice")
            found[place.name] = member
    except ValueError as reason:
        raise WeightsError(f"{path} is refused: {reason}") from None
    return found


def _members(path: Path) -> Iterator[tuple[bytes, Member]]:
    """(type, member) of every header that names a member."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        at = 0
        long_name: str | None = None
        extended: dict[str, str] = {}
        for _ in range(_MAX_HEADERS):
            file.seek(at)
            header = file.read(_BLOCK)
            if at == 0:
                _check_start(header)
            if len(header) < _BLOCK:
                raise ValueError("the archive has no end mark; it is cut short")
            if not header.strip(b"\0"):
                return
            _check_sum(header, at)
            kind = header[156:157]
            size = _number(header[124:136])
            data = at + _BLOCK
            if kind in b"xg":
                records = _records(_extended(file, data, size, end))
                if kind == b"x":
                    extended = records
                elif {"path", "size"} & records.keys():
                    raise ValueError("one name or size for all members")
                at = _after(data, size)
                continue
            if kind in b"LK":
                payload = _extended(file, data, size, end)
                if kind == b"L":
                    long_name = _text(payload)
                at = _after(data, size)
                continue
            name = extended.get("path") or long_name or _name(header)
            if "size" in extended:
                size = _decimal(extended["size"])
            if any(key.startswith("GNU.sparse") for key in extended):
                kind = b"s"  # no type of tar's: the bytes are there, but not those of the file
            elif kind in _REGULAR and name.endswith("/"):
                kind = _DIRECTORY  # how the oldest archives say it
            if kind in _DIRECTORY or kind in _LINK_OR_DEVICE:
                size = 0  # whatever the header says, no data follow
            if data + size > end:
                raise ValueError(f"the archive ends inside its member {_brief(name)}")
            if kind == b"S":  # GNU's older form: headers of its own follow, which nobody writes now
                raise ValueError(f"its member {_brief(name)} is sparse")
            yield kind, Member(path, name, data, size)
            at = _after(data, size)
            long_name, extended = None, {}
        raise ValueError(f"more than {_MAX_HEADERS:,} members")


def _after(data: int, size: int) -> int:
    return data + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _check_start(header: bytes) -> None:
    packing = _COMPRESSED.get(header[:2])
    if packing:
        raise ValueError(f"it is compressed ({packing}); unpack it to a plain .tar or to a folder")
    if header.lstrip()[:1] == b"<":
        raise ValueError("it looks like a web page, not a tar archive: a download that failed?")
    if len(header) < _BLOCK or not header.strip(b"\0"):
        raise ValueError("it is not a tar archive, or an empty one: a download that failed?")


def _check_sum(header: bytes, at: int) -> None:
    if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise ValueError(f"byte {at:,} begins no tar header: damaged, or not a tar archive")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's form for 8 GB and more
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if digits.strip(b"01234567"):
        raise ValueError("a tar header with a garbled number")
    return int(digits or b"0", 8)


def _decimal(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError("a tar header with a garbled size")
    return int(digits)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _extended(file: BinaryIO, data: int, size: int, end: int) -> bytes:
    if size > _MAX_EXTENDED or data + size > end:
        raise ValueError(f"an extended header of {size:,} bytes")
    return file.read(size)


def _records(payload: bytes) -> dict[str, str]:
    """Records of the pax format: "<length> <key>=<value>\\n", the length counting all of it."""
    records = {}
    at = 0
    while at < len(payload):
        digits, space, _ = payload[at : at + 20].partition(b" ")
        length = _decimal(digits.decode("latin1")) if space else 0
        record = payload[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not equals or record[-1:] != b"\n":
            raise ValueError("a garbled extended header")
        records[_text(key)] = _text(value)
        at += length
    return records


def _brief(name: str) -> str:
    return ascii(name[:80]).strip("'")
