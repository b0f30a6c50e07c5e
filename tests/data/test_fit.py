"""How an image becomes the size of the network's input: crop, squash and pad, square and oblong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.errors import ParameterError

SIZES = {"width": st.integers(1, 200), "height": st.integers(1, 200), "seed": st.integers(0, 9)}
RED = (200, 10, 20)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=40)
@given(**SIZES)
def test_squash_is_one_resize_of_the_whole_image(width: int, height: int, seed: int) -> None:
    image = picture(width, height, seed)
    how = Preprocess(crop=(24, 56), fit="squash")
    assert np.array_equal(how.image(image), np.asarray(image.resize((56, 24), Image.BICUBIC)))


@settings(max_examples=40)
@given(**SIZES)
def test_pad_is_the_whole_image_between_bars(width: int, height: int, seed: int) -> None:
    image = picture(width, height, seed)
    found = Preprocess(crop=(24, 56), fit="pad", pad_colour=RED).image(image)
    if 24 / height < 56 / width:
        size = (max(1, round(width * 24 / height)), 24)
    else:
        size = (56, max(1, round(height * 56 / width)))
    expected = Image.new("RGB", (56, 24), RED)
    expected.paste(image.resize(size, Image.BICUBIC), ((56 - size[0]) // 2, (24 - size[1]) // 2))
    assert np.array_equal(found, np.asarray(expected))


@settings(max_examples=40)
@given(**SIZES)
def test_an_oblong_crop_covers_a_larger_oblong_and_cuts_its_middle(
    width: int, height: int, seed: int
) -> None:
    image = picture(width, height, seed)
    found = Preprocess(resize_short=27, crop=(24, 56)).image(image)
    # 63 is 56 * 27 / 24; a half pixel is rounded as it is, not as a product of rounded factors.
    taller = 63 * height >= 27 * width
    wide, high = (63, round(height * 63 / width)) if taller else (round(width * 27 / height), 27)
    resized = image.resize((wide, high), Image.BICUBIC)
    left, top = (wide - 56) // 2, (high - 24) // 2
    assert np.array_equal(found, np.asarray(resized.crop((left, top, left + 56, top + 24))))


def test_pillows_own_pad_agrees_where_nothing_has_to_be_rounded() -> None:
    image = picture(96, 48)
    found = Preprocess(crop=64, fit="pad", pad_colour=RED).image(image)
    assert np.array_equal(found, np.asarray(ImageOps.pad(image, (64, 64), Image.BICUBIC, RED)))


def test_what_was_before_there_were_fits_keeps_its_values_and_its_fingerprint() -> None:
    how = Preprocess(resize_short=232, crop=(224, 224))
    assert how == Preprocess() and json.dumps(how.to_dict()) == (
        '{"resize_short": 232, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, '
        '0.225], "interpolation": "bicubic", "max_pixels": 50000000}'
    )
    assert how.fingerprint == "52b8873b8b363ce72fd194a07ab3fd5af6b715ae1ec0bbb870ec8d9bd73c920b"


@pytest.mark.parametrize(
    "values",
    [
        {"fit": "squash"}, {"fit": "pad"}, {"fit": "pad", "pad_colour": RED},
        {"crop": (64, 192), "resize_short": 70}, {"crop": (192, 64), "fit": "squash"},
    ],
)  # fmt: skip
def test_values_travel_as_json_and_come_back(values: dict[str, Any]) -> None:
    how = Preprocess(**values)
    assert Preprocess.from_dict(json.loads(json.dumps(how.to_dict()))) == how
    assert how.fingerprint != Preprocess().fingerprint


def test_the_colour_of_bars_is_the_mean_unless_it_is_said() -> None:
    assert Preprocess(fit="pad").pad_colour == (124, 116, 104)
    assert Preprocess(fit="pad", mean=(-1.0, 0.5, 7.0)).pad_colour == (0, 128, 255)
    assert Preprocess(fit="squash", pad_colour=RED).pad_colour is None, "there are no bars"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": "stretch"}, "squash"),
        ({"fit": ["pad"]}, "crop"),
        ({"crop": (64, 192), "resize_short": 60}, "short side of the crop"),
        ({"crop": (64, 0)}, "at least 1"),
        ({"crop": (64, 5000), "fit": "pad"}, "at most 4096"),
        ({"crop": (64, 64, 3)}, "one side or"),
        ({"crop": (True, 64)}, "one side or"),
        ({"fit": "pad", "pad_colour": (1, 2)}, "preprocess.pad_colour"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Preprocess(**values)


@pytest.mark.parametrize(
    ("how", "size", "share"),
    [
        (Preprocess(64, 64), (192, 64), 1 / 3),
        (Preprocess(64, 64), (64, 192), 1 / 3),
        (Preprocess(), (300, 300), (224 / 232) ** 2),
        (Preprocess(64, (64, 192)), (192, 64), 1.0),
        (Preprocess(64, (64, 192)), (64, 64), 1 / 3),
        (Preprocess(crop=64, fit="pad"), (192, 64), 1.0),
        (Preprocess(crop=64, fit="squash"), (192, 64), 1.0),
    ],
)
def test_the_share_of_an_image_that_is_seen(
    how: Preprocess, size: tuple[int, int], share: float
) -> None:
    assert how.shown_share(*size) == pytest.approx(share, abs=1e-9)


def marked() -> npt.NDArray[np.uint8]:
    """192x64, grey, with a red mark at its left end."""
    pixels = np.full((64, 192, 3), 80, np.uint8)
    pixels[20:44, 4:28] = (220, 30, 30)
    return pixels


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({"crop": 64, "resize_short": 64}, False),
        ({"crop": 64, "fit": "squash"}, True),
        ({"crop": 64, "fit": "pad"}, True),
        ({"crop": (64, 192), "resize_short": 64}, True),
    ],
)
def test_a_mark_at_the_end_of_an_oblong_image_is_seen(values: dict[str, Any], seen: bool) -> None:
    view = Preprocess(**values).cut(marked())
    assert bool(((view[..., 0] > 180) & (view[..., 1] < 60)).any()) == seen
