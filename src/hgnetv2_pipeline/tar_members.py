"""The members of a tar archive, read header by header where they are; the only reader of tars here.

Understood are the old v7 form, ustar, GNU (long names, sizes in base 256, sparse files by name) and
pax (path, linkpath, size, sparse files by name). Nothing is unpacked and no header is believed: its
checksum, its numbers and whether its data fit are looked at first. Time is linear in the length of
the file, memory the longest extended header (1 MiB at most).

Damage is never taken for the end. ``TarReader.next_entry`` raises ``TarDamage`` where a header is
due and there is none, where a header makes no sense, where the archive ends inside a member or
without its end mark; ``resume`` then looks block by block for the next header whose checksum is
right and says which bytes were passed over.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple

FILE, FOLDER = "a file", "a folder"
HARD_LINK = "a hard link"

_BLOCK = 512
_RECORD = 20 * _BLOCK
_MAX_EXTENDED = 1 << 20  # bytes of one extended header (a long name, pax records)
_MAX_ZEROS = 16 << 20  # more of them behind the end mark are no padding
_FIRST_PIECE, _PIECE = 1 << 13, 1 << 20  # bytes read at a time when looking for a header
_UNREADABLE = 64  # of such pieces in a row, after which the rest is given up
_LONGEST = 99  # bytes of a name in a header alone; where there are more, it may be cut

_REGULAR = b"07\0"
_EXTENDED = (b"x", b"X", b"g", b"L", b"K")
_NAMING = (b"x", b"X", b"L")
_SPARSE = b"S"
_KINDS = {
    **{bytes([code]): FILE for code in _REGULAR},
    b"1": HARD_LINK,
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": FOLDER,
    b"6": "a pipe",
    _SPARSE: "a sparse file",
}
_WITHOUT_DATA = b"123456"  # whatever their headers say
_LINKS = b"12"
_LABEL = b"V"  # a name for the whole archive
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
_MARKS = (b"ustar", bytes(5))  # the oldest archives have none
_OCTAL, _MARK = re.compile(rb"[0-7]"), re.compile(rb"u")


class TarEntry(NamedTuple):
    """What a header names: ``size`` bytes at ``offset`` of the file; ``link`` of a link."""

    kind: str
    """``FILE``, ``FOLDER``, ``HARD_LINK``, or in words what else it is."""
    name: str
    offset: int
    size: int
    link: str
    begin: int
    """Where its first header begins, extended ones included."""


class TarDamage(ValueError):  # noqa: N818 - a finding; who asked decides whether it is an error
    """Here the archive cannot be read on.

    Attributes:
        begin: offset of the first byte that is not understood.
        entry: what the header there says, though its data do not fit; None for other damage.
        sound: whether the checksum of the header there is right.
        hint: what the bytes of a damaged header have where a name is, to guess from.
    """

    def __init__(
        self, reason: str, begin: int, *, entry: TarEntry | None, sound: bool, hint: str
    ) -> None:
        super().__init__(reason)
        self.begin, self.entry, self.sound, self.hint = begin, entry, sound, hint


class NotATarError(ValueError):
    """There is no tar header at the start; the message says what does."""


class Gap(NamedTuple):
    """The bytes ``begin`` to ``end`` were passed over, with ``lost`` headers of members in them."""

    begin: int
    end: int
    lost: int
    last: bool
    """Whether nothing follows."""

    def __str__(self) -> str:
        return f"from byte {self.begin:,} {'on' if self.last else f'to {self.end:,}'}"


class TarReader:
    """Reads the headers between two offsets of an open file.

    Args:
        descriptor: of a regular file; its own position is left alone.
        begin, end: where the archive is; blocks count from ``begin``.
        max_headers: more of them are damage; None: there may be any number.

    Attributes:
        joins: ranges of zeros behind each of which another archive begins (``cat a.tar b.tar``).
    """

    def __init__(
        self, descriptor: int, begin: int, end: int, *, max_headers: int | None = None
    ) -> None:
        self._file, self._begin, self._end = descriptor, begin, end
        self._left = -1 if max_headers is None else max_headers
        self._at = self._failed = begin
        self._done = self._behind_gap = self._name_lost = False
        self.joins: list[tuple[int, int]] = []

    def check_start(self) -> None:
        """Raise ``NotATarError`` if what is here is known to be something else, or too short."""
        start = self._read(self._begin, min(_BLOCK, self._end - self._begin))
        packing = _COMPRESSED.get(start[:2])
        if packing and not is_header(start):
            raise NotATarError(
                f"it is compressed ({packing}); unpack it to a plain .tar or to a folder"
            )
        if start.lstrip()[:1] == b"<" and not is_header(start):
            raise NotATarError("it looks like a web page, not a tar archive: a failed download?")
        if len(start) < _BLOCK:
            raise NotATarError(f"it is not a tar archive, it has {len(start)} bytes")

    def next_entry(self) -> TarEntry | None:
        """The next member, or None behind the last.

        Raises:
            TarDamage: as above; ``resume`` goes on behind it.
        """
        begin = at = self._at
        said = _Said()
        while not self._done:
            header = self._header(at, begin)
            if header is None:
                if begin < at:
                    raise self._damage("an extended header without its member", begin, at)
                self._end_mark(at)
                begin = at = self._at
                continue
            kind = header[156:157]
            try:
                if self._left == 0:
                    raise ValueError("it has too many headers")  # noqa: TRY301
                self._left -= 1
                size = _number(header[124:136])
                if kind in _EXTENDED:
                    said.take(kind, self._payload(at + _BLOCK, size))
                    at = _after(at + _BLOCK, size)
                    continue
                entry = self._entry(header, at, begin, size, said)
            except TarDamage:
                raise
            except ValueError as error:
                raise self._damage(str(error), begin, at, header) from None
            if kind == _LABEL and not entry.size:
                begin = at = at + _BLOCK
                said = _Said()
                continue
            if entry.offset + entry.size > self._end:
                reason = "the archive ends before this member does"
                raise self._damage(reason, begin, at, header, entry)
            self._at = _after(entry.offset, entry.size)
            self._behind_gap = self._name_lost = False
            return entry
        return None

    def resume(self, damage: TarDamage) -> Gap:
        """Go to the next header whose checksum is right, or else to the end."""
        found, _, lost = self._search(self._failed)
        self._done = found is None
        self._at = self._end if found is None else found
        self._behind_gap = True
        return Gap(damage.begin, self._at, lost, self._done)

    def _header(self, at: int, begin: int) -> bytes | None:
        """The block at ``at`` if it is a header, None if it is zeros."""
        try:
            header = os.pread(self._file, max(0, min(_BLOCK, self._end - at)), at)
        except OSError as error:
            reason = f"it cannot be read ({error.strerror or error})"
            raise self._damage(reason, begin, at) from error
        if is_header(header):
            return header
        if header and not header.strip(b"\0"):
            return None
        if len(header) < _BLOCK:
            raise self._damage("the archive has no end mark; it is cut short", begin, at, header)
        raise self._damage(f"byte {at:,} begins no tar header", begin, at, header)

    def _end_mark(self, at: int) -> None:
        """Zeros are where a header is due: done, or on to an archive joined to this one."""
        found, other, _ = self._search(at)
        if other is not None:
            raise self._damage("zeros are found where a header is due", at, at)
        if found is None:
            if self._end - at > _MAX_ZEROS:
                reason = f"{self._end - at:,} zeros are found at the end: a download that stopped?"
                raise self._damage(reason, at, at)
            self._done = True
            return
        # Two blocks of zeros, or as many as fill a record: so tar itself ends an archive.
        mark = found - at
        whole = mark == 2 * _BLOCK or (found - self._begin) % _RECORD == 0
        if mark < 2 * _BLOCK or not whole:
            raise self._damage("zeros are found where a header is due", at, at)
        self.joins.append((at, found))
        self._at, self._behind_gap = found, True

    def _payload(self, at: int, size: int) -> bytes:
        if size > _MAX_EXTENDED or at + size > self._end:
            raise ValueError(f"an extended header of {size:,} bytes")
        payload = self._read(at, size)
        if len(payload) < size:
            raise ValueError("an extended header that cannot be read")
        return payload

    def _entry(self, header: bytes, at: int, begin: int, size: int, said: _Said) -> TarEntry:
        kind = header[156:157]
        if said.link is not None and kind not in _LINKS:
            raise ValueError("a link's name before what is no link")
        if "size" in said.records:
            size = _decimal(said.records["size"])
        name = said.name or _name(header)
        what = _KINDS.get(kind) or f"of the unknown type {ascii(kind.decode('latin1'))}"
        if kind in _REGULAR and name.endswith("/"):
            # So the oldest archives say it; their folders have no data.
            what = "a folder with data" if size else FOLDER
        elif kind in _WITHOUT_DATA:
            size = 0
        offset = at + _BLOCK
        if kind == _SPARSE:
            offset = self._behind_map(header, offset, begin)
        if said.sparse:
            what = _KINDS[_SPARSE]
        if self._behind_gap and said.name is None and what != FOLDER:
            # What gave a longer name may be in the gap; the header has its first part alone.
            cut = header[_LONGEST - 1] != 0 and not header[345]
            if self._name_lost or cut:
                what = "a file whose name was lost with the damage before it"
        link = said.link or _text(header[157:257])
        return TarEntry(what, name, offset, size, link, begin)

    def _behind_map(self, header: bytes, at: int, begin: int) -> int:
        """Where the data of GNU's old sparse form begin, behind the blocks of its map."""
        more = header[482]
        while more:
            block = self._read(at, _BLOCK)
            if len(block) < _BLOCK:
                # The search goes on behind the map, lest each block of it be read again and again.
                raise self._damage("the map of a sparse file has no end", begin, at, header)
            more = block[504]
            at += _BLOCK
        return at

    def _damage(
        self, reason: str, begin: int, at: int, header: bytes = b"", entry: TarEntry | None = None
    ) -> TarDamage:
        """The damage; the search for what follows begins at ``at``."""
        self._failed = at
        hint = _text(header[:100])
        extended = header[156:157] in _NAMING or "@LongLink" in hint or "PaxHeader" in hint
        self._name_lost = bool(header) and extended
        begin = min(begin, self._end)  # the padding of the last member may be cut, too
        return TarDamage(reason, begin, entry=entry, sound=is_header(header), hint=hint)

    def _search(self, at: int) -> tuple[int | None, int | None, int]:
        """The first header behind the block at ``at``; a place before it, but not in that block,
        where bytes are no zeros; and how many blocks before it begin as members' headers do.
        """
        other: int | None = None
        lost = unreadable = 0
        first, length = _BLOCK, _FIRST_PIECE
        while at < self._end and unreadable < _UNREADABLE:
            wanted = min(length, self._end - at)
            try:
                piece = os.pread(self._file, wanted, at)
            except OSError:
                piece = None
            if piece is None:
                other, unreadable = at, unreadable + 1
                at, first, length = at + wanted, 0, _PIECE
                continue
            found = _first_header(piece, first)
            passed = piece if found is None else piece[:found]
            lost += _count_headers(passed)
            if other is None and passed[first:].strip(b"\0"):
                other = at
            if found is not None:
                return at + found, other, lost
            if len(piece) < wanted:
                break  # the file is shorter than it was
            at, first, unreadable = at + wanted, 0, 0
            length = min(2 * length, _PIECE)
            if not piece.strip(b"\0"):
                at = self._behind_hole(at)
        return None, other, lost

    def _behind_hole(self, at: int) -> int:
        """``at``, or the block where data go on if a sparse file has none there."""
        try:
            data = os.lseek(self._file, at, os.SEEK_DATA)
        except OSError as error:
            return self._end if error.errno == errno.ENXIO else at
        return max(at, data - (data - self._begin) % _BLOCK)

    def _read(self, at: int, count: int) -> bytes:
        try:
            return os.pread(self._file, count, at)
        except OSError:
            return b""


