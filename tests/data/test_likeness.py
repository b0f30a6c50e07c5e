"""Is a pool like the labelled images: counts of tones, and what differs by a stated rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hgnetv2_pipeline.data.likeness import QUANTILES, compare_sets
from hgnetv2_pipeline.data.scan.folders import scan_unlabelled
from hgnetv2_pipeline.data.scan.tones import (
    Tones,
    add_tones,
    count_tones,
    tone_of,
    tones_from_json,
)
from hgnetv2_pipeline.errors import DataError


def frame(width: np.ndarray, height: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"width": width, "height": height})


SQUARE = frame(np.full(40, 32), np.full(40, 32))


def tones_of(levels: np.ndarray, grey: int = 0) -> Tones:
    known = count_tones([(level, level, level, level, False) for level in levels.tolist()])
    return Tones(known.counts, grey)


@pytest.mark.parametrize("size", [(40, 30), (7, 5), (300, 200)])
def test_the_tone_of_a_picture_is_the_mean_of_its_pixels(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[: size[1] // 2] //= 3
    image = Image.fromarray(pixels)
    *found, grey = tone_of(image)
    red, green, blue = pixels.reshape(-1, 3).mean(axis=0)
    expected = [0.299 * red + 0.587 * green + 0.114 * blue, red, green, blue]
    np.testing.assert_allclose(found, expected, atol=1.5)  # parts and means are rounded
    assert not grey


@pytest.mark.parametrize(
    ("colour", "grey"), [((90, 90, 90), True), ((90, 94, 98), True), ((90, 94, 99), False)]
)
def test_grey_is_what_has_no_colour_anywhere(colour: tuple[int, int, int], grey: bool) -> None:
    image = Image.new("RGB", (64, 64), colour)
    assert tone_of(image)[4] is grey
    image.paste((255, 0, 0), (0, 0, 4, 4))
    assert tone_of(image)[4] is False


def test_a_scan_counts_opaque_pictures_and_counts_add_up(tmp_path: Path) -> None:
    for number, level in enumerate((10, 200, 200)):
        Image.new("RGB", (9, 9), (level,) * 3).save(tmp_path / f"{number}.png")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    tones = scan_unlabelled(tmp_path).tones
    assert tones is not None and tones.images == tones.grey == 3
    assert np.flatnonzero(tones.counts[0]).tolist() == [10, 200] and tones.counts[0, 200] == 2
    both = add_tones([tones, tones_from_json(json.loads(json.dumps(tones.to_json())))])
    assert both.grey == 6 and np.array_equal(both.counts, 2 * tones.counts)
    with pytest.raises(DataError, match="ingestion"):
        tones_from_json({"grey": 3, "brightness": [1]})


def test_a_pool_twice_as_bright_is_called_that_and_nothing_else_is() -> None:
    rng = np.random.default_rng(0)
    dark = rng.normal(60, 15, 200).clip(0, 120).astype(int)
    found = compare_sets(SQUARE, SQUARE, (tones_of(dark), tones_of(2 * dark)))
    differs = {measure["name"]: measure["differs"] for measure in found["measures"]}
    assert differs == {
        "short side": None, "width over height": None,
        **dict.fromkeys(("brightness", "red", "green", "blue"), "higher"),
    }  # fmt: skip
    brightness = found["measures"][2]
    expected = (dark[:, None] < 2 * dark).mean() + (dark[:, None] == 2 * dark).mean() / 2
    assert brightness["above"] == pytest.approx(expected, abs=1e-4) and expected > 0.9
    expected = np.quantile(2 * dark, QUANTILES, method="inverted_cdf")
    assert brightness["pool"] == expected.tolist()
    assert found["grey"]["differs"] is None
    back = compare_sets(SQUARE, SQUARE, (tones_of(2 * dark), tones_of(dark)))
    assert back["measures"][2]["differs"] == "lower"


@pytest.mark.parametrize("seed", range(5))
def test_two_draws_of_the_same_pictures_do_not_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draws = [rng.integers(20, 200, count) for count in (25, 400)]
    sides = tuple(tones_of(levels, len(levels) // 3) for levels in draws)
    sizes = [frame(rng.integers(50, 500, n), rng.integers(50, 500, n)) for n in (25, 400)]
    found = compare_sets(*sizes, (sides[0], sides[1]))
    assert [measure["differs"] for measure in found["measures"]] == [None] * 6
    assert found["grey"]["differs"] is None


@pytest.mark.parametrize(("images", "differs"), [(19, None), (20, "lower")])
def test_of_few_images_nothing_is_said(images: int, differs: str | None) -> None:
    large = frame(np.full(images, 640), np.full(images, 480))
    small = frame(np.full(50, 64), np.full(50, 64))
    bright = tones_of(np.full(images, 250), grey=0)
    found = compare_sets(large, small, (bright, tones_of(np.full(50, 5), grey=50)))
    by_name = {measure["name"]: measure["differs"] for measure in found["measures"]}
    assert by_name["short side"] == by_name["width over height"] == differs
    assert by_name["brightness"] == differs
    assert found["grey"]["differs"] == (differs and "higher")
    assert "grey" not in compare_sets(large, small, None)
