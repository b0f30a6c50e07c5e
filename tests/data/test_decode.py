"""Decoding: allowed formats, stated colour rules, orientation, and plain reasons for the rest."""

import io
import os

import numpy as np
import pytest
from PIL import Image, features

from hgnetv2_pipeline.data import formats
from hgnetv2_pipeline.data.decode import decode_and_describe, decode_image
from hgnetv2_pipeline.data.formats import FORMATS
from hgnetv2_pipeline.errors import DataError
from image_files import encoded, huge_png


def scene(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_allowed_formats_are_known_by_content_not_by_name(tmp_path, kind):
    path = tmp_path / "named.JPEG"
    path.write_bytes(encoded(scene(), kind))
    found = decode_and_describe(path.read_bytes())
    image = found.image
    assert (
        found.format == kind
        and not found.pixels.transparent
        and image.mode == "RGB"
        and image.size == (40, 30)
    )
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(np.asarray(image), np.asarray(scene()))


def test_first_picture_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(content))[0, 0].tolist() == [255, 0, 0]


def test_a_phones_mpo_counts_as_the_jpeg_in_front():
    behind = Image.new("RGB", (16, 16), "blue")
    content = encoded(scene(), "MPO", save_all=True, append_images=[behind])
    found = decode_and_describe(content)
    assert found.format == "JPEG" and found.image.size == (40, 30)
    assert np.array_equal(
        np.asarray(found.image), np.asarray(decode_image(encoded(scene(), "JPEG")))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = np.asarray(scene())
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(plain),
    }[orientation]
    content = encoded(scene(), "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode_image(content)), turned)


@pytest.mark.parametrize("block", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0junk", b"Exif\0\0"])
def test_broken_exif_does_not_spoil_an_image(block):
    content = encoded(scene(), "JPEG", exif=block)
    assert decode_image(content).size == (40, 30)


def test_alpha_is_dropped_and_the_colour_below_stands():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, np.arange(4) * 60
    for image in (Image.fromarray(pixels), Image.fromarray(pixels[..., [0, 3]], "LA")):
        assert (np.asarray(decode_image(encoded(image, "PNG")))[..., 0] == 200).all()


def test_grey_and_palette_become_rgb():
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert np.array_equal(
        np.asarray(decode_image(encoded(grey, "PNG"))), np.asarray(grey)[..., None].repeat(3, -1)
    )
    palette = scene().quantize(16)
    palette.info["transparency"] = 0
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(np.asarray(decode_image(encoded(palette, "PNG"))), expected)


def test_of_16_bits_the_upper_8_are_kept():
    values = (np.arange(64, dtype=np.uint32) * 1040).astype(np.uint16).reshape(8, 8)
    for kind in ("PNG", "TIFF"):
        pixels = np.asarray(decode_image(encoded(Image.fromarray(values), kind)))
        assert np.array_equal(pixels, (values >> 8).astype(np.uint8)[..., None].repeat(3, -1))


def test_cmyk_becomes_rgb_by_pillows_formula():
    cmyk = Image.merge("CMYK", [Image.new("L", (8, 8), value) for value in (10, 60, 110, 20)])
    content = encoded(cmyk, "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(np.asarray(decode_image(content)), expected)


JPEG = encoded(scene(200, 150), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>403 Forbidden</html>", "web page"),
        (b"hello, this is text", "not an image"),
        (bytes(range(256)) * 8, "not an image"),
        (JPEG[: len(JPEG) // 2], "cannot be decoded"),
        (JPEG[:-2], "cannot be decoded"),
        (encoded(scene(), "PNG")[:-30], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (encoded(scene(), "PPM"), "netpbm is not read here: convert it, as by: magick"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "32-bit"),
        (huge_png(20_000), "too many pixels"),
        (huge_png(13_000), "too many pixels: 13000x13000"),
    ],
)
def test_unusable_files_are_refused_with_a_plain_reason(content, reason):
    with pytest.raises(DataError, match=reason):
        decode_image(content)


def test_a_zip_tail_behind_a_jpeg_is_ignored():
    assert decode_image(JPEG + b"PK\x03\x04 more").size == (200, 150)


def test_places_that_are_no_readable_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("absent", "missing"),
        ("pipe", "regular"),
        (".", "cannot be read|regular"),
    ):
        with pytest.raises(DataError, match=reason):
            decode_image(tmp_path / name)


def test_mutated_images_decode_or_are_refused_and_nothing_else():
    rng = np.random.default_rng(0)
    seeds = [encoded(scene(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]
    outcomes = {"decoded": 0, "refused": 0}
    for turn in range(200):
        content = bytearray(seeds[turn % len(seeds)])
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(0, 256)
        try:
            assert decode_image(bytes(content)).mode == "RGB"
            outcomes["decoded"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert outcomes["decoded"] and outcomes["refused"]


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_without_its_last_two_bytes_is_refused_and_whole_it_is_not(quality: int) -> None:
    """Of such files Pillow itself decodes a few in a hundred."""
    exif = Image.Exif()
    exif[0x010E] = "an end marker of its own: \xff\xd9"
    for seed in range(30):
        noise = np.random.default_rng(seed).integers(0, 256, (40 + seed, 61, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "JPEG", quality=quality, exif=exif)
        content = stream.getvalue()
        assert decode_image(content).size == (61, 40 + seed)
        assert decode_image(content + b"trailing bytes").size == (61, 40 + seed)
        with pytest.raises(DataError, match="cannot be decoded"):
            decode_image(content[:-2])


def several(kind: str, **options: object) -> bytes:
    frames = [scene().resize((40, 30)).rotate(90 * turn) for turn in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


SMALL = {
    "JPEG": encoded(scene().resize((40, 30)), "JPEG"),
    "progressive JPEG": encoded(scene().resize((40, 30)), "JPEG", progressive=True),
    "PNG": encoded(scene().resize((40, 30)), "PNG"),
    "palette PNG": encoded(scene().resize((40, 30)).convert("P"), "PNG"),
    "animated PNG": several("PNG"),
    "GIF": encoded(scene().resize((40, 30)).convert("P"), "GIF"),
    "animated GIF": several("GIF", loop=0),
    "WEBP": encoded(scene().resize((40, 30)), "WEBP"),
    "BMP": encoded(scene().resize((40, 30)), "BMP"),
    "TIFF": encoded(scene().resize((40, 30)), "TIFF"),
}


@pytest.mark.parametrize("case", SMALL)
def test_i02_a_file_that_ends_early_is_refused_however_little_is_missing(case):
    whole = SMALL[case]
    decode_image(whole)
    cuts = {*range(1, min(300, len(whole))), *range(1, len(whole), 97)}
    for cut in sorted(cuts):
        with pytest.raises(DataError) as told:
            decode_image(whole[:-cut])
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("case", SMALL)
def test_bytes_behind_the_end_of_a_file_do_no_harm(case):
    expected = np.asarray(decode_image(SMALL[case]))
    for tail in (b"\0", b"\r\n", b"PK\x03\x04" + bytes(40), SMALL["PNG"]):
        assert np.array_equal(np.asarray(decode_image(SMALL[case] + tail)), expected)


def test_of_a_tiff_with_several_pictures_the_first_must_be_whole():
    whole = several("TIFF")
    first = np.asarray(decode_image(whole))
    assert np.array_equal(np.asarray(decode_image(whole[:-10])), first)
    with pytest.raises(DataError):
        decode_image(whole[: len(whole) // 4])


@pytest.mark.parametrize(("style", "check"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000")])
def test_newer_formats_are_read_turned_and_refused_when_cut(style, check):
    """D16: by their content, whatever the name; the codecs are this Pillow's."""
    if not features.check(check):
        assert style not in FORMATS
        return
    turned = Image.Exif()
    turned[0x0112] = 6
    content = encoded(scene(80, 64), style, **({"exif": turned} if style == "AVIF" else {}))
    assert decode_image(content).size == ((64, 80) if style == "AVIF" else (80, 64))
    for cut in (1, 2, 10, len(content) // 2):
        with pytest.raises(DataError):
            decode_image(content[:-cut])


def test_heif_is_read_where_its_package_is_and_else_named():
    """D16: with how to convert it."""
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    if "HEIF" not in FORMATS:
        with pytest.raises(DataError, match=r"HEIF is not read here: pip install pillow-heif"):
            decode_image(head)
        return
    from pillow_heif import from_pillow

    out = io.BytesIO()
    from_pillow(scene(80, 64)).save(out)
    assert decode_image(out.getvalue()).size == (80, 64)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_image(out.getvalue()[:-2])


@pytest.mark.parametrize("kind", [kind for kind in formats.READ + formats.UNREAD if kind.starts])
def test_every_format_of_the_table_is_known_by_its_name_and_by_its_beginning(kind):
    place, sign = kind.starts[0]
    head = (b"\0" * place + sign).ljust(formats.HEAD, b"\1")
    for ending in kind.endings.split():
        assert formats.claims_picture(f"a.{ending.upper()}", lambda: b"")
        read = kind in formats.READ
        assert (formats.unread_format(f"a.{ending}") is None) == read
    assert formats.claims_picture("no_ending", lambda: head)
    if kind not in formats.READ:
        assert kind.advice and kind.name in str(formats.why_unread(head))
    assert not formats.claims_picture("a.txt", lambda: head)
