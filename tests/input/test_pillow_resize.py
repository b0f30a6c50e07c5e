"""Resizing on arrays, and the evaluation view: Pillow's pixels to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline.data.preprocess import RESAMPLING, Preprocess
from hgnetv2_pipeline.input import pillow_resize
from hgnetv2_pipeline.input.lazy_image import LazyImage
from hgnetv2_pipeline.input.pillow_resize import exact_view, resize_exactly
from image_files import encoded

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (420, 500, 3), np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE[:42, :50]).resize((500, 420), Image.BICUBIC))
PICTURES = {
    "noise": NOISE,
    "smooth": SMOOTH,
    "two levels": (SMOOTH > 128).astype(np.uint8) * 255,
    "one colour": np.full_like(NOISE, (7, 200, 255)),
}
SIDES = st.integers(1, 420)


@settings(max_examples=60, deadline=None)
@given(
    picture=st.sampled_from(sorted(PICTURES)),
    size=st.tuples(SIDES, SIDES),
    to=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    interpolation=st.sampled_from(sorted(RESAMPLING)),
)
def test_every_pixel_is_pillows(picture, size, to, interpolation):
    pixels = PICTURES[picture][: size[1], : size[0]]
    expected = Image.fromarray(pixels).resize(to, RESAMPLING[interpolation])
    assert np.array_equal(resize_exactly(pixels, *to, interpolation), np.asarray(expected))


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("size", [(500, 375), (320, 300), (120, 400), (224, 300), (300, 224)])
def test_a_training_crop_is_pillows(picture, size):
    pixels = PICTURES[picture][: size[1], : size[0]]
    expected = Image.fromarray(pixels).resize((224, 224), Image.BICUBIC)
    assert np.array_equal(resize_exactly(pixels, 224, 224, "bicubic"), np.asarray(expected))


def test_what_single_precision_leaves_in_doubt_is_summed_anew(monkeypatch):
    expected = np.asarray(Image.fromarray(NOISE).resize((224, 224), Image.BICUBIC))
    counted = []
    summed = pillow_resize._exact
    monkeypatch.setattr(
        pillow_resize, "_exact", lambda *given: counted.append(len(given[2])) or summed(*given)
    )
    assert np.array_equal(resize_exactly(NOISE, 224, 224, "bicubic"), expected)
    assert all(0 < count < 0.01 * NOISE.size for count in counted) and len(counted) == 2


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    crop=st.one_of(st.integers(1, 200), st.tuples(st.integers(1, 200), st.integers(1, 200))),
    more=st.integers(0, 40),
    fit=st.sampled_from(["crop", "squash", "pad"]),
    interpolation=st.sampled_from(sorted(RESAMPLING)),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_the_exact_view_is_that_of_preprocess(size, crop, more, fit, interpolation, kind):
    short = more + (crop if isinstance(crop, int) else min(crop))
    preprocess = Preprocess(resize_short=short, crop=crop, fit=fit, interpolation=interpolation)
    content = encoded(Image.fromarray(SMOOTH[: size[1], : size[0]]), kind)
    view = exact_view(preprocess, LazyImage(content))
    assert np.array_equal(view, preprocess.image(content))


def test_a_sliver_s_view_is_that_of_preprocess():
    small = Preprocess(resize_short=40, crop=32, max_pixels=10_000)
    content = encoded(Image.fromarray(NOISE[:1]), "PNG")
    assert np.array_equal(exact_view(small, LazyImage(content)), small.image(content))
