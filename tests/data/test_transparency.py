"""Transparency: dropped as ever, or composited on a background by one exact rule in every mode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from hgnetv2_pipeline.data import decode, index
from hgnetv2_pipeline.data.decode import DECODING, Decoding, background_of, decode_image
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.report import contact_sheet
from hgnetv2_pipeline.data.resized import resized_copy
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.durable import sha256_json
from hgnetv2_pipeline.errors import DataError, ParameterError
from image_files import encoded, put

Bytes = npt.NDArray[np.uint8]
SIDE = 16
WHITE, ODD = (255, 255, 255), (250, 3, 129)
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
GREY = RNG.integers(0, 256, (SIDE, SIDE), np.uint8)
ALPHA = RNG.integers(0, 256, (SIDE, SIDE), np.uint8)
ALPHA[:2], ALPHA[2:4] = 0, 255


def composited(colours: Bytes, alpha: Bytes, background: tuple[int, int, int]) -> Bytes:
    """The stated rule in whole numbers; + 127 rounds to the nearest, for 255 has no half."""
    opacity = alpha.astype(np.int64)[..., None]
    total = opacity * colours + (255 - opacity) * np.array(background)
    return ((total + 127) // 255).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, kind: int, rows: Bytes, named: bytes) -> bytes:
    """A PNG file of packed ``rows`` [H, bytes] in which one colour, ``named``, is transparent."""
    width = rows.shape[1] * 8 // (depth * (3 if kind == 2 else 1))
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", named)
        + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )  # fmt: skip


def packed_grey(depth: int) -> tuple[bytes, Bytes, Bytes]:
    """Grey of few bits, its level 1 transparent."""
    levels = RNG.integers(0, 2**depth, (8, 8), np.uint8)
    levels[2, 5] = 1
    bits = np.unpackbits(levels[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(8, -1), axis=1)
    grey = (levels.astype(int) * 255 // (2**depth - 1)).astype(np.uint8)
    alpha = np.where(levels == 1, 0, 255).astype(np.uint8)
    return png(depth, 0, rows, b"\0\1"), grey[..., None].repeat(3, -1), alpha


def palette(transparency: int | bytes, kind: str = "PNG") -> tuple[bytes, Bytes, Bytes]:
    colours = RNG.integers(0, 256, (8, 3), np.uint8)
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % 8
    image = Image.fromarray(numbers, "P")
    image.putpalette(colours.tobytes())
    table = np.full(8, 255, np.uint8)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[: len(transparency)] = list(transparency)
    content = encoded(image, kind, transparency=transparency)
    return content, colours[numbers], table[numbers]


def saved(kind: str, *parts: Bytes, mode: str = "RGBA", **options: Any) -> bytes:
    """A file of these channels."""
    bands = [Image.fromarray(np.ascontiguousarray(part)) for part in parts]
    return encoded(Image.merge(mode, bands), kind, **options)


def channels(rgb: Bytes) -> list[Bytes]:
    return [rgb[..., band] for band in range(3)]


def one_colour(depth: int) -> tuple[bytes, Bytes, Bytes]:
    """Red, green and blue of ``depth`` bits, one pixel's colour transparent."""
    rgb = RNG.integers(0, 2**depth, (8, 8, 3), dtype=np.uint16)
    rgb[3, 4] = rgb[0, 0]
    rows = (rgb if depth == 8 else rgb.astype(">u2")).reshape(8, -1)
    rows = rows.astype(np.uint8) if depth == 8 else rows.view(np.uint8).reshape(8, -1)
    alpha = np.where((rgb == rgb[0, 0]).all(-1), 0, 255).astype(np.uint8)
    named = rgb[0, 0].astype(">u2").tobytes()
    return png(depth, 2, rows, named), (rgb >> (depth - 8)).astype(np.uint8), alpha


def lossless_webp() -> tuple[bytes, Bytes, Bytes]:
    return saved("WEBP", *channels(RGB), ALPHA, lossless=True, exact=True), RGB, ALPHA


