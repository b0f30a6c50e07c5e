"""The evaluation arithmetic, against values from PaddleClas and an independent transcription."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError

GOLDEN = Path(__file__).parents[1] / "golden"
MEASURED = json.loads((GOLDEN / "preprocess.json").read_text())["images"]


@pytest.mark.parametrize("case", sorted(MEASURED))
def test_pixels_equal_those_of_paddleclas(case):
    name, resize = case.split("@")
    preprocess = Preprocess(resize_short=int(resize))
    path = GOLDEN / "preprocess" / name
    pixels = preprocess.image(path)
    assert pixels.shape == (224, 224, 3) and pixels.dtype == np.uint8
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    assert digest == MEASURED[case]["sha256_uint8_hwc"]
    assert np.array_equal(pixels, preprocess.image(path.read_bytes()))


def test_all_golden_values_are_checked():
    assert len(MEASURED) == 21


@settings(max_examples=40)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    short=st.integers(24, 48),
    seed=st.integers(0, 9),
)
def test_any_size_equals_a_transcription(width, height, short, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    low = min(width, height)
    size = (round(width * short / low), round(height * short / low))
    resized = np.asarray(image.resize(size, Image.BICUBIC))
    left, top = (size[0] - 24) // 2, (size[1] - 24) // 2
    expected = resized[top : top + 24, left : left + 24]
    preprocess = Preprocess(resize_short=short, crop=24)
    assert np.array_equal(preprocess.image(image), expected)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    floats = (expected.astype(np.float32) / np.float32(255) - mean) / std
    assert np.array_equal(preprocess(image), floats.transpose(2, 0, 1))
    assert preprocess(image).dtype == np.float32


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1, 1)])
def test_slivers_are_resized_without_filling_the_memory(size):
    pixels = Preprocess(max_pixels=10_000).image(Image.new("RGB", size, (10, 200, 30)))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 200, 30)).all()


def test_a_cut_resized_alone_differs_from_the_whole_by_one_level_at_most():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 700, 3), np.uint8))
    whole = Preprocess(resize_short=232).image(image)
    alone = Preprocess(resize_short=232, max_pixels=30_000).image(image)
    assert np.abs(whole.astype(int) - alone).max() <= 1


def test_sixteen_bit_pillow_images_follow_the_decoders_rule():
    image = Image.fromarray(np.full((8, 8), 0x8F12, np.uint16))
    assert (Preprocess(resize_short=8, crop=8).image(image) == 0x8F).all()


def test_travels_as_json():
    given_one = Preprocess(resize_short=236, crop=200, interpolation="bilinear")
    back = Preprocess.from_dict(json.loads(json.dumps(given_one.to_dict())))
    assert back == given_one and back.fingerprint == given_one.fingerprint
    assert given_one.fingerprint != Preprocess().fingerprint
    assert Preprocess(mean=[0.5, 0.5, 0.5]) == Preprocess(mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "values",
    [
        {"crop": 300},
        {"crop": 0},
        {"interpolation": "cubic"},
        {"std": (0, 1, 1)},
        {"mean": (1, 2)},
        {"max_pixels": 0},
        {"resize": 232},
    ],
)
def test_senseless_parameters_are_refused(values):
    with pytest.raises(ParameterError):
        Preprocess.from_dict(values)


def test_normalize_refuses_other_shapes():
    with pytest.raises(ParameterError, match="uint8"):
        Preprocess().normalize(np.zeros((1, 3, 8, 8), np.uint8))
