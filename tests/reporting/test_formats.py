from __future__ import annotations

import math

import pytest

from hgnetv2_pipeline.reporting import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.0, "1.00"), (1.926, "1.93"), (12.34, "12.3"), (1234.5, "1,234"),
        (0.0073, "0.00730"), (1.3e-6, "1.30e-6"), (None, "–"), (math.nan, "–"), ("x", "–"),
    ],
)  # fmt: skip
def test_measured_values_keep_three_figures(value: object, text: str) -> None:
    assert formats.significant(value) == text


@pytest.mark.parametrize(
    ("ratio", "images", "text"),
    [(0.0837, 700, "+8.4"), (-0.0837, 700, "−8.4"), (0.0004, 700, "0.0"), (-0.0004, 700, "0.0"),
     (0.00041, 50_000, "+0.04"), (None, 700, "–")],
)  # fmt: skip
def test_points_carry_a_sign_unless_they_round_to_nothing(
    ratio: float | None, images: int, text: str
) -> None:
    assert formats.points(ratio, images) == text


def test_a_second_decimal_is_shown_only_where_the_images_carry_it() -> None:
    assert formats.percent(0.8829, 700) == "88.3"
    assert formats.percent(0.8829, 50_000) == "88.29"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(999, "999 B"), (15_923_112, "15.9 MB"), (2_500_000_000, "2.5 GB"), (None, "–")],
)
def test_sizes_are_in_decimal_units(n_bytes: int | None, text: str) -> None:
    assert formats.size(n_bytes) == text


def test_dicts_and_lists_become_words_in_a_fixed_order() -> None:
    assert formats.words({"PNG": 2, "JPEG": 1}) == formats.words({"JPEG": 1, "PNG": 2})
    assert formats.words([1, 3, 8]) == "1, 3, 8"
    assert formats.words(True) == "yes"


@pytest.mark.parametrize(
    ("size", "text"),
    [(224, "224"), ([64, 192], "64x192"), ([64, 64], "64"), (None, "–"), ("224", "–"), ([], "–")],
)
def test_the_size_of_an_input_is_a_side_or_height_by_width(size: object, text: str) -> None:
    assert formats.pixels(size) == text
