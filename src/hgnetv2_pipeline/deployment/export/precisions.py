"""From a verified fp32 file to the same model in fp16, bf16 or int8, gated on real images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import LOWER
from hgnetv2_pipeline.deployment.export.calibration import activation_ranges
from hgnetv2_pipeline.deployment.export.gate import MAX_DROP, Validation, check_precision, noise
from hgnetv2_pipeline.deployment.export.half import round_in_float32, to_half
from hgnetv2_pipeline.deployment.export.onnx_graph import BATCH, PRODUCER
from hgnetv2_pipeline.deployment.export.quantize import quantize_graph, scale_groups
from hgnetv2_pipeline.deployment.onnx_session import session_logits
from hgnetv2_pipeline.deployment.self_test import make_self_test
from hgnetv2_pipeline.durable import write_aside
from hgnetv2_pipeline.errors import ParameterError, WeightsError, unknown_name
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights.onnx_file import read_onnx

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What INT8 ranges come from: images, and how (``calibration.activation_ranges``).

    ``batches``: gives uint8 [N, S, S, 3], resized and cropped, the same at every call.
    """

    batches: Callable[[], Iterable[np.ndarray]]
    source: str
    method: str = "percentile"
    percentile: float = 99.99


def convert_onnx(
    source: Path,
    path: Path,
    precision: str,
    *,
    validation: Validation | None = None,
    calibration: Calibration | None = None,
    max_drop: float | None = None,
) -> dict[str, Any]:
    """Write the fp32 file ``source``, one of our direct graphs, as ``path`` in ``precision``.

    ``validation``: what the gate looks at; without it fp16 and bf16 are compared on noise, and
    int8 is refused, as it is without ``calibration``. ``max_drop``: points of top-1 or mAP it may
    lose (by default ``gate.MAX_DROP``). Returns the gate's findings, which the file's card carries
    too. Raises ParameterError for what cannot be converted, ExportError when the gate is failed;
    ``path`` is then as it was.
    """
    import onnx

    if precision not in LOWER:
        raise unknown_name("precision", precision, LOWER, "precision=...")
    file = read_onnx(source)
    with foreign_file(source, WeightsError):
        proto = onnx.load_from_string(file.content)
    card = ModelCard.from_props(file.props, source)
    if proto.producer_name != PRODUCER or card.precision != "fp32":
        raise ParameterError(
            f"{source} ({proto.producer_name or 'unknown producer'}, {card.precision}) cannot be "
            f"turned into {precision}: only fp32 files of HGNetV2 and PPHGNet that export_onnx "
            "wrote are; other networks are exported in fp32"
        )
    more = dict(card.more)
    if precision == "int8":
        if calibration is None or validation is None:
            raise ParameterError(
                "int8 needs images: calibration= for its ranges and validation= for its gate"
            )
        names = sorted(scale_groups(proto))
        given = calibration.batches
        ranges = activation_ranges(
            proto,
            names,
            lambda: map(card.preprocess.normalize, given()),
            method=calibration.method,
            percentile=calibration.percentile,
        )
        rough = quantize_graph(proto, ranges)
        more["calibration"] = f"{calibration.method} on {calibration.source}"
        run = session_logits(rough)
    else:
        rough = to_half(proto, precision)
        run = session_logits(round_in_float32(rough) if precision == "bf16" else rough)
    found = check_precision(
        session_logits(proto),
        run,
        validation or noise(card.preprocess.crop),
        card.preprocess,
        precision=precision,
        max_drop=MAX_DROP[precision] if max_drop is None else max_drop,
    )
    more["gate"] = json.dumps(found, sort_keys=True)
    card = replace(
        card,
        precision=precision,
        parity_error=found["relative_error"],
        self_test=make_self_test(rough, card.preprocess, precision),
        more=more,
    )
    with write_aside(path) as aside:
        save_onnx(rough, card, aside)
    change = ""
    if "top1" in found:
        change = f", top-1 {found['top1_fp32']} -> {found['top1']} of {found['n']}"
    elif "map" in found:
        change = f", mAP {found['map_fp32']} -> {found['map']} on {found['n']}"
    _log.info(
        "wrote %s: %s logits off by %.2g (rms) of their standard deviation on %s%s",
        path.name, precision, found["rms_error"], found["images"], change,
    )  # fmt: skip
    return found


def fix_batch(path: Path, size: int) -> None:
    """Let an exported file take batches of ``size`` alone, as the compilers of some chips ask."""
    import onnx

    file = read_onnx(path)
    proto = onnx.load_from_string(file.content)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for edge in value.type.tensor_type.shape.dim:
            if edge.dim_param == BATCH:
                edge.dim_value = size
    with write_aside(path) as aside:
        save_onnx(proto, ModelCard.from_props(file.props, path), aside)


def save_onnx(proto: Any, card: ModelCard, path: Path) -> None:
    """Write one whole file with its card; onnx's checker has passed it."""
    import onnx
    from onnx import helper

    helper.set_model_props(proto, card.to_props())
    onnx.checker.check_model(proto, full_check=True)
    # One file: `save` moves no tensor out of it unless it is asked to.
    onnx.save(proto, str(path))
