"""A versioned record of results over time, to load and compare by Kedro version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kedro_datasets.json import JSONDataset

from hgnetv2_pipeline.project.results import Result


class ReusedRecord(dict):  # type: ignore[type-arg]
    """What a node returns when its result was reused: there is no new record to keep."""


def new_record(result: Result, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a node hands to a ``HistoryRecord``: ``values`` of a result that was made now."""
    return ReusedRecord() if result.reused else {**values, "fingerprint": result.fingerprint}


class HistoryRecord(JSONDataset):
    """JSONDataset that keeps no second record of a result that was reused.

    Use with ``versioned: true``; ``kedro catalog`` and ``list_versions(full_path=False)`` give the
    ids for ``--load-versions metrics_history:<id>``.
    """

    @classmethod
    def _save_wrapper(cls, save_func: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        save = super()._save_wrapper(save_func)

        def unless_unchanged(self: Any, data: Any) -> None:
            if not isinstance(data, ReusedRecord):
                save(self, data)

        # AbstractDataset marks wrapped methods so that subclasses do not wrap them twice.
        unless_unchanged.__savewrapped__ = True  # type: ignore[attr-defined]
        unless_unchanged.__wrapped__ = save_func  # type: ignore[attr-defined]
        unless_unchanged.__annotations__ = save_func.__annotations__
        return unless_unchanged
