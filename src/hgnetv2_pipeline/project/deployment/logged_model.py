"""An export as a model of MLflow: signature, input example, packages, and the ONNX file once."""

from __future__ import annotations

import io
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard, precision_file
from hgnetv2_pipeline.deployment.export.single_file import single_file

_MODULE = "hgnetv2_pipeline.project.deployment.image_classifier"
_PACKAGES = ("numpy", "onnxruntime", "pandas", "pillow")


def log_exported_model(folder: Path, run_id: str) -> str:
    """Log the fp32 file of an export folder with the run ``run_id``; the URI that loads it.

    ``mlflow.pyfunc.load_model(uri).predict(frame)`` takes the bytes of image files in a column
    ``image`` and gives ``image_classifier.COLUMNS``.
    """
    import mlflow
    import pandas as pd
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, ParamSchema, ParamSpec, Schema

    card = ModelCard.from_folder(folder)
    topk = len(card.classes) if card.multi_label else min(5, len(card.classes))
    answers: list[tuple[Any, str]] = [
        (Array("long"), "class_ids"), (Array("double"), "scores"),
        (Array("string"), "label_names"), ("string", "error"),
    ]  # fmt: skip
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec(kind, name) for kind, name in answers]),
        params=ParamSchema([ParamSpec("topk", "long", topk)]),
    )
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    with tempfile.TemporaryDirectory() as place, mlflow.start_run(run_id=run_id):
        source = Path(place) / f"{_MODULE.rpartition('.')[2]}.py"
        source.write_text(single_file(_MODULE), encoding="utf-8")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(source),
            artifacts={"model": str(folder / precision_file("fp32"))},
            signature=signature,
            input_example=pd.DataFrame({"image": [_example(card.preprocess)]}),
            # Without them MLflow loads the model in a process of its own to find out.
            pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
        )
    return str(info.model_uri)


def _example(preprocess: Preprocess) -> bytes:
    """A picture by formula, as a file."""
    from PIL import Image

    from hgnetv2_pipeline.deployment.self_test import self_test_images

    buffer = io.BytesIO()
    Image.fromarray(self_test_images(1, preprocess.crop)[0]).save(buffer, "PNG")
    return buffer.getvalue()
