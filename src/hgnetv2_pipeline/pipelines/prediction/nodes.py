"""The exported model answers images; every input gets a row, a bad one its reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import PredictionParams
from hgnetv2_pipeline.project.results import Reuse

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.inputs import Input

_FILES = ("jsonl", "txt", "infer.txt", "csv", "parquet", "png")
_SHOWN = 64


def predict(
    identity: Identity,
    params: PredictionParams,
    images: list[str],
    device: str,
    redo: list[str],
    lists: Path,
    bundle: Path,
) -> tuple[Path, Path]:
    """Write the answers in every format: rows, PaddleClas's two kinds of line, and a sheet."""
    from hgnetv2_pipeline.deployment.inputs import expand_inputs

    folder = identity.folder("prediction")
    given = [str(identity.project / Path(image).expanduser()) for image in images]
    class_map = identity.project / params.class_map if params.class_map else None
    todo = expand_inputs(given or _of_val(identity, Lists(lists)))
    # What a glob or a list stands for today: other images are other answers.
    sources = [getattr(entry.source, "path", entry.source) for entry in todo]
    files = list(dict.fromkeys(source for source in sources if isinstance(source, Path)))
    reuse = Reuse(identity.project, redo)
    reuse.produce(
        folder,
        pipeline="prediction",
        inputs={
            "model": bundle / "model.onnx",
            "names": "\n".join(entry.name for entry in todo),
            "images": reuse.contents(files),
            **({"class map": class_map} if class_map else {}),
        },
        params={**params.model_dump(mode="json"), "images": images or ["val"]},
        outputs=[f"predictions.{ending}" for ending in _FILES],
        make=lambda aside: _answer(identity, params, todo, device, class_map, bundle, aside),
    )
    return folder / "predictions.jsonl", folder / "predictions.png"


def _of_val(identity: Identity, lists: Lists) -> list[Input]:
    """Sixteen validation images, spread over the list: what is answered when nothing was named."""
    from hgnetv2_pipeline.deployment.inputs import Input, Span

    frame = lists.frame("val")
    chosen = frame.iloc[:: max(1, len(frame) // 16)].head(16)
    columns = [chosen[name].tolist() for name in ("key", "path", "offset", "length")]
    found = []
    for key, relative, offset, length in zip(*columns, strict=True):
        path = identity.folder("raw") / relative
        if offset < 0:
            found.append(Input(str(path), path))
        else:
            member = key.removeprefix(f"{relative}!")
            found.append(Input(f"{path}!{member}", Span(path, offset, length)))
    return found


def _answer(
    identity: Identity,
    params: PredictionParams,
    todo: list[Input],
    device: str,
    class_map: Path | None,
    bundle: Path,
    aside: Path,
) -> None:
    from hgnetv2_pipeline.data.classmap import read_class_map
    from hgnetv2_pipeline.deployment import prediction_formats
    from hgnetv2_pipeline.deployment.engines import ladder
    from hgnetv2_pipeline.deployment.predict import check_predictions, predict_paths

    place = None if device == "auto" else device
    with ladder.load_engine(
        bundle / "model.onnx", engine=params.engine, device=place,
        batch_size=min(params.batch_size, max(len(todo), 1)),
    ) as engine:  # fmt: skip
        several = params.multi_label
        if several is None:
            several = engine.card.multi_label
        every = len(engine.classes)
        topk = min(params.topk or (every if several else 5), every)
        records = predict_paths(
            engine,
            todo,
            topk=topk,
            threshold=params.threshold,
            multi_label=several,
            batch_size=params.batch_size,
            label_names=read_class_map(class_map) if class_map else None,
        )
    for record in records:
        path = Path(record["file_name"])
        if path.is_relative_to(identity.project):
            record["file_name"] = path.relative_to(identity.project).as_posix()
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
        todo[:_SHOWN], records[:_SHOWN], multi_label=several
    )
    sheet.save(aside / "predictions.png")
