"""Which files are pictures and which of them are read: one table for training, pool and prediction.

What is read is known by its content; names and first bytes only say that a file claims to be a
picture, so that it gets a row or a reason. Of formats that are not read the table knows the name
and how to convert them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import features

from hgnetv2_pipeline.data.regular import open_regular

_CONVERT = "convert it, as by: magick mogrify -format png "


class PictureFormat(NamedTuple):
    """A format of pictures.

    Attributes:
        name: Pillow's, or what people call it.
        endings: of its files' names, without dots, separated by spaces.
        starts: how its files may begin, as (place, bytes).
        advice: how to come from it to a format that is read.
    """

    name: str
    endings: str
    starts: tuple[tuple[int, bytes], ...] = ()
    advice: str = ""


_ALWAYS = (
    PictureFormat("JPEG", "jpg jpeg jpe jfif", ((0, b"\xff\xd8\xff"),)),
    PictureFormat("PNG", "png", ((0, b"\x89PNG"),)),
    PictureFormat("WEBP", "webp", ((8, b"WEBP"),)),
    PictureFormat("BMP", "bmp dib", ((0, b"BM"),)),
    PictureFormat("TIFF", "tif tiff", ((0, b"II*\0"), (0, b"MM\0*"))),
    PictureFormat("GIF", "gif", ((0, b"GIF87a"), (0, b"GIF89a"))),
)
_AVIF = PictureFormat(
    "AVIF", "avif", ((4, b"ftypavif"), (4, b"ftypavis")),
    "install a Pillow with AVIF, or " + _CONVERT + "*.avif",
)  # fmt: skip
_JPEG_2000 = PictureFormat(
    "JPEG2000", "jp2 j2k j2c jpf jpx", ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51")),
    "install a Pillow with OpenJPEG, or " + _CONVERT + "*.jp2",
)  # fmt: skip
_HEIF = PictureFormat(
    "HEIF", "heic heif hif",
    tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")),
    "pip install pillow-heif reads it; or " + _CONVERT + "*.heic",
)  # fmt: skip
# Each with what has to be there for it.
_OPTIONAL: tuple[tuple[PictureFormat, Callable[[], bool]], ...] = (
    (_AVIF, lambda: bool(features.check("avif"))),
    (_JPEG_2000, lambda: bool(features.check("jpg_2000"))),
    (_HEIF, lambda: find_spec("pillow_heif") is not None),
)
_NOT_READ = (
    # Its plugin for Pillow decodes every pixel before their number could be checked.
    PictureFormat("JPEG XL", "jxl", ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL ")),
                  "convert it, as by: djxl x.jxl x.png"),
    PictureFormat("SVG", "svg", (), "draw it, as by: rsvg-convert x.svg -o x.png"),
    PictureFormat("netpbm", "ppm pgm pbm pnm",
                  tuple((0, b"P%d\n" % kind) for kind in range(1, 7)), _CONVERT + "*.ppm"),
    PictureFormat("Photoshop", "psd", ((0, b"8BPS"),), _CONVERT + "*.psd"),
    PictureFormat("PostScript (EPS)", "eps", ((0, b"%!PS"),), _CONVERT + "*.eps"),
    PictureFormat("icon", "ico", ((0, b"\0\0\1\0"),), _CONVERT + "*.ico"),
    PictureFormat("Targa", "tga", (), _CONVERT + "*.tga"),
    PictureFormat("PCX", "pcx", (), _CONVERT + "*.pcx"),
    PictureFormat("camera raw", "cr2 cr3 nef dng arw orf raw", (),
                  "develop it to JPEG or TIFF, as by: darktable-cli x.nef x.jpg"),
)  # fmt: skip
READ: tuple[PictureFormat, ...] = (
    *_ALWAYS,
    *(kind for kind, there in _OPTIONAL if there()),
)
UNREAD: tuple[PictureFormat, ...] = (
    *(kind for kind, there in _OPTIONAL if not there()),
    *_NOT_READ,
)

FORMATS: tuple[str, ...] = tuple(kind.name for kind in READ)
"""The formats that are decoded here, by Pillow's names."""
READABLE = " ".join(kind.endings for kind in READ)
"""Their endings in words, without dots."""


def _endings(kinds: tuple[PictureFormat, ...]) -> dict[str, PictureFormat]:
    return {f".{ending}": kind for kind in kinds for ending in kind.endings.split()}


_READ_ENDINGS = _endings(READ)
_UNREAD_ENDINGS = _endings(UNREAD)
# mpo: phones' JPEG with several pictures.
_PICTURE_ENDINGS = frozenset((*_READ_ENDINGS, *_UNREAD_ENDINGS, ".mpo"))
HEAD = 16
"""Bytes at the start of a file by which a format is known."""


def claims_picture(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is to be taken for a picture, readable or not.

    By the ending of its name; without one by its first ``HEAD`` bytes, for which ``head`` is asked.
    """
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million Paths are slow
    if ending:
        return ending in _PICTURE_ENDINGS
    return looks_like_picture(head())


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that starts so is of a format in the table."""
    return _known_by_start(head, READ + UNREAD) is not None


def head_of(path: Path) -> bytes:
    """The first ``HEAD`` bytes of a regular file; none where it is none or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD)
    except OSError:
        return b""


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's pictures: hidden, or macOS's."""
    return name.startswith(".") and name not in (".", "..") or name == "__MACOSX"


def unread_format(name: str) -> PictureFormat | None:
    """The format that a name's ending stands for, where it is one that is not read here."""
    return _UNREAD_ENDINGS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - as above


def why_unread(head: bytes) -> str | None:
    """What a file that starts so is and how to convert it, where its format is not read here."""
    kind = _known_by_start(head, UNREAD)
    return f"{kind.name} is not read here: {kind.advice}" if kind else None


def _known_by_start(head: bytes, kinds: tuple[PictureFormat, ...]) -> PictureFormat | None:
    for kind in kinds:
        if any(head[place : place + len(sign)] == sign for place, sign in kind.starts):
            return kind
    return None
