"""An evaluation as a result: what it depends on, its files, and its line in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.project.identity import result_name
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import model_inputs
from hgnetv2_pipeline.project.params import EvaluationParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

_log = logging.getLogger(__name__)


def evaluation_result(run: Run, params: EvaluationParams, split: str, lists: Lists) -> ResultSpec:
    """JSON with the counts, and parquet with a row per image, in this order."""
    name, model = _name(params, split), run.identity.model
    decides = {"engine", "precision", "resize_short", "fast", "max_bad"}
    # What is exported runs where its engine does.
    device = {"device": run.device} if params.engine == "torch" else {}
    return ResultSpec(
        folder=run.folder("evaluation"),
        name=name,
        pipeline="evaluation",
        inputs={
            "split": lists.index(split),
            **model_inputs(run.identity, params.engine, params.precision),
        },
        params={
            **params.model_dump(mode="json", include=decides),
            **device,
            "model": model,
            "split": split,
            "classes": lists.classes,
        },
        outputs=[f"{name}.json", f"{name}.parquet"],
    )


def write_evaluation(
    aside: Path, run: Run, params: EvaluationParams, split: str, lists: Lists
) -> None:
    """Measure the model of ``run`` and write both files."""
    from hgnetv2_pipeline.project import models

    found = models.evaluate(run, run.identity.model, lists, split, params)
    name = _name(params, split)
    write_json(aside / f"{name}.json", found.metrics)
    found.rows.to_parquet(aside / f"{name}.parquet", index=False)


def measure_run(
    run: Run, params: EvaluationParams, model: str, split: str, lists: Lists
) -> tuple[Path, Path]:
    """The counts and the rows of ``model`` on ``split``, in PyTorch and float32.

    It is the evaluation of that model, with its name, and is reused as such.

    Raises:
        WeightsError: it gives no answers, as after a training that diverged.
    """
    params = params.model_copy(update={"engine": "torch", "precision": "fp32"})
    identity = run.identity.model_copy(update={"model": model})
    its = run.model_copy(update={"identity": identity})
    # Another command may evaluate the same model: both need the same figure.
    spec = replace(evaluation_result(its, params, split, lists), wait=True)
    made = its.produce(spec, lambda aside: write_evaluation(aside, its, params, split, lists))
    counts, rows = (made.folder / name for name in spec.outputs)
    return counts, rows


def _name(params: EvaluationParams, split: str) -> str:
    return result_name(
        split, params.engine, params.precision, resize_short=params.resize_short, fast=params.fast
    )


def log_metrics(model: str, split: str, metrics: Mapping[str, Any]) -> None:
    """The key figure on one line: top-1, or mAP with several labels."""
    if metrics.get("task") == "multi_label":
        _log.info(
            "%s on %s: mAP %.2f %% (%d classes, %d images), F1 micro %.4f, macro %.4f",
            model, split, 100 * metrics["map"], metrics["map_classes"],
            metrics["n_listed"], metrics["f1_micro"], metrics["f1_macro"],
        )  # fmt: skip
    else:
        _log.info(
            "%s on %s: top-1 %.2f %% (%d of %d)%s", model, split, 100 * metrics["top1"],
            metrics["top1_count"], metrics["n_listed"], _over_classes(metrics),
        )  # fmt: skip


def _over_classes(metrics: Mapping[str, Any]) -> str:
    """What an evaluation of before does not have."""
    if metrics.get("balanced_accuracy") is None:
        return ""
    return (
        f", balanced {100 * metrics['balanced_accuracy']:.2f} %, F1 macro {metrics['f1_macro']:.4f}"
    )
