"""The short way to the pixels of an ordinary JPEG file, bit for bit those of Pillow.

OpenCV and Pillow both carry libjpeg-turbo and decode alike, but OpenCV copies less around it. With
the package simplejpeg, where it is installed, the rows below a crop are not decoded at all. What is
unusual about a file, or goes wrong, is left to Pillow; so is everything where neither is installed.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

END = b"\xff\xd9"
_FRAMES = range(0xC0, 0xD0)
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
_SCAN, _TABLES = 0xDA, 0xDB


def jpeg_pixels(content: bytes, size: tuple[int, int], bottom: int) -> Pixels | None:
    """uint8 [rows, W, 3] with at least the first ``bottom`` rows, or None: ask Pillow.

    ``content`` is a grey or three-channel JPEG file of ``size`` (width, height); its orientation is
    not looked at.
    """
    # A file that ends early is Pillow's to refuse; other decoders make up the rest.
    if not content.endswith(END):
        return None
    width, height = size
    rows = height
    simplejpeg, cv2 = optional("simplejpeg"), optional("cv2")
    if simplejpeg is not None:
        file, rows = _shortened(content, bottom, height)
        try:
            found = simplejpeg.decode_jpeg(file, strict=False)
        except ValueError:
            return None
    elif hasattr(cv2, "IMREAD_COLOR_RGB"):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        found = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    else:
        return None
    return found if found is not None and found.shape == (rows, width, 3) else None


def reduced_pixels(
    content: bytes, size: tuple[int, int], bottom: int, factor: int
) -> Pixels | None:
    """uint8 [rows, columns, 3]: each a mean of ``factor`` x ``factor`` pixels, made while decoding.

    Half, quarter and eighth (``factor`` 2, 4, 8) are cheap to libjpeg: it leaves out the finer
    waves of its blocks. At least what is above row ``bottom`` of the whole; None: it cannot be had.
    """
    simplejpeg = optional("simplejpeg")
    if simplejpeg is None or not content.endswith(END):
        return None
    width, height = size
    file, rows = _shortened(content, bottom, height)
    shape = -(-rows // factor), -(-width // factor), 3
    try:
        found = simplejpeg.decode_jpeg(file, strict=False, min_height=shape[0], min_width=shape[1])
    except ValueError:
        return None
    return found if found.shape == shape else None


def ordinary_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG file whose header holds nothing unusual; None: ask Pillow.

    Ordinary: 8 bits, grey or three channels not named R, G and B, all tables there, an end marker
    at the very end; of the application's segments only JFIF's and a colour profile, so no EXIF, no
    Adobe, no second picture. Pillow takes several times as long to read as much.
    """
    if not content.startswith(b"\xff\xd8\xff") or not content.endswith(END):
        return None
    place, size, needed, tables = 2, None, set[int](), set[int]()
    while place + 4 < len(content) and content[place] == 0xFF:
        kind = content[place + 1]
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + length]
        if length < 2 or len(body) != length - 2:
            return None
        if kind in (0xC0, 0xC1, 0xC2):
            count = body[5] if len(body) > 5 else 0
            if (
                size is not None
                or body[0] != 8
                or count not in (1, 3)
                or len(body) != 6 + 3 * count
            ):
                return None
            if body[6::3] == b"RGB":
                return None
            size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
            needed = set(body[8::3])
        elif kind == _TABLES:
            # Several may follow one another, each with its precision and number first.
            at = 0
            while at < len(body):
                tables.add(body[at] & 15)
                at += 129 if body[at] >> 4 else 65
            if at != len(body):
                return None
        elif kind == _SCAN:
            good = size is not None and min(size) > 0 and needed <= tables
            return size if good else None
        elif not _is_plain(kind, body):
            return None
        place += 2 + length
    return None


def _is_plain(kind: int, body: bytes) -> bool:
    """Whether a segment says nothing of how the picture is to be seen."""
    if kind == 0xE0:
        return body.startswith(b"JFIF\0")
    if kind == 0xE2:
        return body.startswith(b"ICC_PROFILE\0")
    return kind in (0xC4, 0xDD, 0xFE)  # Huffman tables, restarts, a comment


@functools.cache
def optional(name: str) -> Any:
    """The package ``name``, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _shortened(content: bytes, bottom: int, height: int) -> tuple[bytes | bytearray, int]:
    """The file with a lower height in its header, so that a decoder stops early; and that height.

    Rows of a baseline file follow one another, so its decoder never looks at what is below. Whole
    blocks are kept, and two rows more than asked for: colour at half height is smoothed with its
    neighbours. A file of another kind stays as it is.
    """
    frame = _baseline_frame(content)
    if frame is None:
        return content, height
    at, block = frame
    rows = -(-(bottom + 2) // block) * block
    if rows >= height:
        return content, height
    shorter = bytearray(content)
    shorter[at : at + 2] = rows.to_bytes(2, "big")
    return shorter, rows


def _baseline_frame(content: bytes) -> tuple[int, int] | None:
    """Where the header of a baseline file of one scan holds the height, and its rows of a block."""
    place, found, components = 2, None, 0
    while place + 12 < len(content) and content[place] == 0xFF:
        kind = content[place + 1]
        if kind in (0xC0, 0xC1):
            components = content[place + 9]
            tallest = max(content[place + 11 : place + 11 + 3 * components : 3]) & 15
            found = (place + 5, 8 * tallest)
        elif kind == _SCAN:
            return found if content[place + 4] == components else None
        elif kind in _FRAMES and kind not in _NO_FRAMES:
            return None
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None
