"""From the bytes of an image file to RGB pixels, by one stated rule for every kind of file.

The rules (all without torch):

* Allowed formats: JPEG, PNG, WEBP, BMP, TIFF and GIF, AVIF and JPEG 2000 where this Pillow has
  them, HEIF where pillow-heif is installed (``formats``); known by their content and never by their
  name. Of a file with several pictures (phones' MPO counts as JPEG) the first counts. Everything
  else (EPS, PDF, SVG ...) is refused, and no decoder outside the list is ever started.
* The pixel count is read from the header and checked before any pixel is decoded.
* EXIF orientation is applied; an unreadable EXIF block is ignored, with one warning a process.
* Grey is repeated in three channels. CMYK and YCbCr become RGB by Pillow's formula, without ICC
  profiles.
* Transparency (an alpha channel, a palette with alpha, one colour named as transparent) is dropped,
  and the colours below it are kept, as OpenCV does; or, with a background (``data.alpha``), every
  pixel becomes round((alpha * colour + (255 - alpha) * background) / 255), exactly, before the
  image is turned or resized. That is what Pillow's ``paste`` with a mask computes.
* Of 16 bits a channel the upper 8 are kept, or what ``depth`` says. Grey images of 16 bits have no
  transparency, of those with alpha the upper 8 are kept whatever it says. Pixels of 32-bit
  integers or floats have no fixed range and are refused.
* A file that ends early is refused, even if only the last bytes are missing: the end marks of JPEG,
  PNG, GIF and JPEG 2000 must be there, for Pillow decodes some files without. TIFF has none: of one
  with several pictures a cut behind the first is not noticed, and nothing behind it is read.
"""

from __future__ import annotations

import functools
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from hgnetv2_pipeline.data.depth import FULL, Depth, deep_levels, lower_bytes, narrow, used_depth
from hgnetv2_pipeline.data.formats import FORMATS, HEAD, why_unread
from hgnetv2_pipeline.data.regular import NOT_REGULAR, open_regular
from hgnetv2_pipeline.errors import DataError, ParameterError, unknown_name

_log = logging.getLogger(__name__)

MAX_PIXELS = 50_000_000

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
ALPHA: dict[str, Colour | None] = {
    "drop": None,
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
}
"""The names that ``data.alpha`` knows, with the background that each stands for."""

# Our own cap is stricter than the size at which Pillow starts to warn, and it is an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow suggests to keep transparency; what becomes of it is stated above.
warnings.filterwarnings("ignore", message="Palette images with Transparency", module="PIL")

_ORIENTATION_TAG = 0x0112
_DARK = 2**12
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FOREIGN = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"SIMPLE": "a FITS file",
}


@dataclass(frozen=True)
class Decoding:
    """What may be chosen about decoding; all else is fixed by the rules above.

    Attributes:
        max_pixels: width times height allowed, checked from the header.
        background: the colour behind transparent pixels; None: transparency is dropped.
        depth: which part of 16 bits a channel is seen, see ``depth``.
    """

    max_pixels: int = MAX_PIXELS
    background: Colour | None = None
    depth: Depth = FULL


DECODING = Decoding()


@dataclass(frozen=True)
class PixelFacts:
    """What the pixels of a file are like.

    Attributes:
        transparent: whether some pixel is transparent, if only in part.
        levels: the lowest and highest of 16 bits; None: it has 8.
        flat: whether all are the same.
        black: whether all are 0.
    """

    transparent: bool
    levels: tuple[int, int] | None
    flat: bool
    black: bool


@dataclass(frozen=True)
class DecodedImage:
    """An image with what its file said besides the pixels.

    Attributes:
        image: mode RGB, upright.
        format: one of ``FORMATS``.
        pixels: what they are like in the file.
    """

    image: Image.Image
    format: str
    pixels: PixelFacts


def background_of(alpha: str | Sequence[int]) -> Colour | None:
    """The background that a value of ``data.alpha`` stands for; None: transparency is dropped.

    Raises:
        ParameterError: neither a name of ``ALPHA`` nor a colour.
    """
    if isinstance(alpha, list | tuple):
        return check_colour(alpha, f"data.alpha; {', '.join(ALPHA)} are names it knows")
    if not isinstance(alpha, str) or alpha not in ALPHA:
        allowed = [*ALPHA, "[red, green, blue]"]
        raise unknown_name("treatment of transparency", alpha, allowed, "data.alpha")
    return ALPHA[alpha]


def check_colour(value: Any, where: str) -> Colour:
    """``value`` as a colour; ParameterError naming ``where`` unless it is three bytes."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or not all(type(part) is int and 0 <= part <= 255 for part in value)
    ):
        raise ParameterError(
            f"colour {value!r:.200}: red, green and blue are needed, whole numbers from 0 to 255 "
            f"({where})"
        )
    return value[0], value[1], value[2]


def read_regular_file(path: Path) -> bytes:
    """All bytes of a regular file; a FIFO or device is refused without blocking on it.

    Raises:
        DataError: the file is missing, not readable or not a regular file.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise DataError("the file is missing") from error
    except PermissionError as error:
        raise DataError("no permission to read the file") from error
    except OSError as error:
        if error.strerror == NOT_REGULAR or isinstance(error, IsADirectoryError):
            raise DataError(NOT_REGULAR) from error
        raise DataError(f"cannot be read: {error.strerror or error}") from error


