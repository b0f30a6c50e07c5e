"""The export as a model of MLflow: loaded and asked by MLflow's own means, it answers as ours."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.predict import iter_predictions
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.project.deployment.logged_model import log_exported_model
from hgnetv2_pipeline.project.tracking import TrackedCommand, Tracker

# Its default test is of the sample's run (tests/test_sample_run.py), whose store is there already.
pytestmark = pytest.mark.slow
CLASSES = ["ant", "bee", "cät"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, logged, and a picture."""
    folder = tmp_path_factory.mktemp("mlflow")
    torch.manual_seed(0)
    write_bundle(
        create_model("b0", 3).eval(), folder / "export", image_size=32, class_names=CLASSES
    )
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (50, 40, 3), np.uint8)).save(folder / "a.jpg")
    tracker = Tracker()
    tracker.prepare(TrackedCommand(folder, "x"), enabled=True)
    run = tracker.run()
    with tracker.as_default():
        log_exported_model(folder / "export", run.run_id)
    tracker.end("FINISHED")
    return folder


def model_folder(project: Path) -> Path:
    (found,) = project.glob("mlartifacts/models/*/artifacts")
    return found


def answers(project: Path, **options: Any) -> list[dict[str, Any]]:
    with load_engine(project / "export", "ort") as engine:
        records = list(iter_predictions(engine, project / "a.jpg", **options))
    names = ("class_ids", "scores", "label_names")
    return [{name: record[name] for name in names} | {"error": ""} for record in records]  # type: ignore[literal-required]


def test_it_loads_and_answers_as_ours(project: Path) -> None:
    import mlflow
    import pandas as pd

    folder = model_folder(project)
    copies = [path.name for path in project.rglob("*.onnx") if "export" not in path.parts]
    assert copies == ["model.onnx"]
    assert "hgnetv2_pipeline import" not in (folder / "image_classifier.py").read_text()
    model = mlflow.pyfunc.load_model(str(folder))
    asked = pd.DataFrame({"image": [(project / "a.jpg").read_bytes(), b"no picture"]})
    good, bad = model.predict(asked).to_dict("records")
    assert [good] == answers(project)
    assert bad["class_ids"] == [] and bad["error"].startswith("not an image of an allowed format")
    (one,) = model.predict(asked[:1], params={"topk": 1}).to_dict("records")
    assert [one] == answers(project, topk=1)
    wrong = pd.DataFrame({"picture": [b""]})
    with pytest.raises(mlflow.exceptions.MlflowException, match="missing inputs"):
        model.predict(wrong)
    example = model.input_example
    assert model.predict(example)["error"].tolist() == [""]
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["image"]
    assert signature.outputs.input_names() == list(good)


def test_mlflow_models_predict_answers_as_ours(project: Path, tmp_path: Path) -> None:
    image = base64.b64encode((project / "a.jpg").read_bytes()).decode()
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}))
    subprocess.run(
        [
            sys.executable, "-m", "mlflow", "models", "predict", "-m", str(model_folder(project)),
            "-i", str(given), "-o", str(tmp_path / "answer.json"), "-t", "json",
            "--env-manager", "local",
        ],
        check=True, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "answer.json").read_text())["predictions"] == answers(project)
