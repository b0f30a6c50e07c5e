"""Small exported networks and images, made once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hgnetv2_pipeline.models import create_model, formula_tensor
from hgnetv2_pipeline.models.hgnetv2 import Backbone, LearnableAffine
from PIL import Image

from hgnetv2_pipeline.deployment import export_onnx

CLASSES = ("aal", "Bär, brown bear", "cat's eye", "d", "é", "f", "g")
SIDE = 64


def formula_model(variant: str, **arguments: object) -> Backbone:
    """Weights by formula; every sixth LAB scale negative and one zero, as training may leave."""
    model = create_model(variant, len(CLASSES), **arguments)
    state = {}
    for key, value in model.state_dict().items():
        paddle = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        shape = tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            state[key] = value
        elif key == "fc.weight":
            state[key] = torch.from_numpy(formula_tensor(paddle, shape[::-1])).T
        else:
            state[key] = torch.from_numpy(formula_tensor(paddle, shape))
    model.load_state_dict(state)
    labs = [module for module in model.modules() if isinstance(module, LearnableAffine)]
    with torch.no_grad():
        for lab in labs[::6]:  # the stem's first is among them: its border meets the max-pool
            lab.scale.neg_()
        if labs:  # on one branch of a concatenation: elsewhere it would make the network constant
            model.get_submodule("stages.0.blocks.0.layers.1.lab").scale.zero_()
    return model.eval()


@pytest.fixture(scope="session")
def b0() -> Backbone:
    torch.set_num_threads(1)
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
