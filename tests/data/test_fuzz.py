"""Thousands of spoiled lists and images: refused with a reason or read right, never a crash."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from hang_guard import ends
from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.errors import DataError
from image_files import blotches, encoded, put

TOKENS = [
    b"../", b"..", b"/", b"//", b"/./", b"./", b"\t", b" ", b"  ", b"\r", b"\n", b"\r\n", b"\0",
    b"\x7f", b"\xff", b"\xe9", b"\xef\xbb\xbf", "é".encode(), "\u0663".encode(), b"-1", b"3.5",
    b"1_0", b"12345678901", b"#", b"C:\\", b"c:/", b"/etc/passwd", b"link/", b".jpg 1 2", b"0x1",
    "\u2028".encode(), "\u00a0".encode(), b"~", b"$HOME", b"%2e%2e/", b"a.tar!b.jpg",
]  # fmt: skip
_LINE = re.compile(r"([^ \x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^ \x00-\x1f\x7f])?) ([0-9]{1,9})")
_EXTRA = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?|gif) +-?[0-9][0-9.]*\Z", re.I)


def reference(content: bytes) -> list[tuple[str, int]] | None:
    """What a list holds, written down a second time as plainly as possible; None: refused."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    found: dict[str, int] = {}
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if "\0" in line or len(line.encode()) > 8192:
            return None
        if not line.strip(" ") or line.startswith("#"):
            continue
        matched = _LINE.fullmatch(line)
        if matched is None or _EXTRA.search(matched[1]):
            return None
        name = matched[1]
        parts = [part for part in name.split("/") if part not in ("", ".")]
        absolute = name.startswith("/") or re.match(r"[A-Za-z]:[\\/]", name)
        if absolute or ".." in parts or not parts or "/".join(parts) in found:
            return None
        found["/".join(parts)] = int(matched[2])
    return list(found.items()) or None


def spoiled(rng: np.random.Generator) -> bytes:
    """A list of a few lines with some bytes changed, added, doubled or lost."""
    lines = [
        f"{'abc'[n % 3]}/{'my ' if n % 4 == 0 else ''}{rng.integers(0, 30)}.jpg {n % 4}".encode()
        for n in range(int(rng.integers(1, 9)))
    ]
    content = bytearray([b"\n", b"\r\n"][rng.integers(2)].join(lines))
    for _ in range(int(rng.integers(0, 4))):
        at = int(rng.integers(0, len(content) + 1))
        kind = rng.integers(0, 5)
        if kind == 0:
            content[at:at] = TOKENS[rng.integers(len(TOKENS))]
        elif kind == 1 and at < len(content):
            content[at] = rng.integers(0, 256)
        elif kind == 2:
            del content[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            content[at:at] = content[: int(rng.integers(0, 40))]
        else:
            start = content.rfind(b"\n", 0, at) + 1
            content[start:start] = TOKENS[rng.integers(len(TOKENS))]
    return bytes(content)


@pytest.mark.parametrize(
    ("first", "last"), [(0, 300), pytest.param(300, 10_000, marks=pytest.mark.slow)]
)
def test_a_spoiled_list_is_refused_with_its_place_or_read_as_the_reference_does(
    tmp_path: Path, first: int, last: int
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    names = [f"{d}/{m}{n}.jpg" for d in "abc" for m in ("", "my ") for n in range(30)]
    put(root, dict.fromkeys(names, b""))
    put(outside, dict.fromkeys(names, b""))
    (root / "link").symlink_to(outside)
    path = tmp_path / "list.txt"
    read = 0
    for seed in range(first, last):
        content = spoiled(np.random.default_rng(seed))
        path.write_bytes(content)
        expected = reference(content)
        try:
            frame = read_list(path)
        except DataError as error:
            told = str(error)
            assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", told) and "\n" not in told, told
            assert expected is None, (seed, content, told)
            assert "0 samples" in told or re.match(rf"{re.escape(str(path))}:\d+: ", told)
            continue
        assert list(frame.itertuples(index=False, name=None)) == expected, (seed, content)
        read += 1
        try:
            inside = read_list(path, root)
        except DataError:
            continue
        for name in inside["path"]:
            assert os.path.realpath(root / name).startswith(f"{root.resolve()}/"), (seed, name)
    assert 0.1 * (last - first) < read < 0.9 * (last - first)


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """An image file with bytes changed, its head kept for another's body, cut, or run on."""
    spoilt = bytearray(content)
    kind = rng.integers(0, 5)
    if kind == 0:
        for place in rng.integers(0, len(spoilt), 6):
            spoilt[place] = rng.integers(0, 256)
    elif kind == 1:
        for place in rng.integers(0, min(64, len(spoilt)), 3):
            spoilt[place] = rng.choice([0, 1, 127, 128, 255])
    elif kind == 2:
        del spoilt[int(rng.integers(1, len(spoilt))) :]
    elif kind == 3:
        at = int(rng.integers(1, len(spoilt)))
        spoilt[at:] = other[at:]
    else:
        at = int(rng.integers(0, len(spoilt)))
        spoilt[at:at] = rng.bytes(int(rng.integers(1, 400)))
    return bytes(spoilt)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged EXIF and tags
@pytest.mark.parametrize(
    ("first", "last"), [(0, 200), pytest.param(200, 2_000, marks=pytest.mark.slow)]
)
def test_a_damaged_image_is_decoded_or_quarantined(tmp_path: Path, first: int, last: int) -> None:
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    whole = [encoded(blotches(at, (64, 48)), kind) for at, kind in enumerate(kinds)]
    whole += [encoded(blotches(7, (64, 48)), "JPEG", progressive=True, quality=30)]
    files = {}
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        content, other = whole[seed % len(whole)], whole[rng.integers(len(whole))]
        files[f"{seed % 8}/{seed}.jpg"] = damaged(content, other, rng)
    root = put(tmp_path / "pool", files)
    with ends("a scan of damaged images"):
        scan = scan_unlabelled(root, threads=1)
    assert sorted([*scan.samples["key"], *scan.quarantined["key"]]) == sorted(files)
    assert scan.quarantined["reason"].str.len().min() > 5
    assert 0.1 * len(files) < len(scan.samples) < 0.9 * len(files)
