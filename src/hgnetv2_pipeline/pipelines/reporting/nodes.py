"""One page from everything that was measured."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.report_files import plots_result, report_inputs, report_result
from hgnetv2_pipeline.project.run import Run


def report(run: Run, lists: Path, *measured: object) -> tuple[Path, Path]:
    """Build ``report.html`` and ``report.md`` from the files of this variant and run.

    ``measured`` orders the nodes: whatever was measured in this run is on the page. The page reads
    all results there are, also those of earlier runs, and says what is missing and how to make it.
    """
    from hgnetv2_pipeline.reporting.build import build_report

    inputs = report_inputs(run.identity)
    made = run.produce(report_result(run, inputs), lambda aside: build_report(inputs, aside))
    page = made.folder / "report.html"
    return page, made.folder / "report.md"


def draw_plots(run: Run, split: str, page: Path) -> Path:
    """What DVC shows: learning curves, arms, confusion and purity as SVG, and the metrics.

    ``page`` is there for the order of the nodes.
    """
    from hgnetv2_pipeline.reporting.plots import METRICS, write_metrics, write_plots

    inputs, folder = report_inputs(run.identity), run.folder("plots")

    def write(aside: Path) -> None:
        write_plots(inputs, split, aside / folder.name)
        write_metrics(inputs, split, aside / METRICS)

    run.produce(plots_result(run, inputs, split), write)
    return folder
