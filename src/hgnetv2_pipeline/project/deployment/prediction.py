"""Predictions as a result: which images are answered, and the answers in every format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import PredictionParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hgnetv2_pipeline.deployment.inputs import ImageInput

_FILES = ("jsonl", "txt", "infer.txt", "csv", "parquet", "png")
_SHOWN = 64


def chosen_inputs(run: Run, images: Sequence[str], lists: Lists) -> list[ImageInput]:
    """The images named: files, folders, globs, lists; some of val where none are."""
    from hgnetv2_pipeline.deployment.inputs import expand_inputs

    given = [str(run.identity.project / Path(image).expanduser()) for image in images]
    return expand_inputs(given or _of_val(run, lists))


def _of_val(run: Run, lists: Lists) -> list[ImageInput]:
    """Sixteen validation images, spread over the list: what is answered when nothing was named."""
    from hgnetv2_pipeline.deployment.inputs import ImageInput, Span

    frame = lists.frame("val")
    chosen = frame.iloc[:: max(1, len(frame) // 16)].head(16)
    columns = [chosen[name].tolist() for name in ("key", "path", "offset", "length")]
    found = []
    for key, relative, offset, length in zip(*columns, strict=True):
        path = run.folder("raw") / relative
        if offset < 0:
            found.append(ImageInput(str(path), path))
        else:
            member = key.removeprefix(f"{relative}!")
            found.append(ImageInput(f"{path}!{member}", Span(path, offset, length)))
    return found


def prediction_result(
    run: Run,
    params: PredictionParams,
    images: Sequence[str],
    inputs: Sequence[ImageInput],
    model: Path,
) -> ResultSpec:
    """The answers of ``model`` to ``inputs``, which ``images`` named."""
    # What a glob or a list stands for today: other images are other answers.
    sources = [getattr(entry.source, "path", entry.source) for entry in inputs]
    files = list(dict.fromkeys(source for source in sources if isinstance(source, Path)))
    class_map = _class_map(run, params)
    return ResultSpec(
        folder=run.folder("prediction"),
        pipeline="prediction",
        inputs={
            "model": model,
            "names": "\n".join(entry.name for entry in inputs),
            "images": run.reuse.contents(files),
            **({"class map": class_map} if class_map else {}),
        },
        params={**params.model_dump(mode="json"), "images": [*images] or ["val"]},
        outputs=[f"predictions.{ending}" for ending in _FILES],
    )


def _class_map(run: Run, params: PredictionParams) -> Path | None:
    return run.identity.project / params.class_map if params.class_map else None


def write_predictions(
    aside: Path, run: Run, params: PredictionParams, inputs: list[ImageInput], model: Path
) -> None:
    """Answer ``inputs`` and write rows, PaddleClas's two kinds of line, tables and a sheet."""
    from hgnetv2_pipeline.data.classmap import read_class_map
    from hgnetv2_pipeline.deployment import prediction_formats
    from hgnetv2_pipeline.deployment.engines import ladder
    from hgnetv2_pipeline.deployment.predict import check_predictions, predict_paths

    class_map, project = _class_map(run, params), run.identity.project
    with ladder.load_engine(
        model, engine=params.engine, device=None if run.device == "auto" else run.device,
        batch_size=min(params.batch_size, max(len(inputs), 1)),
    ) as engine:  # fmt: skip
        several = params.multi_label
        if several is None:
            several = engine.card.multi_label
        decoding = engine.preprocess.decoding
        every = len(engine.classes)
        topk = min(params.topk or (every if several else 5), every)
        records = predict_paths(
            engine,
            inputs,
            topk=topk,
            threshold=params.threshold,
            multi_label=several,
            batch_size=params.batch_size,
            label_names=read_class_map(class_map) if class_map else None,
        )
    for record in records:
        path = Path(record["file_name"])
        if path.is_relative_to(project):
            record["file_name"] = path.relative_to(project).as_posix()
    check_predictions(records)
    prediction_formats.write_predictions_jsonl(aside / "predictions.jsonl", records)
    prediction_formats.write_predictions_csv(aside / "predictions.csv", records, topk=topk)
    prediction_formats.write_predictions_parquet(aside / "predictions.parquet", records)
    prediction_formats.write_lines(
        aside / "predictions.txt", map(prediction_formats.format_predict_cls, records)
    )
    prediction_formats.write_lines(
        aside / "predictions.infer.txt", [prediction_formats.format_infer(records)]
    )
    sheet = prediction_formats.prediction_sheet(
        inputs[:_SHOWN],
        records[:_SHOWN],
        multi_label=several,
        decoding=decoding,
    )
    sheet.save(aside / "predictions.png")
