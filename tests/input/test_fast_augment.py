"""The fast path beside Pillow: the same tables, and how far resizing and geometry may differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.sample_rng import keyed_rng
from hgnetv2_pipeline.input import fast_augment
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.device_operations import augment
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.pillow_resize import resize_exactly, resize_span
from hgnetv2_pipeline.input.randaugment import (
    FURTHER,
    INCREASING,
    PLAIN,
    level_of_factor,
    operate,
)
from image_files import encoded

FILL = (124, 116, 104)
# Largest difference to Pillow, in levels. Rotation has another cubic kernel (a = -0.75, not -1).
LIMITS = {
    "ShearX": 3,
    "ShearY": 3,
    "TranslateXRel": 1,
    "TranslateYRel": 1,
    "Color": 1,
    "ColorIncreasing": 1,
    "Rotate": 40,
}


def difference(first, second) -> np.ndarray:
    return np.abs(np.asarray(first).astype(int) - np.asarray(second))


def test_there_is_a_twin_of_every_operation():
    assert set(fast_augment.OPERATIONS) == {*INCREASING, *PLAIN, *FURTHER}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, 3.3, 7.0, 10.0])
@pytest.mark.parametrize("name", sorted({*INCREASING, *PLAIN}))
def test_each_operation_stays_by_pillows_pixels(photo, name, level, sign):
    expected = {**INCREASING, **PLAIN}[name](photo, level, sign, FILL)
    pixels = np.asarray(photo)
    got = fast_augment.OPERATIONS[name](pixels, level, sign, FILL)
    assert got.shape == pixels.shape and got.dtype == np.uint8
    off = difference(got, expected)
    assert off.max() <= LIMITS.get(name, 0)
    assert off.mean() <= (1.5 if name == "Rotate" else 0.15)
    assert np.array_equal(pixels, np.asarray(photo))


@pytest.mark.parametrize("name", sorted({*INCREASING, *PLAIN}))
@pytest.mark.parametrize("size", [(1, 1), (2, 30), (30, 2)])
def test_one_colour_and_small_images_come_out_as_pillows(name, size):
    for colour in ((0, 0, 0), (7, 200, 255)):
        image = Image.new("RGB", size, colour)
        expected = {**INCREASING, **PLAIN}[name](image, 7.0, -1.0, FILL)
        got = fast_augment.OPERATIONS[name](np.asarray(image), 7.0, -1.0, FILL)
        assert difference(got, expected).max() <= 1


@pytest.mark.parametrize(
    "choice",
    [("Rotate", level, sign) for level in (20.0, 30.0, 41.7, 60.0) for sign in (1.0, -1.0)]
    + [("QuarterTurn", float(quarters), 1.0) for quarters in (1, 2, 3)]
    + [("Color", level_of_factor(factor), 1.0) for factor in (0.0, 0.05, 1.95)]
    + [("Contrast", level_of_factor(0.0), 1.0), ("Brightness", level_of_factor(2.0), 1.0)],
)
def test_what_further_changes_draw_stays_by_pillows_pixels(photo, choice):
    """Turns by up to 180 degrees and factors beyond those of RandAugment."""
    square = photo.crop((0, 0, 75, 75))
    expected = operate(square, [choice], FILL)
    off = difference(
        fast_augment.OPERATIONS[choice[0]](np.asarray(square), *choice[1:], FILL), expected
    )
    assert off.max() <= LIMITS.get(choice[0], 0) and off.mean() <= 1.5
    images = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None]
    [made] = augment(images, [[choice]], FILL).permute(0, 2, 3, 1).numpy()
    off = difference(made, expected)
    assert off.max() <= 1 and off.mean() <= 0.01


@pytest.mark.parametrize("interpolation", fast_augment.INTERPOLATIONS)
@pytest.mark.parametrize(
    ("size", "new"),
    [
        ((100, 75), (48, 48)),
        ((60, 75), (48, 48)),
        ((20, 75), (48, 48)),
        ((20, 15), (48, 48)),
        ((48, 75), (48, 48)),
        ((100, 75), (64, 48)),
        ((75, 75), (74, 20)),
    ],
)
def test_resizing_is_within_two_levels_of_pillows(photo, size, new, interpolation):
    image = photo.resize(size)
    expected = image.resize(new, getattr(Image, interpolation.upper()))
    off = difference(fast_augment.resize(np.asarray(image), *new, interpolation), expected)
    assert off.max() <= 2 and off.mean() <= 0.05


def test_the_fast_view_is_the_exact_one_but_for_resizing(photo):
    picture = LazyImage.of(np.asarray(photo))
    config = {"name": "published", "image_size": 48, "randaugment": None}
    exact, quick = (make_augment({**config, "fast": kind}) for kind in (False, True))
    keys = [keyed_rng(0, 0, str(n)) for n in range(40)]
    again = [keyed_rng(0, 0, str(n)) for n in range(40)]
    off = [
        difference(exact(picture, a), quick(picture, b)) for a, b in zip(keys, again, strict=True)
    ]
    assert np.max(off) <= 2 and np.mean(off) <= 0.05


def test_the_fast_view_applies_the_operations_that_the_exact_one_applies(photo):
    picture = LazyImage.of(np.asarray(photo))
    config = {"name": "published", "image_size": 48, "randaugment": "rand-m7-n3-p1-mstd0.5-inc1"}
    exact, quick = (make_augment({**config, "fast": kind}) for kind in (False, True))
    off = [
        difference(exact(picture, keyed_rng(0, 0, str(n))), quick(picture, keyed_rng(0, 0, str(n))))
        for n in range(40)
    ]
    # Levels that resizing moved by one can cross a threshold of the operations; most do not.
    assert np.median([each.mean() for each in off]) < 1.5


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("short", [40, 400])
@pytest.mark.parametrize("turned", [False, True])
def test_the_fast_evaluation_view_is_within_two_levels(photo, interpolation, short, turned):
    preprocess = Preprocess(resize_short=short, crop=32, interpolation=interpolation)
    image = photo.transpose(Image.Transpose.TRANSPOSE) if turned else photo
    picture = LazyImage(encoded(image, "JPEG", quality=95))
    off = difference(
        fast_augment.evaluation_view(preprocess, picture), preprocess.cut(picture.pixels())
    )
    assert off.max() <= 2 and off.mean() <= 0.05


def test_a_sliver_s_evaluation_view_is_pillow_s(photo):
    sliver = np.asarray(photo)[:1]
    small = Preprocess(resize_short=40, crop=32, max_pixels=10_000)
    assert np.array_equal(
        fast_augment.evaluation_view(small, LazyImage.of(sliver)), small.cut(sliver)
    )


@pytest.fixture(scope="module")
def large() -> Image.Image:
    """Soft blotches, edges and a little noise, 1600 x 1200."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (30, 40, 3), np.uint8)
    soft = np.asarray(Image.fromarray(cells).resize((1600, 1200), Image.Resampling.BICUBIC))
    hard = np.asarray(Image.fromarray(cells[::-1]).resize((1600, 1200), Image.Resampling.NEAREST))
    noise = rng.integers(-6, 7, soft.shape)
    pixels = np.where(np.arange(1600)[None, :, None] < 800, soft, hard) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize(("size", "factor"), [(299, 2), (149, 4), (64, 8)])
