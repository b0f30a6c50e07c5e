"""Open Inference Protocol tensors: a model's input and outputs, and requests checked against them.

HTTP and gRPC bring the same things in different clothes; both are checked here, so that both refuse
with the same words: what was expected, and what came.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.serving.batching import Outputs
from hgnetv2_pipeline.serving.limits import Limits, RefusedRequest
from hgnetv2_pipeline.serving.repository import ServedModel

NO_SHARED_MEMORY = "tensors in shared memory are not supported; send their bytes"
INPUT, LOGITS, EMBEDDING = "images", "logits", "embedding"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")
"""Extensions of the protocol, of Triton's, that are there."""


class OutputWish(NamedTuple):
    """An output that a request names; ``classes``: the classification extension's class count."""

    name: str
    binary: bool = True
    classes: int = 0


def tensors_of(engine: Engine) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Inputs and outputs as the metadata of a model says them."""
    height, width = engine.preprocess.size
    outputs = {LOGITS: len(engine.classes)}
    if engine.embedding_size is not None:
        outputs[EMBEDDING] = engine.embedding_size
    return [{"name": INPUT, "datatype": "FP32", "shape": [-1, 3, height, width]}], [
        {"name": name, "datatype": "FP32", "shape": [-1, size]} for name, size in outputs.items()
    ]


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, object]:
    """The metadata of a model."""
    inputs, outputs = tensors_of(model.engine)
    platform = f"hgnetv2_{model.engine.name.replace('-', '_')}"
    return {
        "name": model.name, "versions": list(versions), "platform": platform,
        "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def check_images(
    model: ServedModel, limits: Limits, names: Sequence[str], datatype: str, shape: Sequence[int]
) -> None:
    """Raise RefusedRequest (400) unless the inputs ``names`` are the one that the model takes, of
    the right type and shape.
    """
    if list(names) != [INPUT]:
        got = ", ".join(repr(name)[:100] for name in names[:4]) or "none"
        raise RefusedRequest(400, f"model {model.name} expects one input {INPUT!r}, got {got}")
    if datatype != "FP32":
        raise RefusedRequest(
            400, f"input {INPUT!r}: expected datatype FP32, got {str(datatype)[:20]}"
        )
    height, width = model.engine.preprocess.size
    whole = all(type(edge) is int for edge in shape)
    if not whole or len(shape) != 4 or list(shape[1:]) != [3, height, width]:
        raise RefusedRequest(
            400,
            f"input {INPUT!r}: expected shape [-1,3,{height},{width}], got "
            f"{str(list(shape[:8])).replace(' ', '')[:200]}",
        )
    if not 1 <= shape[0] <= limits.images:
        raise RefusedRequest(
            400, f"input {INPUT!r}: expected 1 to {limits.images} images, got {shape[0]}"
        )


def images_of(data: bytes | memoryview | np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """float32 of ``shape`` from its bytes (little-endian, not copied where they are aligned) or
    numbers; RefusedRequest (400) where there are too few or too many.
    """
    values = data if isinstance(data, np.ndarray) else None
    count = math.prod(shape)
    if values is None:
        if len(data) != 4 * count:
            raise RefusedRequest(
                400, f"input {INPUT!r}: expected {4 * count} bytes for its shape, got {len(data)}"
            )
        values = np.frombuffer(data, "<f4")
    elif values.size != count:
        raise RefusedRequest(
            400, f"input {INPUT!r}: expected {count} values for its shape, got {values.size}"
        )
    return np.require(values.reshape(shape), np.float32, ["C", "A"])


def check_outputs(model: ServedModel, wishes: Sequence[OutputWish]) -> list[OutputWish]:
    """The wishes, or all outputs where there are none; RefusedRequest (400) for unknown names."""
    known = [str(output["name"]) for output in tensors_of(model.engine)[1]]
    if len({wish.name for wish in wishes}) < len(wishes):
        raise RefusedRequest(400, "an output is asked for twice")
    for wish in wishes:
        if wish.name not in known:
            raise RefusedRequest(
                400,
                f"model {model.name} has no output {wish.name!r:.100}; its outputs are "
                f"{', '.join(known)}",
            )
    return list(wishes) or [OutputWish(name) for name in known]


def wanted_rows(answer: Outputs, name: str) -> np.ndarray:
    """The output ``name`` of an answer, float32 [N, width]."""
    rows = answer.embeddings if name == EMBEDDING else answer.logits
    assert rows is not None, "embeddings were asked for"  # noqa: S101
    return rows


def classification(
    rows: np.ndarray, wish: OutputWish, model: ServedModel
) -> tuple[str, list[int], bytes]:
    """The extension of that name: datatype, shape and bytes of the best classes of each row."""
    cells = best_classes(rows, wish, model)
    part = b"".join(len(cell).to_bytes(4, "little") + cell for row in cells for cell in row)
    return "BYTES", [len(cells), len(cells[0])], part


def best_classes(rows: np.ndarray, wish: OutputWish, model: ServedModel) -> list[list[bytes]]:
    """The best classes of each row, as many as wished, each as ``score:number:name``."""
    names = [f":{name}" for name in model.engine.classes]
    if wish.name != LOGITS:
        names = [""] * rows.shape[1]
    return [
        [
            f"{row[index]:f}:{index}{names[index]}".encode()
            for index in np.argsort(-row, kind="stable")[: wish.classes]
        ]
        for row in rows
    ]
