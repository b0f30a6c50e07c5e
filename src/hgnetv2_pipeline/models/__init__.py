"""From a batch to logits: the networks, their published weights and every weight format.

Names are loaded on first use, so that ``models.zoo`` can be read without importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "create_model": "build",
    "build_from": "build",
    "weights_hash": "build",
    "HGNetV2": "hgnetv2",
    "VARIANTS": "hgnetv2",
    "Variant": "hgnetv2",
    "HGNet": "hgnet",
    "TEACHERS": "hgnet",
    "Teacher": "hgnet",
    "Profile": "cost",
    "profile": "cost",
    "reparameterize": "fold",
    "freeze": "frozen",
    "FeatureDict": "feature_dict",
    "formula_tensor": "formula",
    "formula_state": "formula",
    "ExportReport": "weights",
    "LoadReport": "weights",
    "export_weights": "weights",
    "inspect_file": "inspection",
    "load_weights": "weights",
    "save_weights": "weights",
    "read_metadata": "weights",
    "read_pdparams": "paddle_pickle",
    "write_pdparams": "paddle_writer",
    "ZOO": "zoo",
    "ZooEntry": "zoo",
    "fetch": "zoo",
    "provide": "zoo",
    "agree": "imagenet",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