@dataclass(slots=True)
class _Said:
    """What extended headers say of the member behind them; of several the last counts."""

    name: str | None = None
    link: str | None = None
    sparse: bool = False
    records: dict[str, str] = field(default_factory=dict)

    def take(self, kind: bytes, payload: bytes) -> None:
        """Raises ``ValueError`` for a payload that is none of its kind."""
        if kind in b"LK":
            text = _long(payload)
            if kind == b"L":
                self.name = text
            else:
                self.link = text
            return
        records = _records(payload)
        sparse = any(key.startswith("GNU.sparse") for key in records)
        if kind == b"g":
            if sparse or {"path", "size", "linkpath"} & records.keys():
                raise ValueError("one name or size for all members")
            return
        self.records, self.sparse = records, sparse
        self.name = records.get("GNU.sparse.name") or records.get("path") or self.name
        self.link = records.get("linkpath") or self.link


def is_header(block: bytes) -> bool:
    """Whether ``block`` is 512 bytes with the mark and the checksum of a tar header."""
    if len(block) != _BLOCK or block[257:262] not in _MARKS:
        return False
    digits = block[148:156].partition(b"\0")[0].strip(b" ")
    if not digits or digits.strip(b"01234567"):
        return False
    stated = int(digits, 8)
    rest = block[:148] + block[156:]
    total = sum(rest) + 8 * 0x20
    if stated == total:
        return True
    # Some old writers summed signed bytes.
    return stated == total - 256 * sum(byte > 127 for byte in rest)


