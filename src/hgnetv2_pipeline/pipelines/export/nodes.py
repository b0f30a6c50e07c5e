"""A model as a folder that any machine can run: ONNX, labels, preprocessing, manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import Unchanged
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.measure import model_inputs
from hgnetv2_pipeline.pipelines.params import ExportParams
from hgnetv2_pipeline.pipelines.reuse import Reuse

FILES = ("model.onnx", "labels.txt", "preprocess.json", "manifest.json")


def export(
    identity: Identity, params: ExportParams, redo: list[str], trained: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Export ``model`` to ONNX, checked against torch before it lands under its name."""
    folder = identity.folder("export")

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.deployment import write_bundle
        from hgnetv2_pipeline.pipelines.measure import load_model

        loaded = load_model(identity, identity.model, classes=None)
        write_bundle(
            loaded.network.eval(),
            aside,
            image_size=loaded.preprocess.crop,
            class_names=loaded.classes,
            precision=params.precision,
            preprocess=loaded.preprocess,
            metadata={
                "variant": str(loaded.info.get("variant") or ""),
                "stage": str(loaded.info.get("stage") or ""),
                "model": identity.model,
                "source_sha256": str(loaded.info.get("sha256") or ""),
            },
        )

    result = Reuse(identity.project, redo).produce(
        folder,
        name="export",
        pipeline="export",
        inputs=model_inputs(identity),
        params={**params.model_dump(mode="json"), "model": identity.model},
        outputs=list(FILES),
        make=make,
    )
    record = {**read_json(folder / "manifest.json"), "fingerprint": result.fingerprint}
    return folder, folder / "manifest.json", Unchanged() if result.reused else record
