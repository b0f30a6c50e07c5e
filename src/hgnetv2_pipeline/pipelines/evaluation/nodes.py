"""Counts first, ratios second: a model on one set of the dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import new_record
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.evaluation import (
    error_analysis_result,
    evaluation_result,
    log_metrics,
    write_error_analysis,
    write_evaluation,
)
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import EvaluationParams
from hgnetv2_pipeline.project.run import Run


def evaluate(
    run: Run, params: EvaluationParams, split: str, lists: Path, *trained: Path
) -> tuple[Path, Path, Path, dict[str, Any]]:
    """Measure ``model`` on ``split``: JSON with the counts, parquet with a row per image.

    ``trained`` are the models that need no name, the best one and stage 2's; they order the nodes.
    """
    known = Lists(lists)
    spec = evaluation_result(run, params, split, known)
    made = run.produce(spec, lambda aside: write_evaluation(aside, run, params, split, known))
    counts, rows = (made.folder / name for name in spec.outputs)
    metrics = read_json(counts)
    log_metrics(run.identity.model, split, metrics)
    plain = {key: value for key, value in metrics.items() if isinstance(value, str | int | float)}
    return made.folder, counts, rows, new_record(made, plain)


def analyse_errors(
    run: Run, params: EvaluationParams, split: str, lists: Path, measured: Path
) -> Path:
    """How sure the answers are, and the surest wrong ones with pictures; from the rows."""
    known = Lists(lists)
    rows = measured / evaluation_result(run, params, split, known).outputs[1]
    spec = error_analysis_result(run, params, split, known, rows)
    made = run.produce(
        spec,
        lambda aside: write_error_analysis(
            aside, run, params, split, known, rows.with_suffix(".json")
        ),
    )
    return made.folder.parent
