"""The exported model answers images; every input gets a row, a bad one its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists
from hgnetv2_pipeline.pipelines.params import PredictionParams
from hgnetv2_pipeline.pipelines.reuse import Reuse


def predict(
    identity: Identity,
    params: PredictionParams,
    images: list[str],
    redo: list[str],
    lists: Path,
    bundle: Path,
) -> tuple[Path, Path]:
    """Write ``predictions.jsonl``, ``predictions.txt`` (as PaddleClas prints them) and a sheet."""
    folder = identity.folder("prediction")
    given = [str((identity.project / image).expanduser()) for image in images]
    if not given:
        # Nothing asked for: sixteen validation images, spread over the list.
        frame = Lists(lists).frame("val")
        chosen = frame.iloc[:: max(1, len(frame) // 16)].head(16)
        given = [str(identity.folder("raw") / path) for path in chosen["path"]]

    def make(aside: Path) -> None:
        from hgnetv2_pipeline import deployment as room

        engine = room.load_engine(bundle / "model.onnx", engine=params.engine)
        records = room.predict_paths(
            engine, given, topk=min(params.topk, len(engine.classes)), batch_size=params.batch_size
        )
        for record in records:
            path = Path(record["file_name"])
            if path.is_relative_to(identity.project):
                record["file_name"] = path.relative_to(identity.project).as_posix()
        room.write_predictions_jsonl(aside / "predictions.jsonl", records)
        lines = [room.format_predict_cls(record) for record in records]
        (aside / "predictions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        room.check_predictions(records)
        _sheet(identity, records).save(aside / "predictions.png")

    Reuse(identity.project, redo).produce(
        folder,
        pipeline="prediction",
        inputs={
            "model": bundle / "model.onnx",
            **{
                f"image {number}": Path(path)
                for number, path in enumerate(given)
                if Path(path).exists()
            },
        },
        params={**params.model_dump(mode="json"), "images": images or ["val"]},
        outputs=["predictions.jsonl", "predictions.txt", "predictions.png"],
        make=make,
    )
    return folder / "predictions.jsonl", folder / "predictions.png"


def _sheet(identity: Identity, records: list[Any]) -> Any:
    """The first answers as pictures with the best class and its score."""
    import pandas as pd

    from hgnetv2_pipeline.data import contact_sheet

    good = [record for record in records if "error" not in record][:64]
    paths = [(identity.project / record["file_name"]).resolve() for record in good]
    # A sheet has one root; files to answer may lie anywhere.
    places = pd.DataFrame({"path": [str(path)[1:] for path in paths], "offset": -1, "length": 0})
    captions = [f"{record['label_names'][0]} {record['scores'][0]:.2f}" for record in good]
    return contact_sheet(places, Path("/"), columns=8, cell=96, captions=captions)
