"""export: from weights to a folder with everything another machine needs."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.export.nodes import export


def create_pipeline() -> Pipeline:
    """One node."""
    return pipeline(
        [
            node(
                export,
                inputs=[
                    "params:identity",
                    "params:export",
                    "params:redo",
                    "ingestion.lists",
                    "ssld_stage2.run",
                ],
                outputs=["export.bundle", "export.card", "export.export_history"],
                name="export",
                tags=["export"],
                namespace="export",
            )
        ]
    )
