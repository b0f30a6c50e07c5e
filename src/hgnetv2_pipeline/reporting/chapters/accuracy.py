"""The chapters about what the models answer: accuracy, published figures, predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import figures, formats, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Notice, Table, Text, table_of
from hgnetv2_pipeline.reporting.chapters.published import (
    PublishedModel,
    beside_table,
    published_table,
)
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import embed
from hgnetv2_pipeline.reporting.sections import read_all

Json = Mapping[str, Any]
_FEW = 30  # classes up to which a confusion matrix is drawn
_SHOWN_PREDICTIONS = 12
_NOT_COMPARABLE = (
    "Measured and published accuracies are side by side for orientation only: these are other "
    "images and other classes than ImageNet-1k's, so a difference between them says nothing."
)


def read_evaluations(inputs: ReportInputs, ledger: FileLedger) -> tuple[list[Json], list[Block]]:
    """Evaluations of one label per image whose counts add up, in a fixed order, and a warning for
    each other.
    """
    found, troubles = read_sound(inputs, ledger)
    return [result for result in found if not is_of_several_labels(result)], troubles


def read_sound(inputs: ReportInputs, ledger: FileLedger) -> tuple[list[Json], list[Block]]:
    """Evaluations whose counts add up, in a fixed order, and a warning for each other."""
    found, troubles = read_all(inputs.evaluations, "evaluation", ledger)
    sound = []
    for result in found:
        try:
            if is_of_several_labels(result):
                check_counts(result)
            else:
                tables.evaluation_counts(result)
                tables.confusion_of(result)
            sound.append(result)
        except DataError as error:
            troubles.append(
                Notice(f"Not shown, because it does not add up: {error}", kind="warning")
            )
    names = ("split", "model", "engine", "precision")
    return sorted(sound, key=lambda r: tuple(str(r.get(name)) for name in names)), troubles


def evaluation_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Accuracy of every model, engine and precision; classes and confusions of each model."""
    found, troubles = read_sound(inputs, ledger)
    several = [result for result in found if is_of_several_labels(result)]
    results = [result for result in found if not is_of_several_labels(result)]
    troubles += map_blocks(several)
    if not results:
        return troubles
    blocks: list[Block] = [*troubles, tables.evaluation_table(results)]
    blocks.append(
        Text(
            "Accuracy is right answers over images used; the interval is Wilson's at 95 %. ECE is "
            "the expected calibration error: how far the model's confidence is from its accuracy. "
            "Balanced accuracy, F1 macro and ROC-AUC (each class against all others) are means "
            "over the classes that have an image: a rare class counts as much as a frequent one."
        )
    )
    detailed: dict[tuple[str, str], Json] = {}
    for result in results:
        detailed.setdefault((str(result.get("model")), str(result.get("split"))), result)
    return [*blocks, *_by_model(detailed, inputs.model)]


def _by_model(detailed: Mapping[tuple[str, str], Json], model: str) -> list[Block]:
    """The classes of the model that the report is about, or of the first; then all others."""
    folds = [
        (name, Fold(f"Classes of {name} on {split}", tuple(inner)))
        for (name, split), result in detailed.items()
        if (inner := _details(result))
    ]
    first = next((fold for name, fold in folds if name == model), folds[0][1] if folds else None)
    others = tuple(fold for _, fold in folds if fold is not first)
    made: list[Block] = [] if first is None else [dataclasses.replace(first, open=True)]
    if others:
        title = f"Classes of other models and sets ({len(others)})"
        made.append(Fold(title, others, printed=False))
    return made


def _details(result: Json) -> list[Block]:
    blocks: list[Block] = []
    worst = tables.worst_classes_table(result)
    if worst is not None:
        blocks.append(worst)
    matrix, names = tables.confusion_of(result), tables.evaluated_classes(result)
    if matrix is not None and 2 <= len(matrix) <= _FEW:
        engine = f"{result.get('engine')}, {result.get('precision')}"
        blocks.append(
            Figure(
                (figures.heat_map(matrix, names),),
                f"Confusion of {result.get('model')} on {result.get('split')} ({engine}): a row is "
                "a true class, a column an answer; blue right, orange wrong, strength the root of "
                "the share of the row.",
            )
        )
    else:
        confused = tables.confused_table(result)
        if confused is not None:
            blocks.append(confused)
    return blocks


