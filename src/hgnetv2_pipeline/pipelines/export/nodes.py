"""A model as a folder that any machine can run: ONNX, labels, preprocessing, manifest, card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import new_record
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.deployment.card_files import card_inputs, card_result, write_card
from hgnetv2_pipeline.project.deployment.exporting import (
    export_result,
    target_result,
    write_export,
)
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import ExportParams
from hgnetv2_pipeline.project.run import Run


def export(
    run: Run, params: ExportParams, lists: Path, *earlier: Path
) -> tuple[Path, dict[str, Any]]:
    """Export ``model`` to ONNX, checked before it lands under its name; what ``target`` adds; and
    a model card of what is known by then.

    ``lists``: the images that lower precisions are calibrated on and judged by; an fp32 export
    needs none. ``earlier`` orders the nodes: models that need no name, and their evaluation.
    """
    known = Lists(lists)
    # What it needs and is missing is said before anything is made.
    target_result(run, params, known)
    made = run.produce(
        export_result(run, params, known), lambda aside: write_export(aside, run, params, known)
    )
    if added := target_result(run, params, known):
        run.produce(*added)
    said = card_inputs(run, params.card, known)
    run.produce(card_result(run, said), lambda aside: write_card(aside, said))
    return made.folder, new_record(made, read_json(made.folder / "manifest.json"))
