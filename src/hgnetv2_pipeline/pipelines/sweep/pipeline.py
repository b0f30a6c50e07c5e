"""sweep: several variants by one chain, set side by side, with a recommendation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.sweep.nodes import sweep


def create_pipeline(*upstream: str) -> Pipeline:
    """One node, after the lists and, where there is a pool, the ``upstream``: mined list, teacher
    and stored answers. ``sweep_runs`` are put into the catalog before the first node runs.
    """
    return Pipeline(
        [
            node(
                sweep,
                inputs=[
                    "params:this_run",
                    "params:sweep_runs",
                    "params:budget_ms",
                    "params:latency",
                    "ingestion.lists",
                    *upstream,
                ],
                outputs=["sweep.results", "sweep.table", "sweep.page"],
                name="sweep",
            ),
        ],
        tags="sweep",
        namespace="sweep",
        prefix_datasets_with_namespace=False,
    )
