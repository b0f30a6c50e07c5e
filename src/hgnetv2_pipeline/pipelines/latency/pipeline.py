"""latency: what the exported model costs on this machine."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.latency.nodes import measure


def create_pipeline() -> Pipeline:
    """One node."""
    return pipeline(
        [
            node(
                measure,
                inputs=[
                    "params:identity",
                    "params:latency",
                    "params:device",
                    "params:redo",
                    "export.bundle",
                ],
                outputs=["latency.results", "latency.summary", "latency.latency_history"],
                name="measure_latency",
                tags=["latency"],
                namespace="latency",
            )
        ]
    )
