"""Export to ONNX: write, compare with PyTorch, and only then give the file its name."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import FILE_PRECISIONS
from hgnetv2_pipeline.deployment.engines.base import check_classes, numbered_classes
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.gate import ExportError, Validation
from hgnetv2_pipeline.deployment.export.onnx_graph import BATCH, OPSET, OPSETS, Probabilities
from hgnetv2_pipeline.deployment.export.precisions import (
    Calibration,
    convert_onnx,
    save_onnx,
)
from hgnetv2_pipeline.deployment.self_test import make_self_test
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.variants import ImageSize, height_and_width

if TYPE_CHECKING:
    from torch import nn

    from hgnetv2_pipeline.variants import Lab

_log = logging.getLogger(__name__)

TOLERANCE = 5e-5
"""Largest logit error against float64 PyTorch, over the standard deviation of the logits."""


def export_onnx(
    model: nn.Module,
    path: Path,
    image_size: ImageSize = 224,
    class_names: Sequence[str] | None = None,
    precision: str = "fp32",
    preprocess: Preprocess | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    opset: int = OPSET,
    softmax: bool = False,
    embedding: bool = False,
    lab: Lab = "relu",
    validation: Validation | None = None,
    calibration: Calibration | None = None,
) -> Path:
    """Write ``model`` as one ONNX file: ``images`` [batch, 3, H, W] -> ``logits`` [batch, classes].

    HGNetV2 and PPHGNet are written directly and folded (``hgnet_to_onnx``); any other module goes
    through ``torch.onnx.export``. The file carries a ``ModelCard``: ``preprocess`` (by default the
    published one, scaled to ``image_size``), ``class_names`` (by default the class numbers), and
    the entries of ``metadata``, of which ``variant`` and ``source_sha256`` are the card's own. It
    appears under ``path`` only after the checker and ``verify_onnx`` have passed. The model is not
    changed.

    ``softmax`` adds the output ``probabilities``, by a sigmoid each where ``metadata`` has ``task:
    multi_label``; ``embedding`` the output of that name, [batch, 2048], as ``model.embed`` gives
    it; ``lab`` as in ``models.reparameterize``.
    ``precision``, ``validation`` and ``calibration``: the verified fp32 graph goes through
    ``precisions.convert_onnx``, which see.

    Raises ParameterError for sizes, names, an opset or a precision that do not fit, ExportError
    when the file's logits stray from PyTorch's by more than ``TOLERANCE`` or a precision fails its
    gate.
    """
    if precision not in FILE_PRECISIONS:
        raise unknown_name("precision", precision, FILE_PRECISIONS, "export_onnx(precision=...)")
    if opset not in OPSETS:
        raise ParameterError(f"opset {opset} is not in {OPSETS[0]}..{OPSETS[-1]} (export.opset)")
    if precision != "fp32":
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            exact = export_onnx(
                model, Path(folder) / "model.onnx", image_size, class_names, "fp32", preprocess,
                metadata, opset=opset, softmax=softmax, embedding=embedding, lab=lab,
            )  # fmt: skip
            convert_onnx(exact, path, precision, validation=validation, calibration=calibration)
        return path
    if preprocess is None:
        preprocess = Preprocess.at_size(image_size)
    if preprocess.crop != image_size:
        raise ParameterError(
            f"image_size {image_size} and the preprocessing's crop {preprocess.crop} differ; "
            "give the same value to both"
        )
    from hgnetv2_pipeline.models.cost import measure_cost

    more = dict(metadata or {})
    kind: Probabilities = None
    if softmax:
        kind = "sigmoid" if more.get("task") == "multi_label" else "softmax"
    proto = _graph(model, image_size, opset, probabilities=kind, embedding=embedding, lab=lab)
    classes = proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    cost = measure_cost(model, image_size)
    card = ModelCard(
        preprocess=preprocess,
        classes=numbered_classes(classes) if class_names is None else tuple(class_names),
        variant=more.pop("variant", "") or str(getattr(model, "variant", "")),
        source_sha256=more.pop("source_sha256", ""),
        macs=cost.macs,
        params=cost.params,
        activations=cost.activations,
        more=more,
    )
    check_classes(card, classes, "the exported model", named=class_names is not None)
    path = Path(path)
    with write_aside(path) as aside:
        save_onnx(proto, card, aside)
        report = verify_onnx(model, aside)
        known = replace(
            card,
            parity_error=report["relative_error"],
            self_test=make_self_test(proto, preprocess, "fp32"),
        )
        save_onnx(proto, known, aside)
    _log.info(
        "wrote %s: %d nodes, logit error %.1e of their standard deviation",
        path, len(proto.graph.node), report["relative_error"],
    )  # fmt: skip
    return path


def verify_onnx(
    model: nn.Module,
    path: Path,
    batches: Sequence[int] = (1, 3, 8),
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare an ONNX file, run by ONNX Runtime on the CPU, with ``model`` in float64.

    The inputs are seeded normal noise, the spread of preprocessed images. Returns
    ``{max_abs_error, logits_std, relative_error, batches, tolerance}`` with ``relative_error =
    max_abs_error / logits_std``, the worst over the batch sizes. Raises ExportError beyond
    ``tolerance`` or for logits that are not finite.
    """
    import torch

    engine = OrtEngine(Path(path))
    shape = (max(batches), 3, *engine.preprocess.size)
    images = np.random.default_rng(seed).standard_normal(shape, np.float32)
    exact = copy.deepcopy(model).cpu().double().eval()
    checked: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]]
    checked = {"logit": (exact, engine.logits)}
    if engine.embedding_size is not None:
        checked["embedding"] = (exact.embed, lambda some: engine.logits_and_embeddings(some)[1])
    found = {}
    for what, (theirs, ours) in checked.items():
        with torch.inference_mode():
            # One image at a time: a float64 batch of the largest network would take gigabytes.
            rows = [theirs(torch.from_numpy(image[None]).double())[0] for image in images]
        wanted = torch.stack(rows).numpy()
        worst = 0.0
        for batch in batches:
            error = np.abs(ours(images[:batch]) - wanted[:batch]).max()
            worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
        spread = float(wanted.std())
        relative = worst / spread if spread > 0 else (0.0 if worst == 0 else float("inf"))
        if not relative <= tolerance:
            raise ExportError(
                f"the exported graph strays from PyTorch: largest {what} error {worst:.3g} at "
                f"batch sizes {list(batches)}, {relative:.2g} of the {what}s' standard deviation "
                f"{spread:.3g}; allowed {tolerance:.0e}. Nothing was written"
            )
        found[what] = worst, spread, relative
    worst, spread, relative = found["logit"]
    return {
        "max_abs_error": worst,
        "logits_std": spread,
        "relative_error": relative,
        "batches": list(batches),
        "tolerance": tolerance,
    }