def premultiplied_tiff() -> tuple[bytes, Bytes, Bytes]:
    """As Pillow reads it: the colours divided by alpha again. It writes no such file itself."""
    low = (RGB.astype(int) * ALPHA[..., None] // 255).astype(np.uint8)
    plain = saved("TIFF", *channels(low), ALPHA)
    entry = struct.pack("<HHIH", 338, 3, 1, 2)  # ExtraSamples: alpha that nothing is multiplied by
    assert plain.count(entry) == 1
    content = plain.replace(entry, struct.pack("<HHIH", 338, 3, 1, 1))
    read = np.asarray(Image.open(io.BytesIO(content)))
    assert not np.array_equal(read[..., :3], low)
    return content, read[..., :3], read[..., 3]


FILES: dict[str, Callable[[], tuple[bytes, Bytes, Bytes]]] = {
    "RGBA PNG": lambda: (saved("PNG", *channels(RGB), ALPHA), RGB, ALPHA),
    "LA PNG": lambda: (
        saved("PNG", GREY, ALPHA, mode="LA"), GREY[..., None].repeat(3, -1), ALPHA
    ),
    "RGBA TIFF": lambda: (saved("TIFF", *channels(RGB), ALPHA), RGB, ALPHA),
    "LA TIFF": lambda: (
        saved("TIFF", GREY, ALPHA, mode="LA"), GREY[..., None].repeat(3, -1), ALPHA
    ),
    "premultiplied TIFF": premultiplied_tiff,
    "RGBA WEBP": lossless_webp,
    "palette PNG, one entry": lambda: palette(3),
    "palette PNG, shades": lambda: palette(bytes([0, 60, 200, 255, 128])),
    "GIF": lambda: palette(2, "GIF"),
    "grey PNG, one level": lambda: packed_grey(8),
    "grey PNG of 1 bit": lambda: packed_grey(1),
    "grey PNG of 2 bits": lambda: packed_grey(2),
    "grey PNG of 4 bits": lambda: packed_grey(4),
    "RGB PNG, one colour": lambda: one_colour(8),
    "RGB PNG of 16 bits, one colour": lambda: one_colour(16),
}  # fmt: skip


@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), ODD])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_laid_on_the_background_by_the_stated_rule(
    name: str, background: tuple[int, int, int]
) -> None:
    """Row I04: every kind of transparency that a file can have."""
    content, colours, alpha = FILES[name]()
    assert (alpha < 255).any()
    found = decode.decode_and_describe(content, Decoding(background=background))
    assert np.array_equal(np.asarray(found.image), composited(colours, alpha, background))
    assert found.pixels.transparent
    # And dropped it is what it always was: the colours as they are.
    dropped = np.asarray(decode_image(content))
    assert np.array_equal(dropped, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    assert np.array_equal(dropped, colours)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La", "P", "L", "RGB", "1"])
def test_an_image_of_pillow_follows_the_same_rule(mode: str) -> None:
    whole = Image.fromarray(np.dstack([RGB, ALPHA]))
    if mode == "P":
        image = whole.convert("RGB").quantize(16)
        image.info["transparency"] = 2
    elif mode in ("L", "RGB", "1"):
        image = whole.convert("RGB").convert(mode)
        image.info["transparency"] = image.getpixel((3, 3))
    elif mode == "PA":
        image = Image.merge("LA", [Image.fromarray(GREY % 8), Image.fromarray(ALPHA)])
        image = image.convert("PA")
    else:
        image = whole if mode == "RGBA" else whole.convert("LA" if mode in ("LA", "La") else mode)
        image = image.convert(mode)
    assert image.mode == mode
    plain = np.asarray(image.convert("LA" if mode == "La" else "RGBA").convert("RGBA"))
    expected = composited(plain[..., :3], plain[..., 3], ODD)
    assert np.array_equal(np.asarray(decode.to_rgb(image, Decoding(background=ODD))), expected)
    square = Preprocess(resize_short=SIDE, crop=SIDE, background=ODD)
    assert np.array_equal(square.image(image), expected)


def test_the_rounding_is_exact_for_every_alpha_and_every_colour() -> None:
    levels = np.arange(256, dtype=np.uint8)
    colours = np.broadcast_to(levels, (256, 256))
    alpha = colours.T.copy()
    image = Image.fromarray(np.dstack([colours] * 3 + [alpha]))
    for background in zip(*np.arange(255).reshape(3, 85).tolist(), strict=True):
        found = np.asarray(decode.to_rgb(image, Decoding(background=background)))
        wanted = np.rint(
            (alpha[..., None] / 255) * colours[..., None]
            + (1 - alpha[..., None] / 255) * np.array(background)
        )
        assert np.array_equal(found, wanted.astype(np.uint8))
        assert np.array_equal(found, composited(np.dstack([colours] * 3), alpha, background))


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(RGB), "PNG"),
        encoded(Image.fromarray(RGB), "JPEG"),
        encoded(Image.fromarray(GREY), "PNG"),
        encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        png(16, 0, (GREY.astype(np.uint16) * 257).astype(">u2").view(np.uint8), b"\0\0"),
        saved("PNG", *channels(RGB), np.full_like(ALPHA, 255)),
    ],
    ids=["RGB", "JPEG", "grey", "CMYK", "16 bits", "16 bits with a colour named", "opaque RGBA"],
)
def test_an_image_without_transparency_has_the_same_pixels_on_any_background(
    content: bytes,
) -> None:
    found = decode.decode_and_describe(content, Decoding(background=ODD))
    assert not found.pixels.transparent
    assert np.array_equal(np.asarray(found.image), np.asarray(decode_image(content)))


