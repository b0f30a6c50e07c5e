"""The export folder: the model and, beside it, all that another program needs to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.deployment import predict_script
from hgnetv2_pipeline.deployment.card import (
    FORMAT,
    LABELS,
    MANIFEST,
    PREPROCESS,
    SCRIPT,
    ModelCard,
    precision_file,
)
from hgnetv2_pipeline.deployment.choices import FILE_PRECISIONS, LOWER
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.onnx_graph import OPSET
from hgnetv2_pipeline.deployment.export.precisions import Calibration, convert_onnx, fix_batch
from hgnetv2_pipeline.deployment.export.single_file import single_file
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.preprocess_file import preprocess_file
from hgnetv2_pipeline.durable import sha256_file, write_json, write_text
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.variants import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.export.gate import Validation
    from hgnetv2_pipeline.variants import Lab


def bundle_files(precisions: Sequence[str]) -> list[str]:
    """Names of the files that ``write_bundle`` makes; model.onnx, the fp32 file, always."""
    models = [precision_file(name) for name in FILE_PRECISIONS if name in {"fp32", *precisions}]
    return [*models, LABELS, PREPROCESS, SCRIPT, MANIFEST]


def write_bundle(
    model: nn.Module,
    folder: Path,
    *,
    image_size: ImageSize = 224,
    class_names: Sequence[str] | None = None,
    precisions: Sequence[str] = ("fp32",),
    preprocess: Preprocess | None = None,
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
    softmax: bool = False,
    embedding: bool = False,
    lab: Lab = "relu",
    batch: int | None = None,
    validation: Validation | None = None,
    calibration: Calibration | None = None,
    max_drop: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Export ``model`` into ``folder`` and return the manifest.

    ``model.onnx`` as ``export_onnx`` makes it; beside it ``model.<precision>.onnx`` for every other
    one of ``precisions``, as ``convert_onnx`` makes it, all of them for batches of ``batch`` images
    alone where it is given; ``labels.txt``, one class name per line in the order of the logits;
    ``preprocess.json``; ``predict.py``, which needs nothing of ours (``predict_script``); and last
    ``manifest.json``: the SHA-256 of the
    others, variant, opset, MACs, parity error, self-test, the gate's findings per precision and the
    entries of ``metadata``. Raises what these raise, and ParameterError for a class name that does
    not fit on a line.
    """
    for precision in precisions:
        if precision not in FILE_PRECISIONS:
            raise unknown_name("precision", precision, FILE_PRECISIONS, "export.precisions")
    broken = [name for name in class_names or () if len(name.splitlines()) != 1]
    if broken:
        raise ParameterError(f"class name {broken[0]!r} does not fit on one line of {LABELS}")
    folder = Path(folder)
    path = export_onnx(
        model, folder / precision_file("fp32"), image_size, class_names, "fp32", preprocess,
        metadata, opset=opset, softmax=softmax, embedding=embedding, lab=lab,
    )  # fmt: skip
    gates = {
        precision: convert_onnx(
            path,
            folder / precision_file(precision),
            precision,
            validation=validation,
            calibration=calibration,
            max_drop=(max_drop or {}).get(precision),
        )
        for precision in LOWER
        if precision in precisions
    }
    for name in (file for file in bundle_files(precisions) if file.endswith(".onnx") and batch):
        fix_batch(folder / name, batch or 0)
    engine = OrtEngine(path)
    engine.check_answers()
    card = engine.card
    write_labels_and_preprocessing(folder, card)
    write_text(folder / SCRIPT, single_file(predict_script.__name__))
    manifest = {
        **card.more,
        "format": FORMAT,
        "files": {
            name: sha256_file(folder / name)
            for name in bundle_files(precisions)
            if name != MANIFEST
        },
        "variant": card.variant,
        "precision": card.precision,
        "precisions": gates,
        "source_sha256": card.source_sha256,
        "opset": opset,
        "image_size": image_size,
        "num_classes": len(card.classes),
        "macs": card.macs,
        "params": card.params,
        "activations": card.activations,
        "parity_error": card.parity_error,
        **({"probes": card.self_test.to_text()} if card.self_test else {}),
        **({"batch": batch} if batch else {}),
        "input": f"images float32 [{batch or 'batch'}, 3, H, W]",
        "output": f"logits float32 [{batch or 'batch'}, classes]",
        **({"embedding": f"float32 [batch, {engine.embedding_size}]"} if embedding else {}),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def write_labels_and_preprocessing(folder: Path, card: ModelCard) -> None:
    """labels.txt and preprocess.json, for readers that cannot look into the model."""
    write_text(folder / LABELS, "".join(f"{name}\n" for name in card.classes))
    write_json(folder / PREPROCESS, preprocess_file(card.preprocess))
