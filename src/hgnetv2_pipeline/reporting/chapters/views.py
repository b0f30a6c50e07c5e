"""What the network sees in training: the sheet of views that each training leaves."""

from __future__ import annotations

from dataclasses import replace

from hgnetv2_pipeline.reporting.blocks import Block, Fold, Picture
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import embed

_BUDGET = 400_000  # bytes of all sheets together, before base64


def view_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """A sheet per training, folded away; none of trainings from before there were any."""
    runs = list(inputs.views)
    found = embed([inputs.views[run] for run in runs], "views", ledger, budget=_BUDGET)
    return [
        Fold(
            f"What the network sees in {run}",
            (replace(each, caption=_caption(run)) if isinstance(each, Picture) else each,),
        )
        for run, each in zip(runs, found, strict=True)
    ]


def _caption(run: str) -> str:
    return (
        f"Each row shows an image as evaluation sees it, at the left, and four views of it as the "
        f"recipe of {run} makes them, with what it mixes in or erases."
    )