def decode_image(source: Path | bytes, decoding: Decoding = DECODING) -> Image.Image:
    """Decode an image file into RGB pixels, upright.

    Args:
        source: a path, or the bytes of a file.
        decoding: how many pixels are allowed, and what becomes of transparency.

    Returns:
        A Pillow image of mode RGB, EXIF orientation applied.

    Raises:
        DataError: with a plain reason, free of the path, if the rules above refuse the file.
    """
    content = source if isinstance(source, bytes) else read_regular_file(Path(source))
    opened = open_image(content, decoding)
    image = load_image(opened, decoding)
    if decoding.depth == FULL and opened.mode.startswith("I;16"):
        _warn_of_darkness(opened)
    return image


def decode_and_describe(content: bytes, decoding: Decoding = DECODING) -> DecodedImage:
    """As ``decode_image``, and what else the file says.

    An image of 16 bits is shown by the bits that it uses itself, whatever ``decoding`` says: which
    ones a data set uses is not known before all have been described.
    """
    opened = open_image(content, decoding)
    lower = lower_bytes(opened)
    # The picture as it was opened is loaded then, with its alpha still there.
    image = load_image(opened, decoding)
    try:
        deep = deep_levels(opened, lower)
        levels = None if deep is None else (int(deep.min()), int(deep.max()))
        if levels is not None:
            own = replace(decoding, depth=used_depth(levels[1]))
            image = _upright(to_rgb(opened, own, lower), orientation(opened))
    except Exception as error:  # of the lower bytes, as of the upper ones above
        raise DataError(f"cannot be decoded: {_short(error)}") from error
    edges: Any = [levels] if levels else image.getextrema()
    pixels = PixelFacts(
        is_transparent(opened),
        levels,
        flat=all(low == high for low, high in edges),
        black=not any(high for _, high in edges),
    )
    return DecodedImage(image, str(opened.format), pixels)


def open_image(content: bytes, decoding: Decoding = DECODING) -> Image.Image:
    """The header alone, checked by the rules above; no pixel is decoded yet.

    Raises:
        DataError: as ``decode_image``.
    """
    if not content:
        raise DataError("the file is empty (0 bytes)")
    max_pixels = decoding.max_pixels
    if "HEIF" in FORMATS:
        _know_heif()
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        kind = image.format or ""
        if kind == "MPO":  # a phone's JPEG with more pictures behind the first, which alone is read
            image, kind = JpegImagePlugin.JpegImageFile(io.BytesIO(content)), "JPEG"
    except UnidentifiedImageError as error:
        raise DataError(_why_unidentified(content)) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"too many pixels, allowed are {max_pixels:,}; save a smaller copy"
        ) from error
    except Exception as error:  # a damaged header makes Pillow raise almost anything
        raise DataError(f"damaged header: {_short(error)}") from error
    if kind not in FORMATS:
        raise DataError(f"format {kind} is not allowed; allowed are {', '.join(FORMATS)}")
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"too many pixels: {width}x{height} in the header, allowed are {max_pixels:,}; "
            "save a smaller copy"
        )
    if kind in _HAS_END and not _HAS_END[kind](content):
        raise DataError("cannot be decoded: the file ends early, its end marker is missing")
    if kind == "PNG":
        _scale_transparent_colour(image)
    return image


@functools.cache
def _know_heif() -> None:
    """Tell Pillow of HEIF, which another package reads."""
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


def _scale_transparent_colour(image: Any) -> None:
    """Make the transparent colour of a PNG file as deep as its pixels will be, 8 bits.

    Pillow scales pixels of 2, 4 and 16 bits, and leaves the colour as the file has it.
    """
    colour = image.info.get("transparency")
    depth = image.tile[0].args if image.tile else None
    if depth in ("L;2", "L;4") and isinstance(colour, int):
        top = 3 if depth == "L;2" else 15
        image.info["transparency"] = (colour & top) * (255 // top)
    elif depth == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in colour)


def _jpeg_has_end(content: bytes) -> bool:
    """Whether an end marker follows the headers of a JPEG file.

    Pillow decodes a few files in a hundred that lack it: libjpeg had all pixels by then. Segments
    are stepped over by their lengths, for a thumbnail in one of them has an end of its own.
    """
    if content.endswith(_JPEG_END):  # nearly always, and there is no need to search for it
        return True
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] not in (
        _JPEG_SCAN,
        b"",
    ):
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content.rfind(_JPEG_END, place) >= 0


