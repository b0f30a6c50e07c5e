"""Shears and shifts: Pillow's transform to the bit."""

import numpy as np
import pytest
from PIL import Image

from hgnetv2_pipeline.input.pillow_shear import slide

FILL = (124, 116, 104)
RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (7, 9, 3), np.uint8)).resize((90, 70), Image.BICUBIC)
PICTURES = {
    "noise": Image.fromarray(RNG.integers(0, 256, (70, 90, 3), np.uint8)),
    "smooth": SMOOTH,
    "two levels": Image.fromarray((np.asarray(SMOOTH) > 128).astype(np.uint8) * 255),
    "one colour": Image.new("RGB", (33, 20), (7, 200, 255)),
    "a row": Image.fromarray(RNG.integers(0, 256, (1, 40, 3), np.uint8)),
    "a column": Image.fromarray(RNG.integers(0, 256, (40, 1, 3), np.uint8)),
    "a pixel": Image.new("RGB", (1, 1), (1, 2, 3)),
}
MOVES = [(float(slope), 0.0) for slope in RNG.uniform(-0.3, 0.3, 12)]
MOVES += [(0.0, float(shift)) for shift in RNG.uniform(-45, 45, 12)]
MOVES += [(0, 0), (0.3, 0), (-0.25, 0), (0.1, 0), (0, 3), (0, -2), (0, 0.5), (0, -0.5), (0, 200)]


@pytest.mark.parametrize("along_columns", [False, True])
@pytest.mark.parametrize("name", PICTURES)
def test_every_pixel_is_pillows(name, along_columns):
    image = PICTURES[name]
    for slope, shift in MOVES:
        rows, columns = (1, slope, shift, 0, 1, 0), (1, 0, 0, slope, 1, shift)
        expected = image.transform(
            image.size,
            Image.Transform.AFFINE,
            columns if along_columns else rows,
            resample=Image.Resampling.BICUBIC,
            fillcolor=FILL,
        )
        got = slide(np.asarray(image), slope, shift, FILL, along_columns=along_columns)
        assert np.array_equal(got, np.asarray(expected)), (slope, shift)