def test_a_large_crop_decoded_smaller_is_near_the_exact_one(large, options, size, factor):
    """At least 40 dB, and within a level on average."""
    content = encoded(large, "JPEG", quality=92, **options)
    for box in ((0, 0, 1600, 1200), (3, 1, 1597, 1199), (201, 3, 1399, 1197)):
        picture = LazyImage(content)
        assert fast_augment._factor(box[2] / size, box[3] / size) == factor
        quick = fast_augment.resize_crop(picture, box, size, size, "bicubic")
        exact = resize_exactly(picture.crop(*box), size, size, "bicubic")
        off = difference(quick, exact)
        assert 0 < off.mean() < 1
        assert 10 * np.log10(255**2 / np.mean(off**2.0)) > 40


def test_only_large_crops_of_jpeg_files_are_decoded_smaller(large, monkeypatch):
    asked = []
    known = LazyImage.reduced
    monkeypatch.setattr(
        LazyImage, "reduced", lambda *given: asked.append(given[1]) or known(*given)
    )
    png = LazyImage(encoded(large.crop((0, 0, 900, 900)), "PNG"))
    whole = fast_augment.resize_crop(png, (0, 0, 900, 900), 224, 224, "bicubic")
    assert asked == [2]
    assert np.array_equal(whole, fast_augment.resize(png.pixels(), 224, 224, "bicubic"))
    jpeg = LazyImage(encoded(large, "JPEG"))
    fast_augment.resize_crop(jpeg, (0, 0, 895, 1200), 224, 224, "bicubic")
    assert asked == [2]


def test_a_piece_of_the_whole_picture_is_resized_as_the_whole(photo):
    pixels = np.asarray(photo)
    piece = resize_span(pixels, (0, 100), (0, 75), 48, 40, "bicubic")
    assert difference(piece, photo.resize((48, 40), Image.Resampling.BICUBIC)).max() <= 1
