"""Small exported networks and images, made once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deployment_cases import CLASSES, SIDE, formula_model
from PIL import Image

from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import Validation
from hgnetv2_pipeline.deployment.export.precisions import Calibration
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.models.hgnetv2 import Backbone


@pytest.fixture(scope="session")
def b0() -> Backbone:
    return formula_model("b0")


@pytest.fixture(scope="session")
def b0_onnx(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("b0") / "model.onnx"
    facts = {"source_sha256": "ab" * 32, "stage": "ssld_stage1"}
    return export_onnx(b0, path, SIDE, CLASSES, metadata=facts)


@pytest.fixture(scope="session")
def precisions(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder with fp32, fp16 and int8."""
    folder = tmp_path_factory.mktemp("export")
    pixels = np.random.default_rng(4).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    names = ("fp32", "fp16", "int8")
    write_bundle(
        b0, folder, image_size=SIDE, class_names=CLASSES, precisions=names,
        validation=Validation(lambda: [(pixels, np.zeros(8, np.int64))], "8 pictures"),
        calibration=Calibration(lambda: [pixels], "8 pictures"),
        max_drop=dict.fromkeys(names, 100.0),
    )  # fmt: skip
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures in two folders, one of them no image, its place last in the sorted order."""
    folder = tmp_path / "pictures"
    (folder / "inner dir").mkdir(parents=True)
    random = np.random.default_rng(1)
    for name in ("b.PNG", "a.jpg", "inner dir/é 7.webp", "inner dir/c.bmp"):
        pixels = random.integers(0, 256, (70, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "zz.jpeg").write_bytes(b"no image at all")
    (folder / "notes.md").write_text("not for the classifier")
    return folder
