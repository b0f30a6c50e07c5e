"""The exported model answers images; every input gets a row, a bad one its reason."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.deployment.prediction import (
    chosen_inputs,
    prediction_result,
    write_predictions,
)
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import PredictionParams
from hgnetv2_pipeline.project.run import Run


def predict(
    run: Run, params: PredictionParams, images: list[str], lists: Path, bundle: Path
) -> tuple[Path, Path]:
    """Write the answers in every format: rows, PaddleClas's two kinds of line, and a sheet."""
    inputs, model = chosen_inputs(run, images, Lists(lists)), bundle / "model.onnx"
    made = run.produce(
        prediction_result(run, params, images, inputs, model),
        lambda aside: write_predictions(aside, run, params, inputs, model),
    )
    return made.folder / "predictions.jsonl", made.folder / "predictions.png"
