from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from synthetic_inputs import N, comparison_rows

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.intervals import mean_difference
from hgnetv2_pipeline.reporting import tables
from hgnetv2_pipeline.reporting.comparison import (
    better_training,
    compared_with,
    difference,
    explain_arms,
    summarise_arms,
)
from hgnetv2_pipeline.reporting.terminal import summary_rows


def arm(name: str, hits: list[int], n: int = 1000, **more: Any) -> list[dict[str, Any]]:
    return [
        {"arm": name, "seed": seed, "split": "val", "top1_count": value, "n": n, **more}
        for seed, value in enumerate(hits)
    ]


def load_simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulate_comparison.py"
    spec = importlib.util.spec_from_file_location("simulate_comparison", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
    # Student's t with 999 degrees of freedom for the images and 1 + 1 for the seeds: 1.962, 4.303.
    by_hand = math.hypot(1.9623 * given.image_error, 4.3027 * math.sqrt(0.0002))
    assert given.margin == pytest.approx(by_hand, rel=1e-4)
    assert given.clear is (by_hand < 0.08)


def test_an_arm_spreads_like_the_one_that_spreads_most_a_single_run_twice_the_pooled() -> None:
    rows = arm("supervised", [790, 810]) + arm("stage1", [880, 890, 900]) + arm("stage2", [899])
    plain, first, second = summarise_arms(rows)
    # Variances 0.0002 (1 degree of freedom) and 0.0001 (2): the larger; pooled 0.0004 / 3, times 4.
    assert plain.spread == first.spread == (pytest.approx(math.sqrt(0.0002)), 3)
    assert second.spread == (pytest.approx(2 * math.sqrt(0.0004 / 3)), 3)
    assert difference(second, first).seed_error == pytest.approx(math.sqrt(0.0016 / 3 + 0.0002 / 3))
    # Where one arm spreads by more than twice the pooled, a single run spreads like that.
    rows = arm("supervised", [700, 900]) + arm("stage1", [880] * 5) + arm("stage2", [899])
    plain, _, second = summarise_arms(rows)
    assert second.spread == plain.spread == (pytest.approx(math.sqrt(0.02)), 5)


def test_images_are_paired_where_the_file_says_how() -> None:
    rows = arm("supervised", [790, 810]) + arm("stage1", [890, 870])
    pairs = [{"arms": ["stage1", "supervised"], "split": "val", "image_error": 0.005}]
    plain, better = summarise_arms(rows, pairs)
    assert difference(better, plain).image_error == difference(plain, better).image_error == 0.005
    elsewhere = summarise_arms(rows, [{**pairs[0], "split": "test"}])
    assert difference(*elsewhere).image_error > 0.005


def test_more_seeds_do_not_shrink_the_error_of_the_images() -> None:
    few = summarise_arms(arm("supervised", [800, 800]) + arm("stage1", [880, 880]))
    many = summarise_arms(arm("supervised", [800] * 9) + arm("stage1", [880] * 9))
    assert difference(few[1], few[0]).image_error == difference(many[1], many[0]).image_error


def test_one_run_of_each_is_never_clear_and_says_so() -> None:
    rows = arm("supervised", [100]) + arm("stage1", [990])
    plain, better = summarise_arms(rows)
    given = difference(better, plain)
    assert (given.seed_error, given.error, given.margin, given.clear) == (None, None, None, False)
    assert "run once" in said(rows) and "no gain is shown" in said(rows)
    assert [row["+/-"] for row in summary_rows([plain, better])] == ["-", "?"]


def test_one_run_beside_several_has_their_spread() -> None:
    # The counts of a stage 2 against supervised training, three runs and one: fewer runs are never
    # told to be surer.
    plain = arm("supervised", [601, 577, 576], n=700)
    three = summarise_arms(plain + arm("stage2", [635, 621, 613], n=700))
    one = summarise_arms(plain + arm("stage2", [635], n=700))
    assert (difference(*reversed(one)).margin or 0) > (difference(*reversed(three)).margin or 1)


@pytest.mark.parametrize("runs", itertools.combinations_with_replacement((1, 2, 3), 2), ids=str)
@pytest.mark.parametrize(("deviation", "error"), [(0.02, 0.004), (0.028, 0.012), (0.004, 0.012)])
def test_no_gain_is_called_clear_in_five_of_a_hundred_draws_at_most(
    runs: tuple[int, int], deviation: float, error: float
) -> None:
    rng, n, clear, draws = np.random.default_rng([*runs, 7]), 700, 0, 1500
    for _ in range(draws):
        # What the images favour is the same for all seeds of the second arm.
        luck = np.array([0.0, rng.normal(0, error)])
        hits = [
            np.rint(rng.normal(0.85 + shift, deviation, count) * n).clip(0, n).tolist()
            for shift, count in zip(luck, runs, strict=True)
        ]
        rows = arm("supervised", hits[0], n=n) + arm("stage1", hits[1], n=n)
        pairs = [{"arms": ["supervised", "stage1"], "split": "val", "image_error": error}]
        clear += difference(*summarise_arms(rows, pairs)).clear
    # Three standard errors of the simulation itself above 5 %.
    assert clear / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    assert (clear == 0) is (runs == (1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("mix", itertools.product((1, 2, 3), repeat=2), ids=str)
def test_answers_drawn_without_a_gain_are_called_clear_in_five_of_a_hundred_at_most(
    mix: tuple[int, int],
) -> None:
    """All the way from right and wrong answers; seeds may move one arm twice as much as another."""
    bench, draws = load_simulation(), 2500
    for name, setting in bench.settings(mix).items():
        share = bench.clear_share(bench.draw_differences(setting, draws))
        assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws), name


@pytest.mark.parametrize("runs", [(1, 3), (2, 3), (3, 3)], ids=str)
def test_no_gain_is_called_clear_where_seeds_move_the_first_arm_twice_as_much(
    runs: tuple[int, int],
) -> None:
    """Beside a third arm as calm as the second, so that the pooled spread is too small."""
    bench, draws = load_simulation(), 400
    found = bench.draw_differences(bench.settings(runs)["2.8 1.4 + 1.4"], draws)
    assert 0 < bench.clear_share(found) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    # What would be called clear is finite, and larger than the margin of the images alone.
    assert 0.02 < bench.least_gain(found) < 0.3


def test_drawn_answers_favour_no_arm_and_have_the_errors_that_the_sample_has() -> None:
    bench = load_simulation()
    setting = bench.settings((3, 3))["0.5 0.5"]
    answers = bench.draw_answers(setting, np.random.default_rng(0), 40_000)
    first, second = (runs.mean(axis=0) for runs in answers.values())
    error = mean_difference(first, second).error
    assert abs(first.mean() - second.mean()) < 0.008  # the seeds of three runs each: 0.4 points
    assert first.mean() == pytest.approx(0.857, abs=0.015)
    assert error * 10 == pytest.approx(0.0107, abs=0.0006)  # of 400 images


def test_what_trainings_took_is_beside_the_steps_where_it_is_known() -> None:
    spent = {"seconds": 90.0, "processor": "CPU"}
    rows = [
        *arm("supervised_equal_steps", [850, 860], steps=480, **spent),
        *arm("stage1", [880, 890], steps=150, **spent),
        *arm("stage2", [885], steps=30, seconds=10.0, processor="CPU"),
        *arm("teacher", [870], steps=300, seconds=60.4, processor="CPU"),
    ]
    text = " ".join(explain_arms(summarise_arms(rows)))
    assert "(480 steps, 90 CPU s; teacher and both stages 480 steps, 160 CPU s)" in text
    table = tables.comparison_table(summarise_arms(rows)).records()
    assert [row["CPU s"] for row in table] == ["90", "90", "10", "60"]
    short = summary_rows(summarise_arms(rows))
    assert [(row["steps"], row["CPU s"]) for row in short][-1] == ("300", "60")
    unknown = [{**row, "seconds": None, "processor": None} for row in rows]
    text = " ".join(explain_arms(summarise_arms(unknown)))
    assert "(480 steps; teacher and both stages 480 steps)" in text
    # One training without its times leaves the mean of its arm unknown.
    rows[0] = unknown[0]
    assert summarise_arms(rows)[0].seconds is None


@pytest.mark.parametrize(("evaluations", "said_so"), [(1, False), (24, True)])
def test_by_how_much_val_flatters_what_it_chose_is_said(evaluations: int, said_so: bool) -> None:
    chosen = {"evaluations": evaluations, "above_last": 0.012}
    text = said(arm("stage1", [881, 883], **chosen), arm("supervised", [850, 851], **chosen))
    assert ("up to 1.2 points above the last" in text) is said_so


def test_the_table_says_which_evaluation_gave_the_weights() -> None:
    last, best = ({"kept": kept, "evaluations": 8, "above_last": 0.0} for kept in ("last", "best"))
    rows = [*arm("supervised", [850], **best), *arm("stage1", [880], **last), *arm("stage2", [881])]
    summaries = summarise_arms(rows)
    assert [summary.kept for summary in summaries] == ["best of 8", "last", None]
    assert [summary.above_last for summary in summaries] == [0.0, None, None]
    table = tables.comparison_table(summaries).records()
    assert [row["weights"] for row in table] == ["best of 8", "last", "–"]
    untold = tables.comparison_table(summarise_arms(arm("stage1", [880]))).columns
    assert "weights" not in untold


def test_runs_of_other_recipes_are_not_averaged() -> None:
    rows = arm("supervised", [601], steps=150) + arm("supervised", [577], steps=15)
    rows[1]["seed"] = 1
    with pytest.raises(DataError, match=r"different numbers of steps \(15, 150\)"):
        summarise_arms(rows)


def test_gains_are_over_supervised_training_of_equal_steps_where_there_is_one() -> None:
    rows = comparison_rows()
    base = compared_with(summarise_arms(rows))
    assert base is not None and base.arm == "supervised_equal_steps"
    shorter = [row for row in rows if row["arm"] != "supervised_equal_steps"]
    base = compared_with(summarise_arms(shorter))
    assert base is not None and base.arm == "supervised"
    assert compared_with(summarise_arms(arm("stage1", [880]))) is None


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


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ([881, 883], 790, "The student ends 9.2 points above its teacher (79.0 %)"),
        ([881, 883], 878, "no difference is clear: +0.4 points, 95 % interval"),
        # One run of the student: what a seed does is unknown, what the images do is not.
        ([808], 847, "no difference is clear: -3.9 points, standard error of the images"),
    ],
)
def test_a_teacher_is_told_as_it_is(student: list[int], teacher: int, words: str) -> None:
    text = said(arm("stage1", student), arm("teacher", [teacher]))
    assert words in text.replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize("longer", [800, 880])
