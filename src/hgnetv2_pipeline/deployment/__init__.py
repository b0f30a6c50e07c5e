"""From weights to an answer elsewhere: ONNX, engines, prediction, latency.

Names are resolved on first use (PEP 562), so that predicting on ONNX imports neither torch nor
pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgnetv2_pipeline.deployment.bundle import write_bundle
    from hgnetv2_pipeline.deployment.card import ModelCard
    from hgnetv2_pipeline.deployment.engines.base import Engine, EngineUnavailable
    from hgnetv2_pipeline.deployment.engines.ladder import ENGINES, load_engine
    from hgnetv2_pipeline.deployment.gate import ExportError, Validation
    from hgnetv2_pipeline.deployment.inputs import expand_inputs
    from hgnetv2_pipeline.deployment.latency import compare_latency, measure_latency
    from hgnetv2_pipeline.deployment.precisions import Calibration, convert_onnx
    from hgnetv2_pipeline.deployment.predict import (
        check_predictions,
        iter_predictions,
        predict_paths,
    )
    from hgnetv2_pipeline.deployment.prediction_formats import (
        format_infer,
        format_predict_cls,
        prediction_sheet,
        write_lines,
        write_predictions_csv,
        write_predictions_jsonl,
        write_predictions_parquet,
    )
    from hgnetv2_pipeline.deployment.to_onnx import export_onnx, verify_onnx

_HOME = {
    "Calibration": "precisions",
    "ENGINES": "engines.ladder",
    "Engine": "engines.base",
    "EngineUnavailable": "engines.base",
    "ExportError": "gate",
    "ModelCard": "card",
    "Validation": "gate",
    "check_predictions": "predict",
    "compare_latency": "latency",
    "convert_onnx": "precisions",
    "expand_inputs": "inputs",
    "export_onnx": "to_onnx",
    "format_infer": "prediction_formats",
    "format_predict_cls": "prediction_formats",
    "iter_predictions": "predict",
    "load_engine": "engines.ladder",
    "measure_latency": "latency",
    "predict_paths": "predict",
    "prediction_sheet": "prediction_formats",
    "verify_onnx": "to_onnx",
    "write_bundle": "bundle",
    "write_lines": "prediction_formats",
    "write_predictions_csv": "prediction_formats",
    "write_predictions_jsonl": "prediction_formats",
    "write_predictions_parquet": "prediction_formats",
}

__all__ = [
    "Calibration",
    "ENGINES",
    "Engine",
    "EngineUnavailable",
    "ExportError",
    "ModelCard",
    "Validation",
    "check_predictions",
    "compare_latency",
    "convert_onnx",
    "expand_inputs",
    "export_onnx",
    "format_infer",
    "format_predict_cls",
    "iter_predictions",
    "load_engine",
    "measure_latency",
    "predict_paths",
    "prediction_sheet",
    "verify_onnx",
    "write_bundle",
    "write_lines",
    "write_predictions_csv",
    "write_predictions_jsonl",
    "write_predictions_parquet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
