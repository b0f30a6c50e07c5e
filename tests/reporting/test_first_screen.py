from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from hgnetv2_pipeline.intervals import wilson_interval
from hgnetv2_pipeline.reporting.blocks import KeyFigures, Steps
from hgnetv2_pipeline.reporting.chapters.first_screen import first_screen, next_steps
from hgnetv2_pipeline.reporting.inputs import ReportInputs

STAGE2 = "ssld_stage2/b0/seed=0"


def test_the_first_screen_answers_how_good_how_sure_how_fast_and_what_next(
    report_inputs: ReportInputs,
) -> None:
    answers, steps = first_screen(dataclasses.replace(report_inputs, model=STAGE2))
    assert isinstance(answers, KeyFigures) and isinstance(steps, Steps)
    by_question = {question: value for question, value, *_ in answers.items}
    low, high = wilson_interval(610, 700)
    assert by_question["How good"] == f"{100 * 610 / 700:.1f} %"
    assert by_question["How sure"] == f"{100 * low:.1f} to {100 * high:.1f} %"
    assert by_question["How fast"] == "1.95 ms"
    assert "What it gained" in by_question
    assert 1 <= len(steps.items) <= 3


@pytest.mark.parametrize(
    ("changes", "pipeline"),
    [
        ({"evaluations": ()}, "evaluation"),
        ({"comparison": None}, "comparison"),
        ({"exports": ()}, "export"),
        ({"latencies": ()}, "latency"),
    ],
)
def test_what_is_missing_is_the_first_thing_to_do(
    report_inputs: ReportInputs, changes: dict[str, Any], pipeline: str
) -> None:
    inputs = dataclasses.replace(report_inputs, run_command="kedro run --env x", **changes)
    assert next_steps(inputs)[0][1] == f"kedro run --env x --pipeline {pipeline}"


def test_pairs_in_doubt_and_own_images_come_next_on_the_sample(
    report_inputs: ReportInputs,
) -> None:
    commands = [command for _, command in next_steps(report_inputs)]
    assert commands[0] == "hgnetv2 review"
    assert commands[-1].startswith("hgnetv2 init NAME --labelled")
    own = dataclasses.replace(report_inputs, is_sample=False)
    assert "export.precisions=" in next_steps(own)[-1][1]


def test_single_runs_ask_for_more_seeds(report_inputs: ReportInputs) -> None:
    assert report_inputs.comparison is not None
    value = json.loads(report_inputs.comparison.read_text(encoding="utf-8"))
    value["rows"] = [row for row in value["rows"] if row["seed"] in (None, 0)]
    report_inputs.comparison.write_text(json.dumps(value), encoding="utf-8")
    commands = [command for _, command in next_steps(report_inputs)]
    assert any("comparison.stage1_seeds=1+2" in command for command in commands)
