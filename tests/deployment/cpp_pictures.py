"""Pictures of odd sizes and of every kind that JPEG and PNG have, for C++ against Python."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

Random = np.random.Generator
_MOST = 640
# Depth, colour type and channels of PNG files.
_PNG = (
    (1, 0, 1), (2, 0, 1), (4, 0, 1), (8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3), (1, 3, 1),
    (2, 3, 1), (4, 3, 1), (8, 3, 1), (8, 4, 2), (16, 4, 2), (8, 6, 4), (16, 6, 4),
)  # fmt: skip
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip
_XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def make_pictures(count: int, seed: int = 20) -> Iterator[tuple[str, bytes]]:
    """What each is, and the bytes of its file; every third a JPEG."""
    random = np.random.default_rng(seed)
    for number in range(count):
        width, height = _size(random, number)
        if number % 3 == 0:
            what, content = _jpeg(random, number // 3, width, height)
        else:
            what, content = _png(random, number, width, height)
        yield f"{number}: {what}, {width}x{height}", content


def _size(random: Random, number: int) -> tuple[int, int]:
    width, height = (int(edge) for edge in random.integers(1, _MOST, 2))
    if number % 10 == 1:  # a sliver, of which Python resizes what the crop needs
        width, height = int(random.integers(4000, 9000)), int(random.integers(1, 3))
    elif number % 10 == 2:  # lower by more than half, which Pillow 13 resizes height first
        height = int(random.integers(1500, 2500))
    return (height, width) if number % 20 > 10 else (width, height)


def _colours(random: Random, width: int, height: int) -> Image.Image:
    """Soft colours and noise: resizing rounds to every side."""
    few = random.integers(0, 256, (*random.integers(2, 30, 2), 3), np.uint8)
    soft = np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))
    noise = random.integers(-20, 21, (height, width, 3))
    return Image.fromarray((soft.astype(np.int64) + noise).clip(0, 255).astype(np.uint8))


def _jpeg(random: Random, number: int, width: int, height: int) -> tuple[str, bytes]:
    file, mode = io.BytesIO(), ("RGB", "RGB", "RGB", "L", "CMYK")[number % 5]
    image = _colours(random, width, height).convert(mode)
    turned = int(random.integers(1, 9))
    options: dict[str, object] = {
        "quality": int(random.integers(20, 99)),
        "progressive": number % 2 == 1,
        "restart_marker_blocks": int(random.integers(0, 3)),
    }
    if mode == "RGB":
        options["subsampling"] = int(random.integers(0, 3))
    if number % 3 == 0:
        options["exif"] = exif(turned)
    elif number % 3 == 1:
        options["xmp"] = _XMP % turned
    if number % 7 == 6 and mode != "CMYK":
        image.save(file, "MPO", save_all=True, append_images=[image.rotate(90)], exif=exif(turned))
        return f"MPO {mode}", file.getvalue()
    image.save(file, "JPEG", **options)
    return f"JPEG {mode} {sorted(options)}", file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block that says so, as JPEG files have it."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def _png(random: Random, number: int, width: int, height: int) -> tuple[str, bytes]:
    depth, colour, channels = _PNG[number % len(_PNG)]
    bytes_a_pixel = channels * depth // 8
    interlaced = bytes_a_pixel > 0 and random.random() < 0.3
    if bytes_a_pixel:
        values = random.integers(0, 256, (height, width, bytes_a_pixel), np.uint8)
        values[..., 0] = np.add.outer(np.arange(height), 2 * np.arange(width)) % 256
    else:
        values = random.integers(0, 256, (height, (width * depth + 7) // 8, 1), np.uint8)
    passes = (
        [values[y::down, x::across] for y, x, down, across in _ADAM7] if interlaced else [values]
    )
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *_ancillary(random, depth, colour)]
    after = [(b"eXIf", exif(int(random.integers(1, 9)))[6:])] if random.random() < 0.3 else []
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [*chunks, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    )
    names = " ".join(name.decode() for name, _ in chunks[1:] + after)
    return f"PNG depth {depth} colour {colour} {'interlaced ' * interlaced}{names}", content


def _ancillary(random: Random, depth: int, colour: int) -> list[tuple[bytes, bytes]]:
    """Palette, transparency and how the picture was held, at random."""
    found = []
    if colour == 3:
        entries = int(random.integers(1, 2**depth + 1))  # pixels beyond the palette are black
        found.append((b"PLTE", random.integers(0, 256, 3 * entries, np.uint8).tobytes()))
        if random.random() < 0.7:
            some = int(random.integers(1, entries + 1))
            found.append((b"tRNS", random.integers(0, 256, some, np.uint8).tobytes()))
    elif colour in (0, 2) and random.random() < 0.7:
        levels = random.integers(0, 2**depth, 1 if colour == 0 else 3)
        found.append((b"tRNS", struct.pack(f">{len(levels)}H", *(int(one) for one in levels))))
    turned = int(random.integers(1, 9))
    if random.random() < 0.2:
        found.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP % turned))
    elif random.random() < 0.2:
        block = exif(turned)
        profile = b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"
        found.append((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)))
    return found
