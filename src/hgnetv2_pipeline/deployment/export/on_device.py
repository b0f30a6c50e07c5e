"""Files for phones and boards beside ``model.onnx``, each held to it on validation images."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.deployment.card import FORMAT, ModelCard, precision_file
from hgnetv2_pipeline.deployment.choices import ENDINGS, NEEDS, DeviceEngine
from hgnetv2_pipeline.deployment.engines.base import need
from hgnetv2_pipeline.deployment.engines.device_file import files_of, note_of
from hgnetv2_pipeline.deployment.engines.with_ort import OrtEngine
from hgnetv2_pipeline.deployment.export.gate import MAX_DROP, ExportError, check_precision
from hgnetv2_pipeline.deployment.self_test import (
    ALLOWED,
    ROUNDINGS,
    self_test_count,
    self_test_images,
    self_test_of,
)
from hgnetv2_pipeline.durable import sha256_file, write_json
from hgnetv2_pipeline.foreign import reason
from hgnetv2_pipeline.ownership import scratch

if TYPE_CHECKING:
    from torch import nn

    from hgnetv2_pipeline.deployment.engines.base import Engine
    from hgnetv2_pipeline.deployment.export.gate import Logits, Validation
    from hgnetv2_pipeline.deployment.export.precisions import Calibration

_log = logging.getLogger(__name__)
CONVERTERS: dict[DeviceEngine, tuple[str, ...]] = {
    "executorch": (*NEEDS["executorch"], "torchao"),
    "ncnn": (*NEEDS["ncnn"], "pnnx"),
}
"""The modules of others that an export for a device engine imports."""


@dataclass(frozen=True)
class DevicePlan:
    """Which files: for which engine, in which precisions, for which batch size."""

    engine: DeviceEngine
    precisions: Sequence[str]
    batch: int
    max_drop: Mapping[str, float]

    @property
    def outputs(self) -> list[str]:
        """Names of all files, the notes among them."""
        models = [Path(precision_file(name, ENDINGS[self.engine])) for name in self.precisions]
        return [file.name for model in models for file in (*files_of(model), note_of(model))]


def need_converters(engine: DeviceEngine) -> None:
    """Raise EngineUnavailable unless all that an export for ``engine`` takes is installed."""
    for module in CONVERTERS[engine]:
        need(module, f"export.target={engine}")


def write_device_files(
    plan: DevicePlan,
    onnx: Path,
    folder: Path,
    model: nn.Module,
    *,
    validation: Validation,
    calibration: Calibration,
) -> None:
    """Write ``plan.outputs`` into ``folder``: ``model`` for devices, and a note beside each file.

    ``onnx``: the fp32 file of the same network, whose card and logits count: every file answers
    ``validation`` on this machine, by the runtime that it is for, and is held to the gate
    (``check_precision``). Raises ExportError when it fails, or a converter does.
    """
    exact = OrtEngine(onnx)
    for precision in plan.precisions:
        path = folder / precision_file(precision, ENDINGS[plan.engine])
        card, graph = replace(exact.card, precision=precision), None
        if plan.engine == "executorch":
            graph = _write_program(path, model, card, plan.batch, calibration)
        else:
            _write_ncnn(path, onnx, card)
        with _runner(plan.engine, path, card) as engine:
            found = check_precision(
                exact.logits, engine.logits, validation, card.preprocess, precision=precision,
                max_drop=plan.max_drop.get(precision, MAX_DROP[precision]),
            )  # fmt: skip
            if graph is not None:
                card = replace(card, self_test=_int8_self_test(graph, engine))
        note = _note(plan, card, found, path, onnx, engine.versions)
        if precision == "int8":
            note["calibration"] = f"{calibration.method} on {calibration.source}"
        write_json(note_of(path), note)
        _log.info(
            "wrote %s: %.1f MB, logits off by %.2g of their standard deviation on %s",
            path.name, note["size_bytes"] / 1e6, found["rms_error"], found["images"],
        )  # fmt: skip


def _write_program(
    path: Path, model: nn.Module, card: ModelCard, batch: int, calibration: Calibration
) -> Logits | None:
    """Write the ``.pte``; returns the logits of the quantised graph, None for fp32."""
    from hgnetv2_pipeline.deployment.export import to_executorch

    module, graph = to_executorch.fold_for_devices(model), None
    try:
        if card.precision == "int8":
            module = to_executorch.quantize_for_xnnpack(
                module,
                card.preprocess.crop,
                lambda: map(card.preprocess.normalize, calibration.batches()),
                method=calibration.method,
                percentile=calibration.percentile,
            )
            graph = to_executorch.module_logits(module)
        path.write_bytes(to_executorch.lower(module, card.preprocess.crop, batch))
    except RuntimeError as error:  # of torch.export and of the lowering
        raise ExportError(f"ExecuTorch cannot take this network: {reason(error)}") from error
    return graph


def _write_ncnn(path: Path, onnx: Path, card: ModelCard) -> None:
    """Convert by pnnx, which writes a dozen files beside its input."""
    import pnnx

    height, width = card.preprocess.size
    options = [f"inputshape=[1,3,{height},{width}]", f"fp16={int(card.precision == 'fp16')}"]
    with scratch("pnnx") as aside:
        (aside / "model.onnx").write_bytes(onnx.read_bytes())
        done = subprocess.run(
            [pnnx.EXEC_PATH, "model.onnx", *options], cwd=aside, capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
        made = [aside / f"model.ncnn{file.suffix}" for file in files_of(path)]
        if done.returncode or not all(file.is_file() for file in made):
            raise ExportError(
                f"pnnx cannot convert {onnx} (code {done.returncode}): {reason_of(done.stderr)}"
            )
        for source, target in zip(made, files_of(path), strict=True):
            target.write_bytes(source.read_bytes())


def reason_of(output: str) -> str:
    """The last line that a program wrote, made safe to show."""
    return reason(ValueError((output.strip() or "it says no more").splitlines()[-1]))


def _runner(engine: DeviceEngine, path: Path, card: ModelCard) -> Engine:
    if engine == "executorch":
        from hgnetv2_pipeline.deployment.engines.with_executorch import ExecuTorchEngine

        return ExecuTorchEngine(path, card)
    from hgnetv2_pipeline.deployment.engines.with_ncnn import NcnnEngine

    return NcnnEngine(path, card)


def _int8_self_test(graph: Logits, engine: Engine) -> Any:
    """What the quantised graph says of the self-test's images; XNNPACK rounds it otherwise."""
    preprocess = engine.preprocess
    count = self_test_count(len(engine.classes))
    images = preprocess.normalize(self_test_images(count, preprocess.crop))
    exact = graph(images)
    known = self_test_of(exact, ALLOWED["int8"])
    if known is None:
        return None
    off = known.distance(engine.logits(images))
    return self_test_of(exact, max(ALLOWED["int8"], ROUNDINGS * off))


def _note(
    plan: DevicePlan,
    card: ModelCard,
    found: Mapping[str, Any],
    path: Path,
    onnx: Path,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    files = files_of(path)
    return {
        **card.more,
        "format": FORMAT,
        "file": path.name,
        "files": {file.name: sha256_file(file) for file in files},
        "size_bytes": sum(file.stat().st_size for file in files),
        "onnx_sha256": sha256_file(onnx),
        "engine": plan.engine,
        "versions": dict(versions),
        "variant": card.variant,
        "precision": card.precision,
        "source_sha256": card.source_sha256,
        "batch": plan.batch,
        "image_size": card.preprocess.crop,
        "num_classes": len(card.classes),
        "macs": card.macs,
        "params": card.params,
        "activations": card.activations,
        "parity_error": found["relative_error"],
        "gate": dict(found),
        **({"probes": card.self_test.to_text()} if card.self_test else {}),
    }
