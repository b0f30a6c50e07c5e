"""A model as a folder that any machine can run: ONNX, labels, preprocessing, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import new_record
from hgnetv2_pipeline.deployment.choices import DEVICE_ENGINES
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.deployment.exporting import (
    device_result,
    export_result,
    kit_result,
    plans_result,
    write_device_export,
    write_export,
    write_plans,
    write_tensorrt_kit,
)
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.run import Run


def export(
    run: Run, params: ExportParams, lists: Path, *trained: Path
) -> tuple[Path, dict[str, Any]]:
    """Export ``model`` to ONNX, checked before it lands under its name; kit or plans if asked.

    ``lists``: the images that lower precisions are calibrated on and judged by; an fp32 export
    needs none. ``trained`` are the models that need no name; they order the nodes.
    """
    known = Lists(lists)
    plans = plans_result(run, params) if params.target == "tensorrt-rtx" else None
    device = device_result(run, params, known) if params.target in DEVICE_ENGINES else None
    made = run.produce(
        export_result(run, params, known), lambda aside: write_export(aside, run, params, known)
    )
    if params.target == "tensorrt-kit":
        run.produce(
            kit_result(run, params, known),
            lambda aside: write_tensorrt_kit(aside, run, params, known),
        )
    if plans:
        run.produce(plans, lambda aside: write_plans(aside, run, params))
    if device:
        run.produce(device, lambda aside: write_device_export(aside, run, params, known))
    return made.folder, new_record(made, read_json(made.folder / "manifest.json"))
