"""evaluation: a model's accuracy on val, or once on test."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.evaluation.nodes import evaluate


def create_pipeline() -> Pipeline:
    """One node."""
    return Pipeline(
        [
            node(
                evaluate,
                inputs=[
                    "params:this_run",
                    "params:evaluation",
                    "params:split",
                    "ingestion.lists",
                    "best.run",
                    "ssld_stage2.run",
                ],
                outputs=[
                    "evaluation.results",
                    "evaluation.metrics",
                    "evaluation.rows",
                    "evaluation.metrics_history",
                ],
                name="evaluate",
            ),
        ],
        tags="evaluation",
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
    )