def _graph(
    model: nn.Module,
    image_size: ImageSize,
    opset: int,
    *,
    probabilities: Probabilities,
    embedding: bool,
    lab: Lab,
) -> Any:
    from hgnetv2_pipeline.models.hgnetv2 import Backbone

    if min(height_and_width(image_size)) < 1:
        raise ParameterError(f"image_size {image_size}; it must be at least 1 (32 for HGNet)")
    if isinstance(model, Backbone):
        from hgnetv2_pipeline.deployment.export.hgnet_graph import hgnet_to_onnx

        return hgnet_to_onnx(
            model, image_size, opset=opset, lab=lab, probabilities=probabilities,
            embedding=embedding,
        )  # fmt: skip
    for asked, name in ((probabilities, "softmax"), (embedding, "embedding")):
        if asked:
            raise ParameterError(f"{name} is added to HGNetV2 and PPHGNet only (export.{name})")
    return through_torch(model, image_size, opset)


def through_torch(model: nn.Module, image_size: ImageSize, opset: int = OPSET) -> Any:
    """The ModelProto of any module in inference mode, by PyTorch's own exporter."""
    import torch

    plain = copy.deepcopy(model).cpu().float().eval()
    # Batch 2, because the exporter takes a sample's batch of 1 for a constant.
    program = torch.onnx.export(
        plain,
        (torch.zeros(2, 3, *height_and_width(image_size)),),
        input_names=["images"],
        output_names=["logits"],
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim(BATCH)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return program.model_proto
