"""An exported model as ``mlflow.pyfunc`` runs it: encoded images in, a row of answers for each out.

MLflow gets the source of this module with all that it uses, in one file (``logged_model``): what it
loads then needs mlflow, onnxruntime, numpy and pillow, and nothing of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from hgnetv2_pipeline.deployment.inputs import ImageInput
from hgnetv2_pipeline.deployment.predict import iter_predictions
from hgnetv2_pipeline.deployment.predict_script import ExportedModel

COLUMNS = ("class_ids", "scores", "label_names", "error")


class ImageClassifier(PythonModel):
    """The bytes of image files in a column ``image``; a good one has an empty ``error``."""

    # A signature comes with the model: MLflow is not to look for one in type hints, nor to ask for
    # any.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Load the model file."""
        path = Path(context.artifacts["model"])
        self._model = ExportedModel(path.parent, path.name)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """A frame of ``COLUMNS``; ``params``: ``topk``, the classes shown at most."""
        import pandas as pd

        images = [ImageInput(str(at), image) for at, image in enumerate(model_input["image"])]
        records = iter_predictions(self._model, images, topk=(params or {}).get("topk"))
        rows = [[record.get(name, "") for name in COLUMNS] for record in records]
        return pd.DataFrame(rows, columns=list(COLUMNS))


set_model(ImageClassifier())
