"""The export folder: the model and, beside it, all that another program needs to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.deployment.card import FORMAT, LABELS, MANIFEST, PREPROCESS
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.onnx_graph import OPSET
from hgnetv2_pipeline.deployment.to_onnx import export_onnx
from hgnetv2_pipeline.durable import sha256_file, write_json, write_text
from hgnetv2_pipeline.errors import ParameterError

if TYPE_CHECKING:
    from torch import nn

    from hgnetv2_pipeline.data import Preprocess

MODEL = "model.onnx"


def write_bundle(
    model: nn.Module,
    folder: Path,
    *,
    image_size: int = 224,
    class_names: Sequence[str] | None = None,
    precision: str = "fp32",
    preprocess: Preprocess | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Export ``model`` into ``folder`` and return the manifest.

    ``model.onnx`` as ``export_onnx`` makes it; ``labels.txt``, a class name a line in the order of
    the logits; ``preprocess.json``; and last ``manifest.json``: the SHA-256 of the other three,
    variant, precision, opset, MACs, parity error and the entries of ``metadata``. Raises what
    ``export_onnx`` raises, and ParameterError for a class name that does not fit on a line.
    """
    broken = [name for name in class_names or () if len(name.splitlines()) != 1]
    if broken:
        raise ParameterError(f"class name {broken[0]!r} does not fit on one line of {LABELS}")
    folder = Path(folder)
    path = export_onnx(
        model, folder / MODEL, image_size, class_names, precision, preprocess, metadata
    )
    card = OrtEngine(path).card
    write_text(folder / LABELS, "".join(f"{name}\n" for name in card.classes))
    write_json(folder / PREPROCESS, card.preprocess.to_dict())
    manifest = {
        **card.more,
        "format": FORMAT,
        "files": {name: sha256_file(folder / name) for name in (MODEL, LABELS, PREPROCESS)},
        "variant": card.variant,
        "precision": card.precision,
        "source_sha256": card.source_sha256,
        "opset": OPSET,
        "image_size": image_size,
        "num_classes": len(card.classes),
        "macs": card.macs,
        "params": card.params,
        "activations": card.activations,
        "parity_error": card.parity_error,
        "input": "images float32 [batch, 3, S, S]",
        "output": "logits float32 [batch, classes]",
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
