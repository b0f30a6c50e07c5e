from __future__ import annotations

from synthetic_inputs import comparison_rows

from hgnetv2_pipeline.reporting.comparison import summarise_arms
from hgnetv2_pipeline.reporting.terminal import banner_text, summary_rows, terminal_table


def test_words_stand_left_and_numbers_right() -> None:
    assert terminal_table([{"model": "b0", "ms": "1.9"}, {"model": "resnet", "ms": "12.1"}]) == (
        "model     ms\n------  ----\nb0       1.9\nresnet  12.1"
    )


def test_wide_signs_keep_the_columns_straight() -> None:
    lines = terminal_table([{"class": "四", "n": 1}, {"class": "four", "n": 2}]).splitlines()
    assert lines[2] == "四     1"
    assert lines[3] == "four   2"


def test_an_amount_with_its_unit_is_not_broken() -> None:
    row = {"part": "teacher", "state": "fitted in seconds to 340 images", "time": "11 min 4 s"}
    text = str(terminal_table([row, {**row, "time": ""}], width=32))
    assert "11 min 4 s" in text and max(map(len, text.splitlines())) <= 32


def test_a_name_cannot_steer_the_terminal() -> None:
    text = terminal_table([{"class": "a\x1b[31mb\nc"}])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


def test_no_rows_are_said_to_be_none() -> None:
    assert terminal_table([]) == "(nothing to show)"


def test_the_final_table_has_a_row_an_arm_with_its_gain() -> None:
    rows = summary_rows(summarise_arms(comparison_rows()))
    assert [row["gain"] for row in rows] == ["−0.8", "-", "+5.3", "+7.7", "+7.7", "+3.4"]
    assert rows[3]["min - max"] == "87.3 - 89.0"


def test_only_the_sample_has_a_banner() -> None:
    assert banner_text(is_sample=False) is None
    assert "nothing about ImageNet" in (banner_text(is_sample=True) or "")
