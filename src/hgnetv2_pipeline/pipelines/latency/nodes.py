"""How fast the exported model answers, by the seed page's protocol, beside other models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import Unchanged
from hgnetv2_pipeline.durable import read_json, update_json
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.latency_sweep import Sweep, key_figures
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.results import Reuse, note_made


def measure(
    identity: Identity, params: LatencyParams, device: str, redo: list[str], bundle: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Time ``model`` and those ``beside`` it; one JSON an engine, precision and batch size."""
    # One thread is what a server gives a request; OpenMP and ONNX Runtime read this at start.
    os.environ["OMP_NUM_THREADS"] = str(params.threads)
    sweep = Sweep(
        identity,
        params,
        Reuse(identity.project, redo),
        size=read_json(bundle / "preprocess.json")["crop"],
        device=None if device == "auto" else device,
    )
    sweep.run()
    if not sweep.rows:
        raise ParameterError(
            f"latency: none of {', '.join(params.engines)} can run here: "
            f"{sweep.not_run[0]['reason']} (latency.engines)"
        )
    summary = identity.folder("latency") / "latency.json"
    record = {
        **key_figures(identity.model, sweep.rows),
        "rows": sweep.rows,
        "not_run": sweep.not_run,
    }
    update_json(summary, record)
    if sweep.new:
        note_made(summary)  # its figures go to MLflow
    return summary.parent, summary, {"rows": sweep.new} if sweep.new else Unchanged()
