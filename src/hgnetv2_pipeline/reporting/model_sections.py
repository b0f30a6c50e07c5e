"""The chapters about what the models answer: accuracy, published figures, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import figures, formats, multi_label, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Notice, Text
from hgnetv2_pipeline.reporting.inputs import AbsentError, Ledger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import embed
from hgnetv2_pipeline.reporting.published import PublishedModel, beside_table, published_table
from hgnetv2_pipeline.reporting.sections import read_all

Json = Mapping[str, Any]
_FEW = 30  # classes up to which a confusion matrix is drawn
_SHOWN_PREDICTIONS = 12
_NOT_COMPARABLE = (
    "Measured and published accuracies stand side by side for orientation only: these are other "
    "images and other classes than ImageNet-1k's, so a difference between them says nothing."
)


def read_evaluations(inputs: ReportInputs, ledger: Ledger) -> tuple[list[Json], list[Block]]:
    """Evaluations of one label an image whose counts add up, in a fixed order, and a warning for
    each other.
    """
    found, troubles = _read_sound(inputs, ledger)
    return [result for result in found if not multi_label.is_multi_label(result)], troubles


def _read_sound(inputs: ReportInputs, ledger: Ledger) -> tuple[list[Json], list[Block]]:
    found, troubles = read_all(inputs.evaluations, "evaluation", ledger)
    sound = []
    for result in found:
        try:
            if multi_label.is_multi_label(result):
                multi_label.check_counts(result)
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


def evaluation_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """Accuracy of every model, engine and precision; classes and confusions of each model."""
    found, troubles = _read_sound(inputs, ledger)
    several = [result for result in found if multi_label.is_multi_label(result)]
    results = [result for result in found if not multi_label.is_multi_label(result)]
    troubles += multi_label.map_blocks(several)
    if not results:
        return troubles
    blocks: list[Block] = [*troubles, tables.evaluation_table(results)]
    blocks.append(
        Text(
            "Accuracy is right answers over images used; the interval is Wilson's at 95 %. ECE is "
            "the expected calibration error: how far the model's confidence is from its accuracy."
        )
    )
    detailed: dict[tuple[str, str], Json] = {}
    for result in results:
        detailed.setdefault((str(result.get("model")), str(result.get("split"))), result)
    for (model, split), result in detailed.items():
        inner = _details(result)
        if inner:
            first = not any(isinstance(block, Fold) for block in blocks)
            blocks.append(Fold(f"Classes of {model} on {split}", tuple(inner), open=first))
    return blocks


def _details(result: Json) -> list[Block]:
    blocks: list[Block] = []
    worst = tables.worst_classes_table(result)
    if worst is not None:
        blocks.append(worst)
    matrix, names = tables.confusion_of(result), tables.class_names(result)
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
    inputs: ReportInputs, ledger: Ledger, models: Sequence[PublishedModel]
) -> list[Block]:
    """Ours beside the published figures, then the published table with its own drawing."""
    blocks: list[Block] = []
    try:
        results, _ = read_evaluations(inputs, ledger)
        if not inputs.comparable:
            # Orientation only: one line a model is enough.
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
        raise AbsentError("published figures: models.zoo names none")
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


def prediction_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """The first predictions and their contact sheet."""
    records, total = ledger.read_jsonl(inputs.predictions, "predictions", _SHOWN_PREDICTIONS)
    if not records:
        raise AbsentError("predictions: the file has no lines")
    shown = f"The first {len(records)} of {formats.count(total)} predictions."
    blocks: list[Block] = [Text(shown), tables.predictions_table(records)]
    if inputs.prediction_sheet is not None:
        blocks += embed((inputs.prediction_sheet,), "Predictions", ledger, budget=300_000)
    return blocks
