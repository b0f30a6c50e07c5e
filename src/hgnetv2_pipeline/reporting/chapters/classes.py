"""The chapter of single classes: how many of each are right, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.reporting import figures, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure
from hgnetv2_pipeline.reporting.chapters.accuracy import is_of_several_labels, read_sound
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sections import preferred

Json = Mapping[str, Any]
_SHOWN, _IN_A_DRAWING = 30, 10


def class_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Bars of the weakest classes with their intervals, and the pairs that are confused most."""
    found, _ = read_sound(inputs, ledger)
    result = preferred(found, inputs.model, "evaluation")
    rows = class_shares(result)
    if not rows:
        return []
    what = "found" if is_of_several_labels(result) else "right"
    drawings = tuple(
        figures.share_bars(
            rows[first : first + _IN_A_DRAWING], x_label=f"images of the class that are {what}, %"
        )
        for first in range(0, min(len(rows), _SHOWN), _IN_A_DRAWING)
    )
    some = "All" if len(rows) <= _SHOWN else f"The {_SHOWN} weakest of"
    caption = (
        f"{some} {len(rows)} classes of {result.get('model')} on {result.get('split')}, the "
        f"weakest first: the bar is the share of the images of a class that are {what}, the line "
        "below it its 95 % interval (Wilson's)."
    )
    blocks: list[Block] = [Figure(drawings, caption)]
    confused = tables.confused_table(result)
    return blocks if confused is None else [*blocks, confused]


def class_shares(result: Json) -> list[figures.CountedShare]:
    """Each class that has an image, the weakest first: right answers, or with several labels the
    images of it that were found.
    """
    if is_of_several_labels(result):
        counts = [
            (str(row["class"]), int(row["n"]), int(row["true_positives"]))
            for row in result["per_class"]
        ]
    else:
        counts = tables.per_class(result)
    rows = [
        figures.CountedShare(name, hits, n, intervals.wilson_interval(hits, n))
        for name, n, hits in counts
        if n > 0
    ]
    return sorted(rows, key=lambda row: (row.hits / row.n, -row.n, row.label))
