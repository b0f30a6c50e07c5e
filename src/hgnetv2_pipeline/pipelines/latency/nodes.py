"""How fast the exported model answers, by PaddleClas's protocol, beside other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import ReusedRecord
from hgnetv2_pipeline.durable import read_json, update_json
from hgnetv2_pipeline.project.deployment.latency_sweep import Sweep
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.results import note_made
from hgnetv2_pipeline.project.run import Run


def measure(run: Run, params: LatencyParams, bundle: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Time ``model`` and those ``beside`` it; one JSON per engine, precision and batch size."""
    sweep = Sweep(run, params, size=read_json(bundle / "preprocess.json")["crop"])
    sweep.measure()
    summary = run.folder("latency") / "latency.json"
    update_json(summary, sweep.summary())
    if sweep.new:
        note_made(summary)  # its figures go to MLflow
    return summary.parent, summary, {"rows": sweep.new} if sweep.new else ReusedRecord()
