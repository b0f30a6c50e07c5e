"""An exported folder, and a server on it for the tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serving_cases import CLASSES, SIDE, Running, running

from filled_networks import Filled, filled  # noqa: F401 - a fixture
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle


@pytest.fixture(scope="session")
def exported(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A B0 of five classes that takes 32 x 32 pixels and gives embeddings."""
    folder = tmp_path_factory.mktemp("exported") / "b0"
    model = filled("b0", len(CLASSES))
    write_bundle(model, folder, image_size=SIDE, class_names=CLASSES, embedding=True)
    return folder


@pytest.fixture(scope="session")
def exported_anew(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The same after more training, one would say: other answers."""
    folder = tmp_path_factory.mktemp("exported anew") / "b0"
    model = filled("b0", len(CLASSES))
    with torch.no_grad():
        model.fc.weight.neg_()
    write_bundle(model, folder, image_size=SIDE, class_names=CLASSES, embedding=True)
    return folder


@pytest.fixture(scope="session")
def engine(exported: Path) -> OrtEngine:
    """The bare engine, with which every answer is compared."""
    return OrtEngine(exported / "model.onnx", threads=1)


@pytest.fixture(scope="session")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """``hgnetv2 serve`` with two names for one folder, and a line in its log for every request."""
    folder = tmp_path_factory.mktemp("server")
    with running(folder, f"m={exported}", f"other={exported}", "--log-requests") as one:
        yield one
