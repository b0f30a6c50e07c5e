"""reporting: what was measured, on one page that needs no network."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.reporting.nodes import report


def create_pipeline() -> Pipeline:
    """One node."""
    return pipeline(
        [
            node(
                report,
                inputs=[
                    "params:identity",
                    "params:redo",
                    "ingestion.lists",
                    # Folders, which load whether or not anything is in them: the page says what
                    # is missing, as after `dvc repro`, which measures no latency.
                    "mining.report",
                    "evaluation.results",
                    "export.bundle",
                    "latency.results",
                    "prediction.answers",
                    "comparison.results",
                ],
                outputs=["reporting.html", "reporting.markdown"],
                name="report",
                tags=["reporting"],
                namespace="reporting",
            )
        ]
    )