def published_blocks(
    inputs: ReportInputs, ledger: FileLedger, models: Sequence[PublishedModel]
) -> list[Block]:
    """Ours beside the published figures, then the published table with its own drawing."""
    blocks: list[Block] = []
    try:
        results, _ = read_evaluations(inputs, ledger)
        if not inputs.comparable:
            # Orientation only: one line per model is enough.
            first = {(r.get("model"), r.get("split")): r for r in reversed(results)}
            results = list(reversed(first.values()))
        beside = beside_table(results, models, comparable=inputs.comparable)
        if beside is not None:
            blocks.append(beside)
            if not inputs.comparable:
                blocks.append(Notice(_NOT_COMPARABLE, kind="warning"))
    except AbsentError as error:
        command = f"{inputs.run_command} --pipeline evaluation"
        blocks.append(Notice(f"Measured accuracy: {error}", command))
    if not models:
        raise AbsentError("published figures: weights.zoo names none")
    blocks.append(published_table(models))
    marks = [
        figures.Mark(model.latency_v100_ms, model.top1, model.variant.upper(), "")
        for model in models
        if model.latency_v100_ms and model.top1
    ]
    if marks:
        drawing = figures.scatter(
            marks, x_label="latency on V100, ms, log scale", y_label="ImageNet-1k top-1, %"
        )
        caption = (
            "PUBLISHED by PaddleClas, not measured here: stage-2 accuracy against latency on a "
            "V100 with TensorRT 8.5, FP32, batch 1."
        )
        blocks.append(Fold("The published figures as a drawing", (Figure((drawing,), caption),)))
    return blocks


_PREDICTIONS = "The images that were answered, each with its most probable class and probability"


def prediction_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """The first predictions and their contact sheet."""
    records, total = ledger.read_jsonl(inputs.predictions, "predictions", _SHOWN_PREDICTIONS)
    if not records:
        raise AbsentError("predictions: the file has no lines")
    shown = f"The first {len(records)} of {formats.count(total)} predictions."
    blocks: list[Block] = [Text(shown), tables.predictions_table(records)]
    if inputs.prediction_sheet is not None:
        blocks += embed((inputs.prediction_sheet,), _PREDICTIONS, ledger, budget=300_000)
    return blocks


_FEW_CLASSES = 40  # classes up to which their average precision is drawn


def is_of_several_labels(result: Json) -> bool:
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
                "ROC-AUC %": formats.percent(formats.number(result.get("roc_auc")), 10_000),
                "all right %": formats.percent(int(result["exact_count"]) / listed, listed),
            }
        )
    return table_of(
        records, list(records[0]), left=("model", "split", "engine", "precision"),
        drop_empty=("ROC-AUC %",),
        caption="Several labels per image: mean average precision by model, engine and precision",
    )  # fmt: skip


def class_metrics_table(result: Json) -> Table:
    """A row per class, the weakest first; classes without a positive last."""
    rows = sorted(
        result["per_class"], key=lambda row: (row["ap"] is None, row["ap"] or 0.0, row["class"])
    )
    records = [
        {
            "class": str(row["class"]),
            "images": formats.count(row["n"]),
            "AP %": formats.percent(formats.number(row["ap"])),
            "AUC %": formats.percent(formats.number(row.get("auc"))),
            "threshold": formats.significant(row["threshold"]),
            "precision %": formats.percent(formats.number(row["precision"])),
            "recall %": formats.percent(formats.number(row["recall"])),
            "F1 %": formats.percent(formats.number(row["f1"])),
        }
        for row in rows
    ]
    return table_of(
        records, list(records[0]), left=("class",), drop_empty=("AUC %",),
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
        inner: list[Block] = [class_metrics_table(result)]
        bars = [
            (str(row["class"]), round(100 * float(row["ap"]), 1))
            for row in result["per_class"]
            if row["ap"] is not None
        ]
        if bars and len(bars) <= _FEW_CLASSES:
            drawing = figures.bars(bars, x_label="average precision, %")
            inner.append(Figure((drawing,), "Average precision per class, in class order."))
        blocks.append(Fold(f"Classes of {model} on {split}", tuple(inner), open=place == 0))
    return blocks