def test_one_run_of_each_does_not_say_whether_training_longer_explains_a_gain(longer: int) -> None:
    text = said(arm("stage1", [881]), arm("supervised_equal_steps", [longer]))
    assert "Whether training longer explains it is open, with one run of each" in text


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
        (arm("stage1", [5, 6], n=10) + arm("stage1", [5], n=10), "seed 0 of 'stage1' on val is"),
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
    assert row["gain, points"] == "+7.7"
    assert row["SE, images"] == "1.9"
    assert [row["gain, points"] == "–" for row in table.records()[:2]] == [False, True]


def test_every_run_is_listed_behind_the_table() -> None:
    rows = comparison_rows()
    assert len(tables.runs_table(rows).rows) == len(rows)


@pytest.mark.parametrize(("right", "below"), [(500, False), (690, True)])
def test_a_sentence_compares_with_what_takes_seconds(right: int, below: bool) -> None:
    row = {
        "arm": "reference", "label": "logistic regression on simple features", "seed": None,
        "steps": None, "images_seen": None, "split": "val", "top1_count": right, "n": N,
        "run": "train_teacher/mixed/probe=simple",
    }  # fmt: skip
    rows = [*comparison_rows(), row]
    summaries = summarise_arms(rows)
    assert summaries[0].arm == "reference"
    said = explain_arms(summaries)
    # Below it, that is what the reader sees first.
    first, longer = said[:2] if below else said[1::-1]
    assert "as many steps as the whole SSLD run (450 steps" in longer
    share = f"{100 * right / N:.1f}".rstrip("0").rstrip(".")
    assert first.startswith(f"Logistic regression on simple features reaches {share}")
    assert ("not worth its time" in first) is below
    # It is no training of the student's, and is never proposed in its place.
    assert "probe=simple" not in (better_training(rows, "stage1/b0/seed=0") or "")
