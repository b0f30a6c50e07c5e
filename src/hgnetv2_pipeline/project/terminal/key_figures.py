"""The one figure by which each stage is known, read from the files that it made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.printable import printable
from hgnetv2_pipeline.project.evaluation import evaluation_name
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import EvaluationParams

_log = logging.getLogger(__name__)


def key_figure(stage: str, identity: Identity, params: Mapping[str, Any]) -> str:
    """What ``stage`` came to, in a few words; empty where it has no figure, or its file is not
    readable."""
    read = _FIGURES.get(stage)
    if read is None:
        return ""
    try:
        return printable(read(identity, params))
    except (OSError, ValueError, LookupError, TypeError) as error:
        _log.info("%s has no key figure: %r", stage, error)
        return ""


def _ingestion(identity: Identity, _params: Mapping[str, Any]) -> str:
    sets = read_json(identity.folder("dataset_report") / "summary.json")["sets"]
    return ", ".join(f"{name} {each['n_images']:,}" for name, each in sets.items()) + " images"


def _teacher(identity: Identity, _params: Mapping[str, Any]) -> str:
    record = read_json(identity.folder("train_teacher") / "teacher.json")
    val = record["val"]
    members = len(record["members"])
    return f"{val['split']} {_percent(val['top1_count'] / val['n'])}, " + (
        f"{members} members" if members > 1 else "1 member"
    )


def _mining(identity: Identity, _params: Mapping[str, Any]) -> str:
    audit = read_json(identity.folder("mining_report") / "audit.json")
    pure = audit.get("estimate") or {}
    purity = f", purity {_percent(pure['estimate'])}" if pure.get("estimate") is not None else ""
    return f"{audit['selected']:,} of {audit['pool_listed']:,} images of the pool mined{purity}"


def _training(stage: str) -> Callable[[Identity, Mapping[str, Any]], str]:
    def read(identity: Identity, _params: Mapping[str, Any]) -> str:
        result = read_json(identity.folder(stage) / "result.json")
        val = result["val"]
        score = f"mAP {_percent(val['map'])}" if "map" in val else _percent(val["top1"])
        return f"val {score}, {result['steps']:,} steps"

    return read


def _comparison(identity: Identity, _params: Mapping[str, Any]) -> str:
    rows = read_json(identity.folder("comparison_report") / "comparison.json")["rows"]
    return f"{len(rows)} trainings compared"


def _best(identity: Identity, _params: Mapping[str, Any]) -> str:
    return f"{read_json(identity.folder('best') / 'choice.json')['used']} is used"


def _evaluation(identity: Identity, params: Mapping[str, Any]) -> str:
    name = evaluation_name(EvaluationParams.model_validate(params["evaluation"]), params["split"])
    found = read_json(identity.folder("evaluation") / f"{name}.json")
    score = f"mAP {_percent(found['map'])}" if "map" in found else _percent(found["top1"])
    return f"{params['split']} {score} of {found['n_listed']:,} images"


def _export(identity: Identity, _params: Mapping[str, Any]) -> str:
    files = sorted(identity.folder("export").glob("model*.onnx"))
    return ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files)


def _latency(identity: Identity, _params: Mapping[str, Any]) -> str:
    rows = read_json(identity.folder("latency") / "latency.json")["rows"]
    own = [
        row
        for row in rows
        if row.get("model") == identity.model and row.get("batch_size") == 1 and "p50_ms" in row
    ]
    first = min(own, key=lambda row: float(row["p50_ms"]))
    return (
        f"{first['p50_ms']:.3g} ms per image at the median ({first['engine']}, "
        f"{first['precision']})"
    )


def _label_errors(identity: Identity, _params: Mapping[str, Any]) -> str:
    found = read_json(identity.folder("label_errors") / "label_errors.json")
    low, high = found["interval"]
    return (
        f"about {found['estimate']:.0f} of {found['images']:,} labels are wrong "
        f"(95 %: {low:.0f} to {high:.0f})"
    )


_FIGURES: Mapping[str, Callable[[Identity, Mapping[str, Any]], str]] = {
    "ingestion": _ingestion,
    "train_teacher": _teacher,
    "mining": _mining,
    **{stage: _training(stage) for stage in ("ssld_stage1", "ssld_stage2", "train", "finetune")},
    "comparison": _comparison,
    "best": _best,
    "evaluation": _evaluation,
    "export": _export,
    "latency": _latency,
    "label_errors": _label_errors,
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
