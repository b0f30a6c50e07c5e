"""Counts first, ratios second: a model on one set of the dataset."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import Unchanged
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.project.identity import Identity, result_name
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import model_inputs
from hgnetv2_pipeline.project.params import EvaluationParams
from hgnetv2_pipeline.project.results import Reuse

_log = logging.getLogger(__name__)


def evaluate(
    identity: Identity,
    params: EvaluationParams,
    split: str,
    device: str,
    redo: list[str],
    lists: Path,
    trained: Path,
) -> tuple[Path, Path, Path, dict[str, Any]]:
    """Measure ``model`` on ``split``: JSON with the counts, parquet with a row an image.

    ``trained`` is the run that the default model is; it is there for the order of the nodes.
    """
    name = result_name(
        split, params.engine, params.precision, resize_short=params.resize_short, fast=params.fast
    )
    folder = identity.folder("evaluation")
    known = Lists(lists)

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.project import models

        found = models.evaluate(
            identity,
            identity.model,
            known,
            split,
            device=device,
            batch_size=params.batch_size,
            workers=params.workers,
            max_bad=params.max_bad,
            engine=params.engine,
            precision=params.precision,
            resize_short=params.resize_short,
            fast=params.fast,
        )
        write_json(aside / f"{name}.json", found.metrics)
        found.rows.to_parquet(aside / f"{name}.parquet", index=False)

    inputs = {
        "split": known.index(split),
        **model_inputs(identity, params.engine, params.precision),
    }
    result = Reuse(identity.project, redo).produce(
        folder,
        name=name,
        pipeline="evaluation",
        inputs=inputs,
        params={"model": identity.model, "split": split, "engine": params.engine,
                "precision": params.precision, "resize_short": params.resize_short,
                "fast": params.fast, "max_bad": params.max_bad, "classes": known.classes,
                **({"device": device} if params.engine == "torch" else {})},
        outputs=[f"{name}.json", f"{name}.parquet"],
        make=make,
    )  # fmt: skip
    metrics = read_json(folder / f"{name}.json")
    if metrics.get("task") == "multi_label":
        _log.info(
            "%s on %s: mAP %.2f %% (%d classes, %d images), F1 micro %.4f, macro %.4f",
            identity.model, split, 100 * metrics["map"], metrics["map_classes"],
            metrics["n_listed"], metrics["f1_micro"], metrics["f1_macro"],
        )  # fmt: skip
    else:
        _log.info(
            "%s on %s: top-1 %.2f %% (%d of %d)", identity.model, split, 100 * metrics["top1"],
            metrics["top1_count"], metrics["n_listed"],
        )  # fmt: skip
    kept = {key: value for key, value in metrics.items() if isinstance(value, str | int | float)}
    record = Unchanged() if result.reused else {**kept, "fingerprint": result.fingerprint}
    return folder, folder / f"{name}.json", folder / f"{name}.parquet", record
