"""The preprocessing as a model of Triton's Python backend: bytes of image files in, pixels out.

Triton gets the source of this module with all that it uses, in one file (``repository``). Its
Python needs numpy and pillow, and nothing of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.preprocess_file import told_values
from hgnetv2_pipeline.errors import DataError


class TritonPythonModel:
    """``image`` [N, 1] of bytes becomes ``images``, float32 [N, 3, height, width].

    A request with a bad image is refused, by a line with the image's place in it and the reason.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read preprocess.json of the version that is loaded."""
        folder = Path(args["model_repository"], args["model_version"])
        said = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
        self._preprocess = Preprocess.from_dict(told_values(said)).capped()

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for every request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = backend.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        images = []
        for place, content in enumerate(given):
            try:
                images.append(self._preprocess(bytes(content)))
            except DataError as error:
                reason, kind = f"image {place}: {error}", backend.TritonError.INVALID_ARG
                return backend.InferenceResponse(error=backend.TritonError(reason, kind))
        return backend.InferenceResponse([backend.Tensor("images", np.stack(images))])
