"""reporting: what was measured, on one page that needs no network."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.reporting.nodes import report


def create_pipeline(*ssld: str) -> Pipeline:
    """One node, whose inputs load as paths: the page says what is missing, as after ``dvc repro``,
    which measures no latency. ``ssld`` is what the chain with a pool reports besides.
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
        ],
        tags="reporting",
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
