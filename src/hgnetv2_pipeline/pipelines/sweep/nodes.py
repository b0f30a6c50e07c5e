"""Several variants made by one chain, and which of them to use within a budget of time."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.sweep.making import make_entries, report_failures
from hgnetv2_pipeline.project.sweep.runs import SweepRun
from hgnetv2_pipeline.project.sweep.table import (
    TABLE,
    log_sweep,
    sweep_result,
    time_entries,
    write_sweep,
)
from hgnetv2_pipeline.reporting.sweep_page import PAGE


def sweep(
    run: Run, runs: list[SweepRun], budget_ms: float | None, latency: LatencyParams, lists: Path,
    mined: Path | None = None, teacher: Path | None = None, stored: Path | None = None,
) -> tuple[Path, Path, Path]:  # fmt: skip
    """Train, export, judge and time each of ``runs``; the table, and the page about it.

    ``stored`` is there for the order of the nodes.
    """
    entries = make_entries(run, runs, Lists(lists), mined, teacher)
    times = time_entries(run, entries, latency)
    made = run.produce(
        sweep_result(run, entries, times, budget_ms),
        lambda aside: write_sweep(aside, run, entries, times, budget_ms),
    )
    log_sweep(made.folder)
    report_failures(entries)
    return made.folder, made.folder / TABLE, made.folder / PAGE
