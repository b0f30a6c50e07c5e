"""The page about a sweep: one sentence for each kind of end, all models in table and plot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic_inputs import HOSTILE
from test_dataset_page import Balanced

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.reporting.blocks import Link, Text
from hgnetv2_pipeline.reporting.figures import Mark, pareto_front
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sweep_page import (
    build_sweep_page,
    pareto_plot,
    recommendation,
    sweep_blocks,
    terminal_rows,
)


def row(variant: str, value: float | None, ms: float | None, **changes: Any) -> dict[str, Any]:
    known = value is not None
    return {
        "name": f"{variant} at 224 px fp32", "variant": variant, "size": 224, "precision": "fp32",
        "model": f"ssld_stage2/{variant}/seed=0", "state": "measured" if known else "failed",
        "reason": "" if known else "it stopped", "value": value, "right": None, "n": 1000,
        "low": value - 0.02 if known else None, "high": value + 0.02 if known else None,
        "p50_ms": ms, "p90_ms": ms, "cpu_ms": ms, "gmacs": 0.3, "bytes": 9_000_000 if ms else None,
        "behind": None, "behind_error": None, "file": "model.onnx" if known else None, **changes,
    }  # fmt: skip


def sweep(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "mine", "run": "seed=0", "run_command": "kedro run --env mine",
        "metric": "top1", "split": "val", "n": 1000, "has_test": False, "budget_ms": 5.0,
        "used": None, "leader": None, "fastest": None, "engine": "ort", "device": "a CPU",
        "threads": 1, "n_timed": 2000, "load_average": 0.5, "processors": 2,
        "rows": list(rows), **changes,
    }  # fmt: skip


B0, B1 = "b0 at 224 px fp32", "b1 at 224 px fp32"
LEVEL = row("b0", 0.912, 3.1, behind=0.008, behind_error=0.007), row("b1", 0.92, 4.8)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            sweep(*LEVEL, used=B1, leader=B1, fastest=B0),
            f"{B1}: 92.0 % (95 %: 90.0 to 94.0) at 4.80 ms, the most accurate within 5 ms.",
        ),
        (
            sweep(*LEVEL, used=B1, leader=B1, fastest=B0, budget_ms=None),
            f"{B1}: 92.0 % (95 %: 90.0 to 94.0) at 4.80 ms, the most accurate of all.",
        ),
        (
            sweep(*LEVEL, used=B0, leader=B1, fastest=B0),
            f"{B0}: 91.2 % (95 %: 89.2 to 93.2) at 3.10 ms, the fastest of those level within "
            f"noise with the most accurate within 5 ms, {B1} (92.0 % (95 %: 90.0 to 94.0) at 4.80 "
            "ms; difference +0.8 points, 95 %: −0.6 to +2.2).",
        ),
        (
            sweep(row("b0", 0.912, 7.0), fastest=B0),
            f"No model answers within 5 ms: the fastest is {B0}, 91.2 % (95 %: 89.2 to 93.2) at "
            "7.00 ms.",
        ),
        (sweep(row("b0", None, None)), "Nothing can be recommended: no model was measured."),
    ],
)
def test_the_sentence(table: dict[str, Any], said: str) -> None:
    assert recommendation(table) == said


@pytest.mark.parametrize("measured", [0, 1, 2])
def test_the_page_is_whole_loads_nothing_and_names_every_failure(
    tmp_path: Path, measured: int
) -> None:
    rows = [*LEVEL[:measured], row("b4", None, None, reason=f"its loss is {HOSTILE}")]
    used = rows[measured - 1]["name"] if measured else None
    table = sweep(*rows, used=used, leader=used, fastest=B0 if measured else None, has_test=True)
    text = build_sweep_page(table, tmp_path / "page.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and {"table", "svg"} <= parser.seen and "script" not in parser.seen
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    assert "b4 at 224 px fp32 failed: its loss is" in text and HOSTILE not in text
    assert ("--params model=ssld_stage2/" in text) == bool(measured)
    assert [each["model"] for each in terminal_rows(table)] == [each["name"] for each in rows]


def test_the_report_on_a_run_has_the_sentence_and_the_way_to_the_page(tmp_path: Path) -> None:
    table = sweep(*LEVEL, used=B1, leader=B1, fastest=B0)
    path = write_json(tmp_path / "sweep" / "seed=0" / "sweep.json", table)
    inputs = ReportInputs(dataset="mine", home=tmp_path / "report", own={"sweep": path})
    said, link = sweep_blocks(inputs, FileLedger())
    assert isinstance(said, Text) and said.text == recommendation(table)
    assert isinstance(link, Link) and link.href == "../sweep/seed=0/sweep_report.html"
    assert sweep_blocks(ReportInputs(dataset="mine"), FileLedger()) == []


@pytest.mark.parametrize(("load", "said"), [(None, False), (2.0, False), (2.1, True)])
def test_times_taken_on_a_busy_machine_are_called_that(
    tmp_path: Path, load: float | None, said: bool
) -> None:
    page = build_sweep_page(sweep(*LEVEL, load_average=load), tmp_path / "page.html")
    assert ("Other work was running" in page.read_text(encoding="utf-8")) == said


def test_the_plot_has_a_point_for_each_measured_model_the_budget_and_the_front() -> None:
    slow = row("b2", 0.9, 6.0)  # slower and worse than b1
    table = sweep(*LEVEL, slow, row("b4", None, None), used=B0, leader=B1, fastest=B0)
    root = ElementTree.fromstring(pareto_plot(table))  # noqa: S314
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [
        "b0, recommended (224 px fp32): 91.20 at 3.1",
        "b1 (224 px fp32): 92.00 at 4.8",
        "b2 (224 px fp32): 90.00 at 6",
    ]
    assert "budget 5 ms" in {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    marks = [Mark(each["p50_ms"], each["value"], each["variant"], "") for each in (slow, *LEVEL)]
    assert [mark.label for mark in pareto_front(marks)] == ["b0", "b1"]
