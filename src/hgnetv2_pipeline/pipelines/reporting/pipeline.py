"""reporting: what was measured, on one page that needs no network."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.reporting.nodes import draw_plots, report


def create_pipeline(*ssld: str) -> Pipeline:
    """The page, and the plots for DVC. The page's inputs load as paths: it says what is missing, as
    after ``dvc repro``, which measures no latency. ``ssld`` is what the chain with a pool reports
    besides.
    """
    return Pipeline(
        [
            node(
                report,
                inputs=[
                    "params:this_run",
                    "ingestion.lists",
                    "evaluation.results",
                    "evaluation.error_analysis",
                    "export.bundle",
                    "latency.results",
                    "prediction.answers",
                    *ssld,
                ],
                outputs=["reporting.html", "reporting.markdown"],
                name="report",
            ),
            node(
                draw_plots,
                inputs=["params:this_run", "params:split", "reporting.html"],
                outputs="reporting.plots",
                name="draw_plots",
            ),
        ],
        tags="reporting",
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
