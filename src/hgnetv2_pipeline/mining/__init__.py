"""From an unlabelled pool to a training list: score, deduplicate, select, audit.

>>> from hgnetv2_pipeline import mining
>>> mining.default_k(n_pool=2_000_000, n_classes=100)
8000
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgnetv2_pipeline.mining.inspection import audit, class_table
    from hgnetv2_pipeline.mining.neighbours import HashIndex, hamming
    from hgnetv2_pipeline.mining.purity import choose_probes, purity_curve, rank_probes
    from hgnetv2_pipeline.mining.review import (
        apply_review,
        count_decisions,
        read_review,
        write_review,
    )
    from hgnetv2_pipeline.mining.score import score_pool
    from hgnetv2_pipeline.mining.selection import default_k, select, write_mined_list
    from hgnetv2_pipeline.mining.sheets import contact_sheets, shown_pairs
    from hgnetv2_pipeline.mining.twins import deduplicate
    from hgnetv2_pipeline.mining.verify import Thresholds
    from hgnetv2_pipeline.mining.views import VIEW_COUNT

_HOMES = {
    "audit": "inspection",
    "class_table": "inspection",
    "HashIndex": "neighbours",
    "hamming": "neighbours",
    "choose_probes": "purity",
    "purity_curve": "purity",
    "rank_probes": "purity",
    "apply_review": "review",
    "count_decisions": "review",
    "read_review": "review",
    "write_review": "review",
    "score_pool": "score",
    "default_k": "selection",
    "select": "selection",
    "write_mined_list": "selection",
    "contact_sheets": "sheets",
    "shown_pairs": "sheets",
    "deduplicate": "twins",
    "Thresholds": "verify",
    "VIEW_COUNT": "views",
}

__all__ = [
    "VIEW_COUNT",
    "HashIndex",
    "Thresholds",
    "apply_review",
    "audit",
    "choose_probes",
    "class_table",
    "contact_sheets",
    "count_decisions",
    "deduplicate",
    "default_k",
    "hamming",
    "purity_curve",
    "rank_probes",
    "read_review",
    "score_pool",
    "select",
    "shown_pairs",
    "write_mined_list",
    "write_review",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