def _first_header(piece: bytes, first: int) -> int | None:
    """Where in ``piece`` the first header from ``first`` on begins."""
    # A checksum has at least six digits; looking at the last alone leaves one block in 32.
    for place in _OCTAL.finditer(piece[first + 153 :: _BLOCK]):
        at = first + place.start() * _BLOCK
        if is_header(piece[at : at + _BLOCK]):
            return at
    return None


def _count_headers(piece: bytes) -> int:
    """Blocks of ``piece`` that have the mark of a member's header, whatever their checksums."""
    count = 0
    for place in _MARK.finditer(piece[257::_BLOCK]):
        at = place.start() * _BLOCK
        count += (
            piece[at + 257 : at + 262] == b"ustar" and piece[at + 156 : at + 157] not in _EXTENDED
        )
    return count


def _after(data: int, size: int) -> int:
    return data + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _number(digits: bytes) -> int:
    if digits[0] & 0x80:  # GNU's form for 8 GB and more
        if digits[0] != 0x80:
            raise ValueError("a negative or garbled size")
        return int.from_bytes(digits[1:], "big")
    digits = digits.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise ValueError("a garbled number for its size")
    return int(digits or b"0", 8)


def _decimal(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError("a garbled size")
    return int(digits)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    name = _text(header[:100])
    if header[345] and header[257:263] == b"ustar\0":
        return f"{_text(header[345:500])}/{name}"
    return name


def _long(payload: bytes) -> str:
    text, _, rest = payload.partition(b"\0")
    if not text or rest.strip(b"\0"):
        raise ValueError("a garbled long name")
    return text.decode("utf-8", "surrogateescape")


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
