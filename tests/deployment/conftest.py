"""Small exported networks and images, made once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deployment_cases import CLASSES, SIDE, formula_model
from PIL import Image

from hgnetv2_pipeline.deployment import export_onnx
from hgnetv2_pipeline.models.hgnetv2 import Backbone


@pytest.fixture(scope="session")
def b0() -> Backbone:
    return formula_model("b0")


@pytest.fixture(scope="session")
def b0_onnx(b0: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("b0") / "model.onnx"
    facts = {"source_sha256": "ab" * 32, "stage": "ssld_stage1"}
    return export_onnx(b0, path, SIDE, CLASSES, metadata=facts)


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
