"""From metrics to a page a person reads: files in, an offline ``report.html`` and ``.md`` out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hgnetv2_pipeline.reporting.build import build_report, terminal_summary
    from hgnetv2_pipeline.reporting.inputs import ReportInputs
    from hgnetv2_pipeline.reporting.terminal import banner_text, summary_rows, terminal_table

__all__ = [
    "ReportInputs",
    "banner_text",
    "build_report",
    "summary_rows",
    "terminal_summary",
    "terminal_table",
]

_HOME = {
    "ReportInputs": "inputs",
    "banner_text": "terminal",
    "build_report": "build",
    "summary_rows": "terminal",
    "terminal_summary": "build",
    "terminal_table": "terminal",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