def _png_has_end(content: bytes) -> bool:
    """Whether the chunks of a PNG file lead to a whole IEND; anything may follow it."""
    if content.endswith(_PNG_END):
        return True
    place = 8
    while place + 12 <= len(content):
        if content[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return False


def _gif_has_end(content: bytes) -> bool:
    """Whether the blocks of a GIF file lead to its trailer; anything may follow it."""
    place = 13 + _gif_colours(content[10:11])
    while place < len(content):
        mark = content[place : place + 1]
        if mark == b"\x3b":
            return True
        if mark == b"\x21":  # an extension: its label, then blocks
            place += 2
        elif mark == b"\x2c":  # a picture: its place and size, its colours, its code size, blocks
            place += 11 + _gif_colours(content[place + 9 : place + 10])
        else:
            return True  # no GIF as it should be; whether it can be decoded, Pillow knows
        while place < len(content) and content[place]:
            place += 1 + content[place]
        place += 1
    return False


def _gif_colours(flags: bytes) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _jpeg_2000_has_end(content: bytes) -> bool:
    """Whether a JPEG 2000 file has the end marker of its codestream, whatever follows it."""
    return content.rfind(_JPEG_END) >= 0


_HAS_END = {
    "JPEG2000": _jpeg_2000_has_end,
    "JPEG": _jpeg_has_end,
    "PNG": _png_has_end,
    "GIF": _gif_has_end,
}


def load_image(image: Image.Image, decoding: Decoding = DECODING) -> Image.Image:
    """The pixels behind a header from ``open_image``: mode RGB, upright.

    Raises:
        DataError: as ``decode_image``.
    """
    try:
        lower = None if decoding.depth == FULL else lower_bytes(image)
        image.load()
        return _upright(to_rgb(image, decoding, lower), orientation(image))
    except DataError:
        raise
    except Exception as error:  # a damaged body makes Pillow raise almost anything
        raise DataError(f"cannot be decoded: {_short(error)}") from error


def to_rgb(
    image: Image.Image, decoding: Decoding = DECODING, lower: Image.Image | None = None
) -> Image.Image:
    """``image`` in mode RGB by the rules above; DataError for 32-bit pixels.

    ``lower``: its ``depth.lower_bytes``, of a colour image of 16 bits.
    """
    background = decoding.background
    if lower is not None:
        image = _narrowed(image, lower, decoding.depth)
    if background is not None and may_be_transparent(image):
        coloured = _with_alpha(image)
        behind = Image.new("RGB", image.size, background)
        behind.paste(coloured.convert("RGB"), mask=coloured.getchannel("A"))
        return behind
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16)
        return Image.fromarray(narrow(levels, decoding.depth)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError("32-bit pixels have no fixed range; save the image with 8 or 16 bits")
    return image.convert("RGB")


def _warn_of_darkness(image: Image.Image) -> None:
    """Say once that a file of 16 bits is nearly black, for want of a depth that would show it."""
    highest = int(np.asarray(image).max())
    if highest < _DARK:
        _warn_once(
            "a grey file of 16 bits uses the lower 12 of them alone and is nearly black to a model "
            "or list that was made without a depth (data.depth)"
        )


def _narrowed(image: Image.Image, lower: Image.Image, depth: Depth) -> Image.Image:
    """A colour image of 16 bits in 8, its alpha as Pillow has it."""
    levels = deep_levels(image, lower)
    assert levels is not None, "it has lower bytes"  # noqa: S101
    narrowed = Image.fromarray(narrow(levels, depth))
    if may_be_transparent(image):
        narrowed.putalpha(_with_alpha(image).getchannel("A"))
    return narrowed


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixel of a loaded image is transparent, if only in part."""
    if not may_be_transparent(image):
        return False
    try:
        lowest, _ = _with_alpha(image).getchannel("A").getextrema()
    except Exception:  # damaged data, which does no harm where transparency is dropped
        return True
    return lowest < 255  # type: ignore[operator]  # of one channel it is a number


def may_be_transparent(image: Image.Image) -> bool:
    """Whether an image has alpha of any kind, by its mode and header; no pixel need be loaded."""
    # Pixels of 16 and 32 bits (modes I;16, I, F) have none that Pillow could show.
    return image.mode[0] not in "IF" and image.has_transparency_data


def _with_alpha(image: Image.Image) -> Image.Image:
    """The image in mode RGBA. A premultiplied grey one has no direct way there in Pillow."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; of a loaded image, for Pillow turns a TIFF as it loads it."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # broken EXIF takes many forms and never spoils the pixels
        _warn_once(f"an EXIF block cannot be read and is ignored ({_short(error)})")
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


@functools.lru_cache(maxsize=16)
def _warn_once(message: str) -> None:
    _log.warning("%s; said once in this process", message)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def _why_unidentified(content: bytes) -> str:
    start = content[:512].lstrip()
    allowed = f"allowed are {', '.join(FORMATS)}"
    if start[:1] == b"<":
        return f"a web page or XML text, not an image; {allowed}"
    if (unread := why_unread(content[:HEAD])) is not None:
        return f"{unread}; {allowed}"
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            return f"{what}, not an image of an allowed format; {allowed}"
    return f"not an image of an allowed format; {allowed}"
