"""From an unlabelled pool to a training list: score, deduplicate, select, audit.

>>> from hgnetv2_pipeline import mining
>>> mining.default_target(n_pool=2_000_000, n_classes=100)
560000
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgnetv2_pipeline.mining.exclusion import read_exclusions
    from hgnetv2_pipeline.mining.inspection import audit, class_table
    from hgnetv2_pipeline.mining.launch import ScoreSpec, score_in_processes
    from hgnetv2_pipeline.mining.merging import write_merged
    from hgnetv2_pipeline.mining.neighbours import HashIndex, hamming
    from hgnetv2_pipeline.mining.purity import choose_probes, purity_curve, rank_probes
    from hgnetv2_pipeline.mining.review import (
        apply_review,
        count_decisions,
        read_review,
        write_review,
    )
    from hgnetv2_pipeline.mining.score import score_pool
    from hgnetv2_pipeline.mining.selection import Selection, default_target, select
    from hgnetv2_pipeline.mining.shards import quarantined, write_sources
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
    "read_exclusions": "exclusion",
    "count_decisions": "review",
    "read_review": "review",
    "write_review": "review",
    "score_pool": "score",
    "ScoreSpec": "launch",
    "score_in_processes": "launch",
    "quarantined": "shards",
    "write_sources": "shards",
    "Selection": "selection",
    "default_target": "selection",
    "select": "selection",
    "write_merged": "merging",
    "contact_sheets": "sheets",
    "shown_pairs": "sheets",
    "deduplicate": "twins",
    "Thresholds": "verify",
    "VIEW_COUNT": "views",
}

__all__ = [
    "VIEW_COUNT",
    "HashIndex",
    "ScoreSpec",
    "Selection",
    "Thresholds",
    "apply_review",
    "audit",
    "choose_probes",
    "class_table",
    "contact_sheets",
    "count_decisions",
    "deduplicate",
    "default_target",
    "hamming",
    "purity_curve",
    "quarantined",
    "read_exclusions",
    "rank_probes",
    "read_review",
    "score_in_processes",
    "score_pool",
    "select",
    "shown_pairs",
    "write_merged",
    "write_review",
    "write_sources",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
