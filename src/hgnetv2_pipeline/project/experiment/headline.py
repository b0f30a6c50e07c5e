"""The dozen figures by which two runs are compared, and the honest table as a note."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.reporting.comparison import (
    ArmSummary,
    compared_with,
    difference,
    explain_arms,
    summarise_arms,
)

_OF_A_MODEL = ("top1", "map", "ece")
_TRAINED = ("ssld_stage1.run", "train.run")


def headline(files: Mapping[str, Path]) -> dict[str, float]:
    """The figures of a run: accuracies are shares of the images, times milliseconds.

    ``files``: what there is, by its name in the catalog; a folder is one's that shows a file of it.
    """
    found: dict[str, float] = {}
    if "comparison.table" in files:
        found |= _of_arms(_arms(files["comparison.table"]))
    if "evaluation.metrics" in files:
        metrics = read_json(files["evaluation.metrics"])
        split = metrics["split"]
        found |= {f"{split}_{name}": metrics[name] for name in _OF_A_MODEL if name in metrics}
    if "train_teacher.teacher" in files:
        val = read_json(files["train_teacher.teacher"])["val"]
        found["val_top1.teacher"] = val["top1_count"] / val["n"]
    if "mining.audit" in files:
        audit = read_json(files["mining.audit"])
        found |= _purity(audit) | {"mined_images": audit["selected"]}
    if "latency.summary" in files:
        times = read_json(files["latency.summary"])
        found |= {
            f"latency_p50_ms.{name.removesuffix('.p50_ms')}": value
            for name, value in times.items()
            if name.endswith(".p50_ms")
        }
    for name in _TRAINED:
        if name in files and (speed := images_per_second(files[name].parent)):
            found["images_per_second"] = speed
            break
    if "export.bundle" in files:
        onnx = files["export.bundle"].parent / "model.onnx"
        found["onnx_mb"] = round(onnx.stat().st_size / 1e6, 3)
    return found


def note(files: Mapping[str, Path]) -> str:
    """The honest table and what it means, in Markdown; empty where there is no comparison."""
    if "comparison.table" not in files:
        return ""
    from hgnetv2_pipeline.reporting.terminal import summary_rows

    arms = _arms(files["comparison.table"])
    rows = summary_rows(arms)
    columns = list(rows[0])
    table = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([*lines, "", *(f"- {said}" for said in explain_arms(arms))])


def images_per_second(training: Path) -> float | None:
    """Images that a training learnt from in a second of training, over all its parts."""
    timing = training / "timing.json"
    segments = read_json(timing)["segments"] if timing.is_file() else []
    seconds = sum(each["training"] for each in segments)
    return sum(each["images"] for each in segments) / seconds if seconds else None


def _arms(table: Path) -> list[ArmSummary]:
    found = read_json(table)
    return summarise_arms(found["rows"], found["pairs"])


def _of_arms(arms: list[ArmSummary]) -> dict[str, float]:
    found = {f"{arm.split}_top1.{arm.arm}": arm.mean for arm in arms}
    known = {arm.arm: arm for arm in arms}
    base, last = compared_with(arms), known.get("stage2") or known.get("stage1")
    if base and last:
        gain = difference(last, base)
        found[f"gain.{last.arm}_over_{base.arm}"] = gain.gain
        if gain.margin is not None:
            found["gain.margin_95"] = gain.margin
    return found


def _purity(audit: Mapping[str, Any]) -> dict[str, float]:
    """Estimated by hidden labelled images; counted, where the truth of the pool is known."""
    known = {
        "purity.estimate": (audit.get("estimate") or {}).get("estimate"),
        "purity": (audit.get("purity") or {}).get("accuracy"),
    }
    return {name: value for name, value in known.items() if value is not None}
