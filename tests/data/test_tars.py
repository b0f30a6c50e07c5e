"""Tars of every kind and damage of every kind: each member is used, named, or in a named range."""

from __future__ import annotations

import errno
import functools
import io
import os
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgnetv2_pipeline import tar_members
from hgnetv2_pipeline.data.lists.files import Fence
from hgnetv2_pipeline.data.scan.archives import ArchiveIndex, index_archive, read_member
from hgnetv2_pipeline.data.scan.folders import scan_folder_tree, scan_unlabelled
from hgnetv2_pipeline.data.scan.walk import Walk
from hgnetv2_pipeline.deployment.inputs import expand_inputs
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.weights.paddle.archive import find_members
from image_files import blotches, encoded, put
from mutation import run_mutations

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


# --- whole archives, read as Python's tarfile reads them ------------------------------------------


@dataclass(frozen=True)
class Original:
    """An archive, and its members as Python's tarfile has them, those of inner archives too."""

    content: bytes
    members: tuple[Known, ...]


@dataclass(frozen=True)
class Known:
    name: str
    begin: int
    """Where its first header begins, and that of the archive around it."""
    header: int
    offset: int
    size: int
    container: Known | None = None


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data) if data else None)


def made(rng: random.Random, style: int, *, depth: int = 1, mark: str = "m") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=style) as tar:
        if rng.random() < 0.5:
            add(tar, "folder", type=tarfile.DIRTYPE)
        for number in range(rng.randint(2, 6)):
            name = f"{mark}{number}.jpg"
            shape = rng.random()
            if shape < 0.2:
                name = f"{'d' * 60}/{'e' * 60}/{name}"
            elif shape < 0.3 and style != tarfile.USTAR_FORMAT:
                name = f"{'n' * 200}-é-{name}"
            elif shape < 0.5:
                name = f"./folder/{name}"
            size = rng.choice([0, 1, 511, 512, 513, rng.randint(600, 4000)])
            add(tar, name, rng.randbytes(size))
            if rng.random() < 0.2 and len(name) < 100:
                add(tar, f"soft-{mark}{number}.jpg", type=tarfile.SYMTYPE, linkname=name)
        if depth < 3 and rng.random() < 0.4:
            for number in range(rng.randint(1, 2)):
                packed = made(rng, style, depth=depth + 1, mark=f"{mark}{number}i")
                add(tar, f"{mark}{number}.tar", packed)
    return out.getvalue()


def known(content: bytes, start: int = 0, prefix: str = "", container: Any = None) -> list[Known]:
    """The regular files of a tar as Python's own reader has them."""
    found: list[Known] = []
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for info in tar:
            if not info.isreg():
                continue
            begin, data = start + info.offset, start + info.offset_data
            name = prefix + info.name.removeprefix("./")
            one = Known(name, begin, data - 512, data, info.size, container)
            if name.endswith(".tar"):
                packed = content[info.offset_data : info.offset_data + info.size]
                found += known(packed, data, f"{name}!", one)
            else:
                found.append(one)
    return found


@functools.lru_cache
def original(number: int) -> Original:
    content = made(random.Random(f"tar {number}"), FORMATS[number % 3])
    return Original(content, tuple(known(content)))


@pytest.mark.parametrize("number", range(40))
def test_a_whole_tar_is_read_as_tarfile_reads_it(tmp_path, number):
    whole = original(number)
    path = tmp_path / "a.tar"
    path.write_bytes(whole.content)
    index = index_archive(path)
    expected = [(one.name, one.offset, one.size) for one in whole.members]
    assert [tuple(member) for member in index.members] == expected
    assert all("soft-" in refused.name for refused in index.refused)


# --- archives as other programs write them --------------------------------------------------------


def big(size: int) -> bytes:
    """GNU's form of a size, for 8 GB and more."""
    return b"\x80" + size.to_bytes(11, "big")


