"""Evaluations of several labels an image: mAP, F1 with the model's thresholds, and every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import figures, formats
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Table, Text, table_of

Json = Mapping[str, Any]
_FEW = 40  # classes up to which their average precision is drawn


def is_multi_label(result: Json) -> bool:
    """Whether an evaluation's JSON is of images with several labels."""
    return result.get("task") == "multi_label"


def check_counts(result: Json) -> None:
    """Raise DataError unless an evaluation's counts add up over its classes."""
    name = f"evaluation of {result.get('model')} on {result.get('split')}"
    rows = result.get("per_class") or []
    for part in ("true_positives", "false_positives", "false_negatives"):
        if result.get(part) != sum(int(row[part]) for row in rows):
            raise DataError(f"{name}: {part} of the classes do not add up to {result.get(part)}")
    listed, used = result.get("n_listed"), result.get("n_used")
    left_out = int(result.get("n_quarantined") or 0) + int(result.get("n_refused") or 0)
    if used is None or listed != int(used) + left_out:
        raise DataError(f"{name}: {listed} listed, but {used} used and {left_out} left out")


def map_table(results: Sequence[Json]) -> Table:
    """A row an evaluation: mAP, F1 over all and as a mean over classes, images wholly right."""
    records = []
    for result in results:
        listed = int(result["n_listed"])
        left_out = listed - int(result["n_used"])
        records.append(
            {
                "model": formats.words(result.get("model")),
                "split": formats.words(result.get("split")),
                "engine": formats.words(result.get("engine")),
                "precision": formats.words(result.get("precision")),
                "images": formats.count(result["n_used"]),
                "left out": formats.count(left_out),
                "classes": formats.count(result.get("map_classes")),
                "mAP %": formats.percent(formats.number(result.get("map")), 10_000),
                "F1 micro %": formats.percent(formats.number(result.get("f1_micro")), listed),
                "F1 macro %": formats.percent(formats.number(result.get("f1_macro")), listed),
                "all right %": formats.percent(int(result["exact_count"]) / listed, listed),
            }
        )
    return table_of(
        records, list(records[0]), left=("model", "split", "engine", "precision"),
        caption="Several labels an image: mean average precision by model, engine and precision",
    )  # fmt: skip


def class_table(result: Json) -> Table:
    """A row a class, the weakest first; classes without a positive last."""
    rows = sorted(
        result["per_class"], key=lambda row: (row["ap"] is None, row["ap"] or 0.0, row["class"])
    )
    records = [
        {
            "class": str(row["class"]),
            "images": formats.count(row["n"]),
            "AP %": formats.percent(formats.number(row["ap"])),
            "threshold": formats.significant(row["threshold"]),
            "precision %": formats.percent(formats.number(row["precision"])),
            "recall %": formats.percent(formats.number(row["recall"])),
            "F1 %": formats.percent(formats.number(row["f1"])),
        }
        for row in rows
    ]
    return table_of(
        records, list(records[0]), left=("class",),
        caption=f"All {len(records)} classes, weakest first",
    )  # fmt: skip


def map_blocks(results: Sequence[Json]) -> list[Block]:
    """The table, and the classes of each model and set, folded away after the first."""
    if not results:
        return []
    blocks: list[Block] = [
        map_table(results),
        Text(
            "mAP is the mean over the classes that have an image of their average precision "
            "(scikit-learn's: no interpolation). F1 is at the thresholds that travel with the "
            "weights, chosen on val for the best F1 of each class."
        ),
    ]
    first: dict[tuple[str, str], Json] = {}
    for result in results:
        first.setdefault((str(result.get("model")), str(result.get("split"))), result)
    for place, ((model, split), result) in enumerate(first.items()):
        inner: list[Block] = [class_table(result)]
        bars = [
            (str(row["class"]), round(100 * float(row["ap"]), 1))
            for row in result["per_class"]
            if row["ap"] is not None
        ]
        if bars and len(bars) <= _FEW:
            drawing = figures.bars(bars, x_label="average precision, %")
            inner.append(Figure((drawing,), "Average precision a class, in class order."))
        blocks.append(Fold(f"Classes of {model} on {split}", tuple(inner), open=place == 0))
    return blocks
