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
                    "ingestion.summary",
                    "mining.audit",
                    "evaluation.metrics",
                    "export.card",
                    "latency.summary",
                    "prediction.answers",
                    "comparison.table",
                ],
                outputs=["reporting.html", "reporting.markdown"],
                name="report",
                tags=["reporting"],
                namespace="reporting",
            )
        ]
    )
