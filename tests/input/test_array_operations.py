"""RandAugment on arrays: timm's operations through Pillow, to the bit."""

import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.input.array_operations import EXACT_OPERATIONS, mirror
from hgnetv2_pipeline.input.randaugment import (
    FURTHER,
    INCREASING,
    PLAIN,
    level_of_factor,
    operate,
)

FILL = (124, 116, 104)
RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (7, 9, 3), np.uint8)
PICTURES = {
    "noise": RNG.integers(0, 256, (48, 61, 3), np.uint8),
    "smooth": np.asarray(Image.fromarray(SMALL).resize((80, 60), Image.BICUBIC)),
    "two levels": RNG.integers(0, 2, (40, 30, 3), np.uint8) * 255,
    "one colour": np.full((33, 20, 3), (7, 200, 255), np.uint8),
    "a row": RNG.integers(0, 256, (1, 30, 3), np.uint8),
    "a pixel": np.array([[[1, 2, 3]]], np.uint8),
}


def test_there_is_a_twin_of_every_operation():
    assert set(EXACT_OPERATIONS) == {*INCREASING, *PLAIN, *FURTHER}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", sorted({*INCREASING, *PLAIN}))
def test_every_pixel_is_pillows(name, picture):
    pixels = PICTURES[picture]
    before = pixels.copy()
    for level in (0.0, 10.0, *RNG.uniform(0, 10, 6).tolist()):
        for sign in (1.0, -1.0):
            expected = operate(Image.fromarray(pixels), [(name, level, sign)], FILL)
            got = EXACT_OPERATIONS[name](pixels, level, sign, FILL)
            assert got.dtype == np.uint8
            assert np.array_equal(got, np.asarray(expected)), (level, sign)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize(
    "choice",
    [("Rotate", level, -1.0) for level in (20.0, 60.0)]
    + [("QuarterTurn", float(quarters), 1.0) for quarters in (1, 2, 3)]
    + [
        (name, level_of_factor(factor), 1.0)
        for name in ("Brightness", "Contrast", "Color")
        for factor in (0.0, 0.05, 1.0, 1.95)
    ],
)
def test_further_changes_are_pillows(choice):
    """Turns by up to 180 degrees and factors beyond those of RandAugment."""
    square = PICTURES["noise"][:, :48]
    expected = np.asarray(operate(Image.fromarray(square), [choice], FILL))
    assert np.array_equal(EXACT_OPERATIONS[choice[0]](square, *choice[1:], FILL), expected)


def test_a_mirrored_picture_is_pillows():
    flipped = Image.fromarray(PICTURES["noise"]).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert np.array_equal(mirror(PICTURES["noise"]), np.asarray(flipped))
