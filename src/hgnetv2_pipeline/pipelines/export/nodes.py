"""A model as a folder that any machine can run: ONNX, labels, preprocessing, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import new_record
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.deployment.exporting import (
    export_result,
    target_result,
    write_export,
)
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.run import Run


def export(
    run: Run, params: ExportParams, lists: Path, *trained: Path
) -> tuple[Path, dict[str, Any]]:
    """Export ``model`` to ONNX, checked before it lands under its name; and what ``target`` adds.

    ``lists``: the images that lower precisions are calibrated on and judged by; an fp32 export
    needs none. ``trained`` are the models that need no name; they order the nodes.
    """
    known = Lists(lists)
    target_result(
        run, params, known
    )  # what it needs and is missing is said before anything is made
    made = run.produce(
        export_result(run, params, known), lambda aside: write_export(aside, run, params, known)
    )
    if added := target_result(run, params, known):
        run.produce(*added)
    return made.folder, new_record(made, read_json(made.folder / "manifest.json"))
