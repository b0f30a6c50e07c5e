"""Pictures: the crop of any file has Pillow's pixels, however it was decoded and however far."""

import io
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline.data.decode import decode_image
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input import jpeg
from hgnetv2_pipeline.input.lazy_image import LazyImage

NOISE = np.random.default_rng(0).integers(0, 256, (133, 97, 3), np.uint8)


def by_pillow(mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "JPEG", quality=80, **options)
    return file.getvalue()


def by_opencv(sampling: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return cv2.imencode(".jpg", NOISE, options)[1].tobytes()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return by_pillow(exif=exif)


KINDS = {
    "4:2:0": by_pillow(subsampling=2),
    "4:2:2": by_pillow(subsampling=1),
    "4:4:4": by_pillow(subsampling=0),
    "4:4:0": by_opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": by_opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "grey": by_pillow("L"),
    "CMYK": by_pillow("CMYK"),
    "progressive": by_pillow(progressive=True),
    "restart markers": by_pillow(restart_marker_rows=1),
    "own tables": by_pillow(optimize=True),
    **{f"EXIF {n}": turned(n) for n in range(1, 9)},
}
BASELINE = ("4:2:0", "4:2:2", "4:4:4", "4:4:0", "4:1:1", "grey", "restart markers", "own tables")


@pytest.mark.parametrize("decoder", ["as installed", "Pillow alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_has_pillows_pixels(kind, decoder, monkeypatch):
    if decoder == "Pillow alone":
        monkeypatch.setattr(jpeg, "optional", lambda name: None)
    content = KINDS[kind]
    whole = np.asarray(decode_image(content))
    picture = LazyImage(content)
    assert picture.size == whole.shape[1::-1]
    assert np.array_equal(picture.pixels(), whole)
    rng = np.random.default_rng(1)
    for _ in range(10):
        left, top = (int(rng.integers(0, side - 1)) for side in picture.size)
        width = int(rng.integers(1, picture.size[0] - left + 1))
        height = int(rng.integers(1, picture.size[1] - top + 1))
        got = LazyImage(content).crop(left, top, width, height)
        assert np.array_equal(got, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("kind", KINDS)
def test_a_shortened_file_decodes_to_the_same_rows(kind):
    content, height = KINDS[kind], Image.open(io.BytesIO(KINDS[kind])).height
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    saved = 0
    for bottom in range(1, height + 1):
        shorter, rows = jpeg._shortened(content, bottom, height)
        assert bottom <= rows <= height and len(shorter) == len(content)
        if rows < height:
            saved += 1
            if bottom % 7 == 0:
                pixels = np.asarray(Image.open(io.BytesIO(shorter)).convert("RGB"))
                assert pixels.shape[0] == rows
                assert np.array_equal(pixels[:bottom], whole[:bottom])
    expected = kind in BASELINE or kind == "CMYK" or kind.startswith("EXIF")
    assert (saved > height // 2) == expected


class StandIn:
    """simplejpeg's place: counts, decodes as told."""

    def __init__(self, answer):
        self.answer, self.heights = answer, []

    def decode_jpeg(self, content, strict):
        image = Image.open(io.BytesIO(content))
        self.heights.append(image.height)
        return self.answer(np.asarray(image.convert("RGB")))


def refuse(pixels):
    raise ValueError("not for me")


@pytest.mark.parametrize("answer", [lambda pixels: pixels, lambda pixels: pixels[:4], refuse])
def test_rows_below_the_crop_are_not_decoded_and_failures_are_pillows(answer, monkeypatch):
    decoder = StandIn(answer)
    monkeypatch.setattr(jpeg, "optional", {"simplejpeg": decoder, "cv2": None}.get)
    content = KINDS["4:2:0"]
    whole = np.asarray(decode_image(content))
    picture = LazyImage(content)
    assert np.array_equal(picture.crop(5, 10, 20, 30), whole[10:40, 5:25])
    assert decoder.heights == [48]
    assert np.array_equal(picture.pixels(), whole)


def test_a_file_that_ends_early_is_refused_though_the_crop_is_there():
    content = KINDS["4:2:0"]
    for cut in (content[:-2], content[: len(content) // 2]):
        with pytest.raises(DataError, match="cannot be decoded"):
            LazyImage(cut).crop(0, 0, 97, 8)


def test_pixels_at_hand_are_a_picture():
    assert np.array_equal(LazyImage.of(NOISE).crop(3, 4, 10, 20), NOISE[4:24, 3:13])
    assert np.array_equal(LazyImage.of(NOISE).pixels(), NOISE)


def test_the_package_that_is_missing_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "nowhere_to_be_found", None)
    assert jpeg.optional("nowhere_to_be_found") is None and jpeg.optional("cv2") is cv2


def transcribed(content: bytes, short: int, crop: int) -> np.ndarray:
    """The stated arithmetic once more, written apart from the package: NumPy and Pillow."""
    image = Image.open(io.BytesIO(content))
    tag = image.getexif().get(0x0112, 1)
    pixels = np.asarray(image.convert("RGB"))
    if tag in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    high, wide = pixels.shape[:2]
    scale = min(high, wide)
    new = (round(wide * short / scale), round(high * short / scale))
    out = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(new, Image.BICUBIC))
    left, top = (new[0] - crop) // 2, (new[1] - crop) // 2
    out = out[top : top + crop, left : left + crop].astype(np.float32) / np.float32(255)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return ((out - mean) / std).transpose(2, 0, 1)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["JPEG", "PNG"]),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    orientation=st.integers(1, 8),
    progressive=st.booleans(),
    subsampling=st.sampled_from([0, 1, 2]),
)
def test_preprocessing_of_any_file_equals_a_transcription(
    kind, mode, size, orientation, progressive, subsampling
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    mode = "RGB" if (kind, mode) == ("PNG", "CMYK") else mode
    options = {"progressive": progressive, "subsampling": subsampling} if kind == "JPEG" else {}
    file = io.BytesIO()
    scene = Image.fromarray(NOISE).resize(size).convert(mode)
    scene.save(file, kind, exif=exif, **options)
    preprocess = Preprocess(resize_short=36, crop=32)
    got = preprocess(file.getvalue())
    assert np.array_equal(got, transcribed(file.getvalue(), 36, 32))
    pixels = LazyImage(file.getvalue()).pixels()
    assert np.array_equal(preprocess.normalize(preprocess.cut(pixels)[None])[0], got)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_header_is_read_as_pillow_reads_it(kind):
    # Pillow writes the orientation 1 as an EXIF segment like any other.
    ordinary = kind != "CMYK" and not kind.startswith("EXIF")
    assert jpeg.ordinary_size(KINDS[kind]) == ((97, 133) if ordinary else None)
    assert jpeg.ordinary_size(KINDS[kind][:-1]) is None
    assert jpeg.ordinary_size(KINDS[kind][:40] + jpeg.END) is None


@settings(max_examples=300)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    places=st.lists(st.integers(2, 640), min_size=1, max_size=3),
    value=st.integers(0, 255),
)
def test_no_spoiled_header_is_taken_for_another_picture(kind, places, value):
    spoiled = bytearray(KINDS[kind])
    for place in places:
        spoiled[place] = value
    size = jpeg.ordinary_size(bytes(spoiled))
    try:
        image = Image.open(io.BytesIO(bytes(spoiled)))
    except (OSError, SyntaxError):
        return  # told by the pixels, which nothing decodes, or by Pillow where asked
    if size is not None and min(size):
        assert (image.format, image.size) == ("JPEG", size)
        assert image.mode in ("L", "RGB") and "exif" not in image.info
