"""evaluation: a model's accuracy on val, or once on test."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.evaluation.nodes import evaluate


def create_pipeline(last: str = "ssld_stage2.run") -> Pipeline:
    """One node, after the best model and the ``last`` training of the chain."""
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
                    last,
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
