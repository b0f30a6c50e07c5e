from __future__ import annotations

import math
from typing import Any

import pytest
from synthetic_inputs import N, comparison_rows

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import tables
from hgnetv2_pipeline.reporting.comparison import (
    better_training,
    difference,
    explain_arms,
    summarise_arms,
)


def arm(name: str, hits: list[int], n: int = 1000, **more: Any) -> list[dict[str, Any]]:
    return [
        {"arm": name, "seed": seed, "split": "val", "top1_count": value, "n": n, **more}
        for seed, value in enumerate(hits)
    ]


def said(*rows: list[dict[str, Any]]) -> str:
    return " ".join(explain_arms(summarise_arms([row for part in rows for row in part])))


def test_arms_come_in_the_order_of_the_story_whatever_the_order_of_rows() -> None:
    rows = comparison_rows()
    names = [summary.arm for summary in summarise_arms(reversed(rows))]
    assert names == [
        "supervised", "supervised_equal_steps", "stage1_unmined", "stage1", "stage2", "teacher",
    ]  # fmt: skip
    assert summarise_arms(rows) == summarise_arms(reversed(rows))


def test_difference_has_both_errors_by_hand() -> None:
    plain, better = summarise_arms(arm("supervised", [790, 810]) + arm("stage1", [890, 870]))
    given = difference(better, plain)
    assert given.gain == pytest.approx(0.08)
    assert given.image_error == pytest.approx(math.sqrt((0.8 * 0.2 + 0.88 * 0.12) / 1000))
    # Each arm: two values 0.02 apart, so the variance is 0.0002 and that of the mean half of it.
    assert given.seed_error == pytest.approx(math.sqrt(0.0001 + 0.0001))
    assert given.error == pytest.approx(math.hypot(given.image_error, given.seed_error or 0))
    assert given.clear


def test_more_seeds_do_not_shrink_the_error_of_the_images() -> None:
    few = summarise_arms(arm("supervised", [800, 800]) + arm("stage1", [880, 880]))
    many = summarise_arms(arm("supervised", [800] * 9) + arm("stage1", [880] * 9))
    assert difference(few[1], few[0]).image_error == difference(many[1], many[0]).image_error


def test_one_run_leaves_the_spread_of_seeds_unknown_and_says_so() -> None:
    rows = arm("supervised", [800]) + arm("stage1", [880])
    plain, better = summarise_arms(rows)
    assert difference(better, plain).seed_error is None
    assert "single run" in said(rows)


@pytest.mark.parametrize(
    ("stage2", "words"),
    [
        ([880, 882], "Stage 2 shows no gain over stage 1"),
        ([960, 962], "Stage 2 gains over stage 1"),
        ([790, 792], "Stage 2 loses against stage 1"),
    ],
)
def test_stage_two_is_told_as_it_is(stage2: list[int], words: str) -> None:
    assert words in said(arm("stage1", [881, 883]), arm("stage2", stage2))


@pytest.mark.parametrize(
    ("longer", "words"),
    [
        ([800, 805], "Training longer does not explain it"),
        ([878, 880], "Training longer may explain it"),
        ([960, 962], "Training longer does better than SSLD here"),
    ],
)
def test_equal_steps_are_told_as_they_are(longer: list[int], words: str) -> None:
    assert words in said(arm("stage1", [881, 883]), arm("supervised_equal_steps", longer))


@pytest.mark.parametrize(
    ("unmined", "words"),
    [
        ([800, 805], "Mining pays"),
        ([878, 880], "within the noise"),
        ([960, 962], "Mining costs accuracy here"),
    ],
)
def test_mining_is_told_as_it_is(unmined: list[int], words: str) -> None:
    assert words in said(arm("stage1", [881, 883]), arm("stage1_unmined", unmined))


@pytest.mark.parametrize(
    ("steps", "words"), [(150, "in the same number of steps"), (300, "in its own number of steps")]
)
def test_equal_steps_of_the_unmined_arm_are_claimed_only_where_true(steps: int, words: str) -> None:
    text = said(
        arm("stage1", [881, 883], steps=150), arm("stage1_unmined", [800, 805], steps=steps)
    )
    assert words in text


def test_a_gain_within_the_noise_is_called_no_gain() -> None:
    assert "no gain is shown" in said(arm("supervised", [800, 810]), arm("stage1", [806, 812]))


def test_overlapping_runs_are_not_hidden_behind_a_clear_mean() -> None:
    text = said(arm("supervised", [800, 860, 800, 800]), arm("stage1", [880, 850, 885, 890]))
    assert "overlap" in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        (arm("stage1", [11], n=10), "11 right of 10"),
        (arm("stage1", [-1], n=10), "-1 right of 10"),
        (arm("stage1", [0], n=0), "of 0 images"),
        ([{"arm": "stage1", "split": "val", "n": 10}], "no top1_count"),
        (arm("stage1", [5], n=10) + arm("stage1", [5], n=11), "different numbers of images"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        summarise_arms(rows)


def test_splits_are_never_mixed() -> None:
    summaries = summarise_arms(comparison_rows("val") + comparison_rows("test"))
    assert [summary.split for summary in summaries] == ["test"] * 6 + ["val"] * 6


def test_the_honest_table_shows_mean_spread_gain_and_errors() -> None:
    table = tables.comparison_table(summarise_arms(comparison_rows()))
    row = next(row for row in table.records() if row["training"] == "SSLD stage 1, mined")
    assert row["runs"] == "3"
    assert row["top-1 %, mean"] == f"{100 * (611 + 623 + 617) / 2100:.1f}"
    assert row["min – max"] == "87.3 – 89.0"
    assert row["gain, points"] == "+8.4"
    assert row["SE, images"] == "2.0"
    assert table.records()[0]["gain, points"] == "–"


def test_every_run_is_listed_behind_the_table() -> None:
    rows = comparison_rows()
    assert len(tables.runs_table(rows).rows) == len(rows)


@pytest.mark.parametrize(("right", "below"), [(500, False), (690, True)])
def test_the_first_sentence_compares_with_what_takes_seconds(right: int, below: bool) -> None:
    row = {
        "arm": "reference", "label": "logistic regression on simple features", "seed": None,
        "steps": None, "images_seen": None, "split": "val", "top1_count": right, "n": N,
        "run": "train_teacher/two_b0/probe=simple",
    }  # fmt: skip
    rows = [*comparison_rows(), row]
    summaries = summarise_arms(rows)
    assert summaries[0].arm == "reference"
    first = explain_arms(summaries)[0]
    share = f"{100 * right / N:.1f}".rstrip("0").rstrip(".")
    assert first.startswith(f"Logistic regression on simple features reaches {share}")
    assert ("not worth its time" in first) is below
    # It is no training of the student's, and is never proposed in its place.
    assert "probe=simple" not in (better_training(rows, "stage1/b0/seed=0") or "")