def palette_png(transparency: bytes) -> bytes:
    """A PNG file with a palette of four colours and any table of their alpha."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    lines = zlib.compress((b"\0" + bytes([0, 1, 2, 3] * 2)) * 8)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(range(12)))
        + chunk(b"tRNS", transparency) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )  # fmt: skip


def test_damaged_transparency_does_no_harm_where_it_is_dropped() -> None:
    content = palette_png(b"\5" * 300)
    found = decode.decode_and_describe(content)
    assert found.pixels.transparent
    assert np.asarray(found.image)[0, :4].reshape(-1).tolist() == list(range(12))
    with pytest.raises(DataError, match="cannot be decoded"):
        decode.decode_and_describe(content, Decoding(background=WHITE))
    whole = decode.decode_and_describe(palette_png(b"\5\5"), Decoding(background=WHITE))
    assert np.asarray(whole.image)[0, 3].tolist() == [9, 10, 11]


def test_the_background_is_laid_before_the_image_is_turned_and_resized() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved("PNG", *channels(RGB), ALPHA, exif=exif)
    upright = np.rot90(composited(RGB, ALPHA, WHITE), -1)
    white = Preprocess(resize_short=24, crop=20, background=WHITE)
    assert np.array_equal(np.asarray(decode_image(content, white.decoding)), upright)
    assert np.array_equal(white.image(content), white.image(Image.fromarray(upright.copy())))


HIDDEN = [(0, 0, 0), (255, 0, 255), (17, 201, 90), (255, 255, 255)]


def icon(hidden: tuple[int, int, int]) -> bytes:
    """One picture whose transparent pixels hide a colour of their own."""
    y, x = np.mgrid[:48, :48]
    alpha = np.clip(600 - 3 * (np.abs(x - 24) + np.abs(y - 24)) ** 2 // 4, 0, 255)
    colours = np.dstack([x * 5, y * 5, 255 - x * 3]).astype(np.uint8)
    colours[alpha == 0] = hidden
    return saved("PNG", *channels(colours), alpha.astype(np.uint8))


def test_what_is_hidden_below_transparent_pixels_changes_an_input_only_when_alpha_is_dropped() -> (
    None
):
    white, dropped = Preprocess(40, 32, background=WHITE), Preprocess(40, 32)
    seen = {white.image(icon(colour)).tobytes() for colour in HIDDEN}
    assert len(seen) == 1
    assert len({dropped.image(icon(colour)).tobytes() for colour in HIDDEN}) == len(HIDDEN)


@pytest.mark.parametrize(
    ("alpha", "background"),
    [
        ("drop", None), ("white", WHITE), ("black", (0, 0, 0)), ("grey", (128, 128, 128)),
        ([1, 2, 3], (1, 2, 3)), ((0, 0, 255), (0, 0, 255)),
    ],
)  # fmt: skip
def test_a_setting_stands_for_a_background(
    alpha: Any, background: tuple[int, int, int] | None
) -> None:
    assert background_of(alpha) == background


@pytest.mark.parametrize(
    "alpha", ["wite", "", None, False, 5, [1, 2], [1, 2, 256], [1, 2, -1], [1, 2.0, 3], [True] * 3]
)
def test_another_setting_is_refused_and_the_allowed_ones_are_named(alpha: Any) -> None:
    with pytest.raises(ParameterError, match=r"drop, white, black, grey") as refused:
        background_of(alpha)
    assert "data.alpha" in str(refused.value) and "blue" in str(refused.value)


@pytest.mark.parametrize("value", ["white", [1, 2], [1, 2, 300], 7, [0.5, 1, 1]])
def test_preprocessing_refuses_what_is_no_colour(value: Any) -> None:
    with pytest.raises(ParameterError, match="whole numbers from 0 to 255"):
        Preprocess.from_dict({"background": value})


def test_preprocessing_speaks_of_a_background_only_where_there_is_one() -> None:
    """The fingerprint of before, written out: weights and scores that are there stay what they
    are."""
    plain = {
        "resize_short": 232, "crop": 224, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "interpolation": "bicubic", "max_pixels": 50_000_000,
    }  # fmt: skip
    assert Preprocess().to_dict() == plain == Preprocess.from_dict(plain).to_dict()
    assert Preprocess().fingerprint == sha256_json(plain)
    white = Preprocess(background=WHITE)
    assert white.to_dict() == plain | {"background": [255, 255, 255]}
    assert Preprocess.from_dict(white.to_dict()) == white
    assert white.fingerprint != Preprocess().fingerprint
    assert Preprocess.from_dict(plain | {"background": None}) == Preprocess()


@pytest.fixture
def samples(tmp_path: Path) -> pd.DataFrame:
    put(tmp_path, {f"{number}.png": icon(hidden) for number, hidden in enumerate(HIDDEN)})
    put(tmp_path, {"plain.jpg": encoded(Image.fromarray(RGB), "JPEG")})
    return scan_unlabelled(tmp_path).samples


def test_a_scan_counts_images_in_which_a_pixel_is_transparent(
    samples: pd.DataFrame, tmp_path: Path
) -> None:
    put(tmp_path, {"opaque.png": saved("PNG", *channels(RGB), np.full_like(ALPHA, 255))})
    for threads in (1, 3):
        scan = scan_unlabelled(tmp_path, threads=threads)
        assert (scan.examined, scan.transparent) == (6, 4)


def test_an_index_keeps_its_background_and_without_one_its_bytes(
    samples: pd.DataFrame, tmp_path: Path
) -> None:
    plain = index.write_index(tmp_path / "plain.parquet", samples)
    again = index.write_index(tmp_path / "again.parquet", index.with_decoding(samples, DECODING))
    assert plain.read_bytes() == again.read_bytes()
    assert list(index.read_index(plain).columns) == list(index.SCHEMA)
    assert index.decoding_in(plain) == index.decoding_of(index.read_index(plain)) == Decoding()

    white = index.with_decoding(samples, Decoding(background=WHITE))
    path = index.write_index(tmp_path / "white.parquet", white)
    read = index.read_index(path)
    assert index.decoding_in(path) == index.decoding_of(read) == Decoding(background=WHITE)
    assert index.images_hash(read) != index.images_hash(samples)
    for row in read.itertuples(index=False):
        expected = decode_image(tmp_path / row.path, Decoding(background=WHITE))
        assert np.array_equal(np.asarray(index.read_image(row, tmp_path)), np.asarray(expected))
    assert index.with_decoding(white, DECODING).equals(samples)


def test_one_frame_has_one_background(samples: pd.DataFrame, tmp_path: Path) -> None:
    mixed = pd.concat(
        [
            index.with_decoding(samples[:2], Decoding(background=WHITE)),
            index.with_decoding(samples[2:], Decoding(background=ODD)),
        ]
    )
    with pytest.raises(DataError, match="data.alpha"):
        index.decoding_of(mixed)
    with pytest.raises(DataError, match="data.alpha"):
        index.decoding_in(index.write_index(tmp_path / "mixed.parquet", mixed))
    with pytest.raises(DataError, match="#rrggbb"):
        index.decoding_of(samples.assign(background="white"))


def test_a_contact_sheet_shows_the_background(samples: pd.DataFrame, tmp_path: Path) -> None:
    icons = samples[samples["format"] == "PNG"]
    sheets = [
        np.asarray(
            contact_sheet(
                index.with_decoding(icons.iloc[[at]], Decoding(background=WHITE)), tmp_path
            )
        )
        for at in range(len(HIDDEN))
    ]
    assert all(np.array_equal(sheet, sheets[0]) for sheet in sheets)
    assert (sheets[0][3, 3] == 255).all()
    dropped = np.asarray(contact_sheet(icons.iloc[[1]], tmp_path))
    assert dropped[3, 3].tolist() == list(HIDDEN[1])


def large_icons(root: Path) -> pd.DataFrame:
    """Noise, whose files a copy makes smaller; in one corner of each another colour is hidden."""
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 4), np.uint8)
    noise[:32, :32, 3] = 0
    for number, hidden in enumerate(HIDDEN):
        noise[:32, :32, :3] = hidden
        put(root, {f"{number}.png": encoded(Image.fromarray(noise))})
    return scan_unlabelled(root).samples


def test_a_resized_copy_is_laid_on_the_background_and_made_again_for_another(
    samples: pd.DataFrame, tmp_path: Path
) -> None:
    root = tmp_path / "large"
    icons = large_icons(root)
    copy = resized_copy(
        index.with_decoding(icons, Decoding(background=WHITE)),
        root,
        tmp_path / "copy",
        short_side=32,
    )
    rows = index.read_index(copy)
    files = {index.read_bytes(row, copy.parent) for _, row in rows.iterrows()}
    assert len(files) == 1, "four files of one picture"
    assert index.decoding_in(copy) == Decoding(background=WHITE)
    assert (np.asarray(decode_image(files.pop()))[:8, :8] > 240).all()
    dropped = index.read_index(resized_copy(icons, root, tmp_path / "copy", short_side=32))
    files = {index.read_bytes(row, copy.parent) for _, row in dropped.iterrows()}
    assert len(files) == len(HIDDEN)
