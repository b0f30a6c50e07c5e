"""A picture that the tests of views share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """Soft colours with a little noise, 100 x 75, much as a photograph has them."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    noise = rng.integers(-9, 9, (75, 100, 3))
    pixels = np.asarray(small.resize((100, 75), Image.Resampling.BICUBIC)).astype(int) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
