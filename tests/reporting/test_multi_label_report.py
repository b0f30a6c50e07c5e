"""The report on several labels per image: one table, one row per class, and all adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_inputs import evaluation

from hgnetv2_pipeline.evaluation.metrics import summarise_multi_label
from hgnetv2_pipeline.reporting.build import build_report
from hgnetv2_pipeline.reporting.chapters import accuracy
from hgnetv2_pipeline.reporting.inputs import ReportInputs


def result(model: str, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 3)) < [0.5, 0.2, 0.0]).astype(np.uint8)
    found = summarise_multi_label(rng.normal(truth, 1), truth, ["<cat>", "dog", "gnu"], None)
    counts = {"n_listed": 81, "n_used": 80, "n_quarantined": 1, "n_refused": 0}
    names = {"model": model, "split": "val", "engine": "torch", "precision": "fp32"}
    return {"task": "multi_label", **names, **counts, **found, **changes}


def test_a_row_an_evaluation_and_a_row_a_class() -> None:
    one = result("train/b0/seed=0")
    (row,) = accuracy.map_table([one]).records()
    assert row["mAP %"] == f"{100 * one['map']:.2f}"
    assert (row["images"], row["left out"], row["classes"]) == ("80", "1", "2")
    rows = accuracy.class_metrics_table(one).records()
    assert rows[-1]["class"] == "gnu" and rows[-1]["AP %"] == "–"
    assert rows[0]["AP %"] <= rows[1]["AP %"]


def test_the_report_shows_them_beside_evaluations_of_one_label(tmp_path: Path) -> None:
    files = []
    given = [
        result("train/b0/seed=0"), result("train/b1/seed=0", true_positives=1),
        evaluation("train/b2/seed=0", 611),
    ]  # fmt: skip
    for place, value in enumerate(given):
        files.append(tmp_path / f"{place}.json")
        files[-1].write_text(json.dumps(value))
    inputs = ReportInputs(dataset="mine", root=tmp_path, evaluations=tuple(files))
    page = build_report(inputs, tmp_path / "out")
    text = page.with_suffix(".md").read_text("utf-8")
    assert "mean average precision" in text and "train/b0/seed=0" in text
    assert "of the classes do not add up to 1" in text
    assert "87.3" in text, "the one of one label"
    assert "&lt;cat&gt;" in page.read_text("utf-8")


@pytest.mark.parametrize("changes", [{"n_used": None}, {"n_listed": 80}, {"false_negatives": 0}])
def test_counts_that_do_not_add_up_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="evaluation of m on val"):
        accuracy.check_counts(result("m", **changes))