def header(name: bytes, size: int | bytes, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header block with the right checksum; ``fields``: ``at_124=b"..."`` puts bytes there."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"".join(b"%07o\0" % number for number in (0o644, 0, 0))
    block[124:136] = b"%011o\0" % size if isinstance(size, int) else size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for place, value in fields.items():
        at = int(place.removeprefix("at_"))
        block[at : at + len(value)] = value
    return repaired(block)


def repaired(block: bytes | bytearray) -> bytes:
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes, **options: Any) -> bytes:
    return header(name, len(data), **options) + padded(data)


def pax(records: dict[str, str]) -> bytes:
    text = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        text += str(length).encode() + record
    return text


END = bytes(1024)
A, B, C = (member(name, name * 300) for name in (b"a.jpg", b"b.jpg", b"c.jpg"))
V7 = {"at_257": bytes(8)}


def signed(block: bytes) -> bytes:
    """With the checksum of old writers, who summed signed bytes."""
    total = sum(block[:148] + block[156:]) + 256
    total -= 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


READ = {
    "v7": (member(b"a.jpg", b"1", **V7) + member(b"d/", b"", kind=b"\0", **V7) + END, ["a.jpg"]),
    "no bytes at all but zeros": (bytes(10240), []),
    "a single block of zeros at the end": (A + B + bytes(512), ["a.jpg", "b.jpg"]),
    "padded to a record": ((A + END).ljust(10240, b"\0"), ["a.jpg"]),
    "padded to a megabyte": ((A + END).ljust(1 << 20, b"\0"), ["a.jpg"]),
    "two joined after two blocks": (A + END + B + END, ["a.jpg", "b.jpg"]),
    "two joined after a record": (A.ljust(10240, b"\0") + B + END, ["a.jpg", "b.jpg"]),
    "GNU's size in base 256": (
        header(b"a.jpg", big(3)) + padded(b"abc") + END, ["a.jpg"]),
    "a name that is not UTF-8": (member(b"caf\xe9.jpg", b"1") + END, ["caf\udce9.jpg"]),
    "signed checksums": (
        signed(header("é.jpg".encode(), 1)) + padded(b"1") + END, ["é.jpg"]),
    "pax with a size": (
        member(b"x", pax({"size": "5", "path": "p/q.jpg"}), kind=b"x")
        + header(b"q.jpg", 0) + padded(b"12345") + END, ["p/q.jpg"]),
    "pax for all members": (
        member(b"g", pax({"comment": "0123abc"}), kind=b"g") + A + END, ["a.jpg"]),
    "Solaris's pax": (
        member(b"X", pax({"path": "p/q.jpg"}), kind=b"X") + A + END, ["p/q.jpg"]),
    "GNU's long name": (
        member(b"././@LongLink", b"n" * 300 + b".jpg\0", kind=b"L") + A + END,
        ["n" * 300 + ".jpg"]),
    "the archive's label": (header(b"backup", 0, b"V") + A + END, ["a.jpg"]),
    "thousands of long names before one member": (
        member(b"././@LongLink", b"n.jpg\0", kind=b"L") * 3000 + A + END, ["n.jpg"]),
    "thousands of pax headers before one member": (
        member(b"x", pax({"path": "n.jpg"}), kind=b"x") * 3000 + A + END, ["n.jpg"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_a_tar_of_another_program_is_read_whole(tmp_path, case):
    content, names = READ[case]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    index = index_archive(path)
    assert [found.name for found in index.members] == names and not index.refused
    for found in index.members:
        read_member(path, found.offset, found.length)


# --- damage ---------------------------------------------------------------------------------------


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def wiped(content: bytes, begin: int, end: int) -> bytes:
    return content[:begin] + bytes(end - begin) + content[end:]


SIZE = len(A)  # of each member, header and padding included
ABC = A + B + C + END
LONG = member(b"././@LongLink", b"n" * 120 + b".jpg\0", kind=b"L")
HUGE = big(1 << 80)
NEGATIVE = b"\xff" * 10 + b"\xfe\x00"
PAST = "the archive ends before this member does"
DAMAGED: dict[str, tuple[bytes, list[str], list[tuple[str, str]]]] = {
    "a flipped bit in a header": (
        flipped(ABC, SIZE + 3), ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 4,096)", "begins no tar header; members lost: 1 or more")]),
    "a flipped bit in the first header": (
        flipped(ABC, 3), ["b.jpg", "c.jpg"], [("(from byte 0 to 2,048)", "begins no tar header")]),
    "a flipped bit in the last header": (
        flipped(ABC, 2 * SIZE + 3), ["a.jpg", "b.jpg"],
        [("(from byte 4,096 on)", "members lost: 1 or more")]),
    "a header of zeros": (
        wiped(ABC, SIZE, SIZE + 512), ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 4,096)", "zeros are found where a header is due")]),
    "a member of zeros": (
        wiped(ABC, SIZE, 2 * SIZE), ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 4,096)", "zeros are found")]),
    "the last header of zeros": (
        wiped(ABC, 2 * SIZE, 2 * SIZE + 512), ["a.jpg", "b.jpg"],
        [("(from byte 4,096 on)", "zeros are found")]),
    "cut between members": (
        ABC[: 2 * SIZE], ["a.jpg", "b.jpg"], [("(from byte 4,096 on)", "no end mark")]),
    "cut in a member": (ABC[: 2 * SIZE + 700], ["a.jpg", "b.jpg"], [("c.jpg", PAST)]),
    "cut in a header": (
        ABC[: 2 * SIZE + 70], ["a.jpg", "b.jpg"], [("(from byte 4,096 on)", "no end mark")]),
    "a download that left zeros": (
        A + bytes(17 << 20), ["a.jpg"], [("(from byte 2,048 on)", "a download that stopped")]),
    "a negative size": (
        A + header(b"b.jpg", NEGATIVE) + padded(b"b" * 1500) + C + END, ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 4,096)", "a negative or garbled size")]),
    "a size beyond all": (
        A + header(b"b.jpg", HUGE) + padded(b"b" * 1500) + C + END, ["a.jpg", "c.jpg"],
        [("b.jpg", f"{PAST} (damaged from byte 2,048 to 4,096)")]),
    "a size that is no number": (
        A + header(b"b.jpg", b"12x45678901\0") + padded(b"b" * 1500) + C + END,
        ["a.jpg", "c.jpg"], [("(from byte 2,048 to 4,096)", "a garbled number")]),
    "a negative size by pax": (
        A + member(b"x", pax({"size": "-512"}), kind=b"x") + B + C + END, ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 5,120)", "a garbled size; members lost: 1 or more")]),
    "a garbled pax header": (
        A + member(b"x", b"99 path=b\n", kind=b"x") + B + C + END, ["a.jpg", "c.jpg"],
        [("b.jpg", "name was lost"), ("(from byte 2,048 to 3,072)", "garbled extended header")]),
    "one name for all": (
        A + member(b"g", pax({"path": "x.jpg"}), kind=b"g") + B + END, ["a.jpg", "b.jpg"],
        [("(from byte 2,048 to 3,072)", "one name or size for all")]),
    "a damaged long name": (
        A + flipped(LONG, 9) + member(b"n" * 100, b"1") + C + END, ["a.jpg", "c.jpg"],
        [("n" * 100, "name was lost"), ("(from byte 2,048 to 3,072)", "begins no tar header")]),
    "a long name of zeros": (
        A + bytes(1024) + member(b"n" * 100, b"1", at_257=b"ustar  \0") + C + END,
        ["a.jpg", "c.jpg"], [("n" * 100, "name was lost")]),
    "a long name of an 8 GiB": (
        A + header(b"././@LongLink", big(8 << 30), b"L") + padded(b"n") + C + END, ["a.jpg"],
        [("c.jpg", "name was lost"),
         ("(from byte 2,048 to 3,072)", "an extended header of 8,589,934,592 bytes")]),
    "a long name with more behind it": (
        A + member(b"b.jpg", b"n\0n" * 9, kind=b"L") + C + END, ["a.jpg"],
        [("c.jpg", "name was lost"), ("(from byte 2,048 to 3,072)", "a garbled long name")]),
    "a long name without its member": (
        A + LONG + END, ["a.jpg"],
        [("(from byte 2,048 on)", "an extended header without its member")]),
    "a link's name before a file": (
        A + member(b"././@LongLink", b"n\0", kind=b"K") + B + C + END, ["a.jpg", "c.jpg"],
        [("(from byte 2,048 to 5,120)", "a link's name before what is no link")]),
    "a sparse file of the old form": (
        A + header(b"b.jpg", 9, b"S", at_482=b"\1") + bytes(504) + b"\1" + bytes(7) + bytes(512)
        + padded(b"123456789") + C + END, ["a.jpg", "c.jpg"], [("b.jpg", "a sparse file")]),
    "a sparse file of pax": (
        A + member(b"x", pax({"GNU.sparse.major": "1", "GNU.sparse.name": "s.jpg"}), kind=b"x")
        + B + C + END, ["a.jpg", "c.jpg"], [("s.jpg", "a sparse file")]),
    "a sparse map without end": (
        A + header(b"b.jpg", 9, b"S", at_482=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 3,
        ["a.jpg"], [("(from byte 2,048 on)", "the map of a sparse file has no end")]),
    "bytes behind the end": (
        A + END + b"signature", ["a.jpg"], [("(from byte 2,048 on)", "zeros are found")]),
    "a member of an unknown type": (
        A + member(b"b.jpg", b"1", kind=b"Q") + C + END, ["a.jpg", "c.jpg"],
        [("b.jpg", "of the unknown type 'Q'")]),
    "a member without a name": (
        A + member(b"", b"1") + C + END, ["a.jpg", "c.jpg"], [("(without a name)", "no name")]),
    "a name of a megabyte": (
        A + member(b"././@LongLink", b"n" * 1_000_000 + b"\0", kind=b"L") + B + C + END,
        ["a.jpg", "c.jpg"], [("n" * 80 + "...", "its name has 1,000,000 characters")]),
    "three things of one name": (
        A + A + header(b"a.jpg", 0, b"2") + C + END, ["a.jpg", "c.jpg"],
        [("a.jpg (at byte 512)", "named again"), ("a.jpg (at byte 4,096)", "a symbolic link")]),
    "an inner archive whose header is damaged": (
        member(b"x.tar", A + END) + flipped(member(b"y.tar", B + END), 300)
        + member(b"z.tar", C + END) + END, ["x.tar!a.jpg", "z.tar!c.jpg"],
        [("b.jpg", "may belong to an inner archive"), ("(from byte 3,584 to 4,096)", "no tar")]),
    "the first inner archive is lost": (
        wiped(member(b"x.tar", A + B + END), 0, SIZE) + member(b"z.tar", C + END) + END,
        ["z.tar!c.jpg"],
        [("b.jpg", "may belong to an inner archive"), ("(from byte 0 to 2,560)", "zeros are")]),
    "a cut inner archive": (
        (member(b"x.tar", A + B + END) + END)[: 512 + SIZE + 700], ["x.tar!a.jpg"],
        [("x.tar!b.jpg", PAST), ("x.tar", PAST)]),
    "an inner archive that is none": (
        A + member(b"x.tar", b"1" * 2000) + END, ["a.jpg"], [("x.tar", "not a plain tar")]),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_told_with_its_bytes_and_the_rest_is_read(tmp_path, case):
    content, names, told = DAMAGED[case]
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    index = index_archive(path)
    assert [found.name for found in index.members] == names
    assert [refused.key for refused in index.refused] == [key for key, _ in told]
    for refused, (_, reason) in zip(index.refused, told, strict=True):
        assert reason in refused.reason and "\n" not in refused.reason


@pytest.mark.parametrize("depth", range(1, 8))
def test_archives_too_deep_are_named(tmp_path, depth):
    content = A + END
    for _ in range(depth - 1):
        content = member(b"in.tar", content) + END
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    index = index_archive(path)
    if depth <= 3:
        assert [found.name for found in index.members] == ["in.tar!" * (depth - 1) + "a.jpg"]
        assert not index.refused
    else:
        assert not index.members
        assert [refused.key for refused in index.refused] == ["in.tar!in.tar!in.tar"]
        assert "more than 3 deep" in index.refused[0].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (A[:400], "400 bytes"),
        (b"\x1f\x8b" + bytes(600), "compressed .gzip.*unpack"),
        (b"<html>" + bytes(600), "web page"),
        (b"x" * 2000, "byte 0 begins no tar header"),
    ],
)
def test_what_is_no_tar_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"not a plain tar archive .*{reason}") as told:
        index_archive(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_bytes_that_cannot_be_read_are_a_named_range(tmp_path, monkeypatch, error):
    path = tmp_path / "a.tar"
    pieces = 4 << 20
    many = pieces // SIZE
    path.write_bytes(A * many + B + END)
    read = os.pread

    def failing(descriptor: int, count: int, at: int) -> bytes:
        if at < 2 << 20 and at + count > 1 << 20:
            raise OSError(error, os.strerror(error))
        return read(descriptor, count, at)

    monkeypatch.setattr(tar_members.os, "pread", failing)
    index = index_archive(path)
    assert [refused.key for refused in index.refused if not refused.name] == [
        "(from byte 1,048,576 to 2,105,344)"
    ]
    assert os.strerror(error) in index.refused[-1].reason
    assert index.members[-1].name == "b.jpg"


DENSE = {
    "headers of sizes beyond all": header(b"n.jpg", HUGE),
    "headers of negative sizes": header(b"n.jpg", NEGATIVE),
    "headers with a wrong checksum": flipped(header(b"n.jpg", 1), 9),
    "pax headers in a chain": member(b"x", pax({"path": "n.jpg"}), kind=b"x"),
    "maps of sparse files": header(b"s", 0, b"S", at_482=b"\1", at_504=b"\1"),
    "links' names before files": member(b"K", b"n\0", kind=b"K") + header(b"n.jpg", 0),
    "members between zeros": A + bytes(512),
}


@pytest.mark.parametrize("case", DENSE)
def test_time_is_linear_in_the_length_of_a_hostile_file(tmp_path, monkeypatch, case):
    path = tmp_path / "a.tar"
    blocks = 4_000
    path.write_bytes((DENSE[case] * blocks)[: blocks * 512])
    read, lengths = os.pread, []

    def counting(descriptor: int, count: int, at: int) -> bytes:
        lengths.append(count)
        return read(descriptor, count, at)

    monkeypatch.setattr(tar_members.os, "pread", counting)
    try:
        index = index_archive(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert index.refused
    assert len(lengths) < 6 * blocks and sum(lengths) < 40 * 512 * blocks


def test_a_hole_of_a_terabyte_costs_no_time(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(A)
    os.truncate(path, 1 << 40)
    index = index_archive(path)
    assert [found.name for found in index.members] == ["a.jpg"]
    assert "a download that stopped" in index.refused[0].reason


def test_the_account_of_a_damaged_pool_holds(tmp_path):
    """W11: links, names that climb, a bomb and damage in the tars of a pool."""
    picture = encoded(blotches(1))
    whole = member(b"a.png", picture)
    odd = member(b"../up.png", picture) + header(b"soft.png", 0, b"2", at_157=b"/etc/passwd")
    again = whole * 3
    root = put(
        tmp_path,
        {
            "flip.tar": whole + flipped(member(b"b.png", picture), 9) + END,
            "odd.tar": whole + odd + again + END,
            "cut.tar": whole + member(b"b.png", picture)[:900],
            "negative.tar": whole + header(b"b.png", NEGATIVE) + END,
            "bomb.tar": b"\x1f\x8b" + bytes(3000),
        },
    )
    scan = scan_unlabelled(root, threads=1)
    assert list(scan.samples["key"]) == [
        "cut.tar!a.png", "flip.tar!a.png", "negative.tar!a.png", "odd.tar!a.png",
    ]  # fmt: skip
    keys = list(scan.quarantined["key"])
    assert len(keys) == len(set(keys)) == 9
    assert scan.ledger(1).summary() == {
        "n_listed": 13, "n_used": 4, "n_quarantined": 9, "n_refused": 0,
    }  # fmt: skip
    rows = expand_inputs(root)
    assert len(rows) == 13 and {one.name for one in rows} == {
        f"{root}/{key}" for key in [*scan.samples["key"], *keys]
    }


def test_images_of_a_class_whose_archive_is_damaged_get_no_other_class(tmp_path):
    pictures = [encoded(blotches(seed)) for seed in range(6)]
    inner = [
        member(
            f"n0{number}.tar".encode(),
            b"".join(member(f"{n}.png".encode(), pictures[2 * number + n]) for n in (0, 1)) + END,
        )
        for number in range(3)
    ]
    inner[1] = flipped(inner[1], 140)
    root = put(tmp_path, {"train.tar": b"".join(inner) + END})
    scan = scan_folder_tree(root)
    assert scan.classes == ["n00", "n02"]
    assert len(scan.samples) == 4 and len(scan.quarantined) == 3


# --- mutations ------------------------------------------------------------------------------------


class Spoiled:
    """The bytes of an archive while it is spoiled; ``origin``: where each stood, -1: new."""

    def __init__(self, content: bytes) -> None:
        self.bytes = bytearray(content)
        self.origin = np.arange(len(content))
        self.touched = np.zeros(len(content), bool)  # by original place
        self.moved = self.repaired = False

    def put(self, at: int, data: bytes) -> None:
        data = data[: len(self.bytes) - at]
        places = self.origin[at : at + len(data)]
        self.touched[places[places >= 0]] = True
        self.bytes[at : at + len(data)] = data

    def insert(self, at: int, data: bytes) -> None:
        self.bytes[at:at] = data
        self.origin = np.insert(self.origin, at, np.full(len(data), -1))
        self.moved = True

    def delete(self, begin: int, end: int) -> None:
        places = self.origin[begin:end]
        self.touched[places[places >= 0]] = True
        self.moved |= end < len(self.bytes)
        del self.bytes[begin:end]
        self.origin = np.delete(self.origin, slice(begin, end))


FIELDS = [(0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8),
          (345, 155), (482, 1)]  # fmt: skip
HOSTILE = [
    b"\0", b"\xff", b" ", b"/", b"../x", b"0", b"5", b"7", b"L", b"K", b"x", b"g", b"S", b"V", b"2",
    NEGATIVE, HUGE, b"\x80" + bytes(11), b"77777777777\0", b"00000000000\0", b"00000001000\0",
    b"00000002001\0", b"-0000000512\0", b"12x45678901\0", bytes(12), b"n" * 100, b"a.tar\0",
    b"m1.jpg\0",
]  # fmt: skip
GRAFTS = [
    LONG, A, END, bytes(512), member(b"x", pax({"path": "p.jpg"}), kind=b"x"),
    member(b"x", pax({"size": "-1"}), kind=b"x"), member(b"x", pax({"size": "7"}), kind=b"x"),
    member(b"g", pax({"size": "7"}), kind=b"g"), header(b"././@LongLink", big(1 << 40), b"L"),
    LONG * 40, header(b"n.jpg", NEGATIVE), header(b"n.jpg", HUGE), member(b"x.tar", A + END),
    header(b"s", 9, b"S", at_482=b"\1") + bytes(512) + padded(b"123456789"),
    header(b"h.jpg", 0, b"1", at_157=b"m0.jpg"),
]  # fmt: skip


def mutated(rng: random.Random) -> tuple[bytes, tuple[int, Spoiled]]:
    number = rng.randrange(40)
    whole = original(number)
    spoiled = Spoiled(whole.content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        _spoil(rng, spoiled, whole)
    return bytes(spoiled.bytes), (number, spoiled)


def _spoil(rng: random.Random, spoiled: Spoiled, whole: Original) -> None:
    length = len(spoiled.bytes)
    if length < 1024:
        return
    kind = rng.randrange(9)
    blocks = length // 512
    if kind < 4:  # a header: any byte of it, or one of its fields
        target = rng.choice(whole.members or (Known("", 0, 0, 512, 0),))
        headers = [target.begin, *(link.header for link in chain(target))]
        places = np.flatnonzero(spoiled.origin == rng.choice(headers))
        at = int(places[0]) if len(places) else 512 * rng.randrange(blocks)
        if kind < 2:
            place = rng.randrange(512)
            data = rng.randbytes(1)
        else:
            place, width = rng.choice(FIELDS)
            data = rng.choice(HOSTILE)[:width]
        spoiled.put(at + place, data)
        block = bytes(spoiled.bytes[at : at + 512])
        if rng.random() < 0.6 and len(block) == 512:
            spoiled.put(at + 148, repaired(block)[148:156])
            spoiled.repaired = True
    elif kind == 4:
        begin = rng.randrange(length)
        spoiled.put(begin, bytes(rng.choice([1, 512, 4096])))
    elif kind == 5:
        cut = rng.choice([rng.randrange(length), 512 * rng.randrange(1, blocks)])
        spoiled.delete(cut, length)
    elif kind == 6:
        at = rng.choice([rng.randrange(length), 512 * rng.randrange(blocks), length])
        spoiled.insert(at, rng.choice([*GRAFTS, rng.randbytes(rng.choice([1, 511, 512]))]))
    elif kind == 7:
        begin = rng.choice([rng.randrange(length), 512 * rng.randrange(blocks)])
        spoiled.delete(begin, begin + rng.choice([1, 100, 512, 1024]))
    else:
        spoiled.put(rng.randrange(length), rng.randbytes(rng.choice([1, 8, 600])))


def no_member_is_lost(path: Path, known: tuple[int, Spoiled]) -> str:
    number, spoiled = known
    index = index_archive(path)
    one_line(lambda: find_members(path, ["m1.jpg"]))
    keys = [found.name for found in index.members] + [refused.key for refused in index.refused]
    assert len(keys) == len(set(keys)), "two things have one key"
    assert not any("\n" in refused.reason for refused in index.refused)
    size = len(spoiled.bytes)
    for found in index.members:
        assert found.offset >= 0 and found.length >= 0 and found.offset + found.length <= size
    if number % 4 == 0:
        walk = Walk(Fence(path.parent))
        walk.run()
        assert len(walk.found) + len(walk.bad) + walk.ignored <= len(keys)
        assert len(expand_inputs(path)) <= len(keys)
    members = original(number).members
    lost = [one for one in members if not is_told(number, one, index, spoiled)]
    # A member may be told under a name that the damage gave it: there must be one for each.
    own = {name for one in members for name in names_of(one)}
    given = {refused.name for refused in index.refused if refused.name} - own
    assert len(lost) <= len(given), f"{lost} lost without a word"
    return "whole" if not index.refused else "partly refused"


def names_of(one: Known) -> set[str]:
    """Under which names it may be told: its own, without the archives around it, and cut to the
    100 bytes of a plain header, where that of the long name is gone."""
    names = {one.name, one.name.rsplit("!", 1)[-1]}
    return names | {name.encode()[:100].decode("utf-8", "ignore") for name in names}


def one_line(read: Callable[[], object]) -> None:
    try:
        read()
    except WeightsError as error:
        assert "\n" not in str(error)


def is_told(number: int, one: Known, index: ArchiveIndex, spoiled: Spoiled) -> bool:
    """Whether something says what became of a member; AssertionError if that is not true."""
    offset = now(spoiled, one.offset)
    used = [found.name for found in index.members if found.offset == offset]
    if used or any(found.name == one.name for found in index.members):
        right = one.name in used or not untouched(spoiled, one)
        assert right, f"{one.name} is used as {used}"
        return True
    parts = one.name.split("!")
    told = {"!".join(parts[: depth + 1]) for depth in range(len(parts))} | {parts[-1]}
    told |= names_of(one)
    named = [refused.name for refused in index.refused if refused.name]
    if any(name in told or name.rsplit("!", 1)[-1] in told for name in named):
        return True
    places = [now(spoiled, one.begin), now(spoiled, one.header), offset]
    if one.container is not None:
        places.append(now(spoiled, one.container.header))
    ranges = [
        *index.joins,
        *((found.offset, found.offset + found.length) for found in index.members),
    ]
    ranges += [
        damaged_range(text, len(spoiled.bytes))
        for refused in index.refused
        for text in (refused.key, refused.reason)
    ]
    for other in original(number).members:  # it may be swallowed by a member that is named
        if names_of(other) & {*named}:
            begin = now(spoiled, other.offset)
            ranges.append((begin, begin + other.size))
    if any(begin <= place <= end for begin, end in ranges for place in places):
        return True
    end = len(spoiled.bytes)
    if one.container is not None:
        end = now(spoiled, one.container.offset + one.container.size)
    if not spoiled.bytes[places[1] : end].strip(b"\0"):
        return True  # zeros up to the end of the archive: no other archive ends differently
    # What is left: its header is deleted, or rightly says that it is something else.
    checksum = np.isin(np.arange(one.header + 148, one.header + 156), spoiled.origin).all()
    gone = not checksum and (spoiled.moved or places[1] < len(spoiled.bytes))
    headers = [link.header for link in chain(one)]
    changed = any(spoiled.touched[at : at + 512].any() for at in headers)
    # What is left of it is, its checksum made right again, the header of another member.
    rest = np.flatnonzero((spoiled.origin >= one.header) & (spoiled.origin < one.header + 512))
    another = spoiled.repaired and any(
        found.offset - 512 <= place < found.offset for found in index.members for place in rest
    )
    return bool(gone or (changed and (named or one.size == 0 or another)))


def now(spoiled: Spoiled, place: int) -> int:
    """Where a byte of the original is, or where it would."""
    behind = np.flatnonzero(spoiled.origin >= place)
    return int(behind[0]) if len(behind) else len(spoiled.bytes)


def untouched(spoiled: Spoiled, one: Known) -> bool:
    """Whether all that names a member is as it was."""
    if spoiled.moved or spoiled.repaired:
        return False
    return not any(spoiled.touched[link.begin : link.offset].any() for link in chain(one))


def chain(one: Known) -> list[Known]:
    """A member and the archives around it."""
    return [one, *(chain(one.container) if one.container is not None else [])]


def damaged_range(text: str, size: int) -> tuple[int, int]:
    import re

    found = re.search(r"\((?:damaged )?from byte ([0-9,]+) (?:on|to ([0-9,]+))\)$", text)
    if found is None:
        return -1, -1
    begin, end = (int(text.replace(",", "")) if text else size for text in found.groups())
    return begin, end


@pytest.mark.parametrize(
    ("count", "seed"), [(2_000, 0), pytest.param(100_000, 1, marks=pytest.mark.slow)]
)
def test_of_a_spoiled_tar_no_member_is_lost_without_a_word(count, seed):
    report = run_mutations(mutated, count=count, seed=seed, check=no_member_is_lost, name="m.tar")
    assert not report.faults, report
    assert sum(report.verdicts.values()) == count
    assert report.verdicts["partly refused"] > count / 2 and report.verdicts["refused"]
