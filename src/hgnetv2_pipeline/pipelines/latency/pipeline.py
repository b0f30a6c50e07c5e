"""latency: what the exported model costs on this machine."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.latency.nodes import measure


def create_pipeline() -> Pipeline:
    """One node."""
    return Pipeline(
        [
            node(
                measure,
                inputs=["params:this_run", "params:latency", "export.bundle"],
                outputs=["latency.results", "latency.summary", "latency.latency_history"],
                name="measure_latency",
            ),
        ],
        tags="latency",
        namespace="latency",
        prefix_datasets_with_namespace=False,
    )
