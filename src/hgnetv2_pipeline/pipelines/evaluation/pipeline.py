"""evaluation: a model's accuracy on val, or once on test, and its mistakes."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.evaluation.nodes import analyse_errors, evaluate


def create_pipeline(last: str = "ssld_stage2.run") -> Pipeline:
    """The measurement, after the best model and the ``last`` training of the chain, and what can be
    learnt of its wrong answers."""
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
            node(
                analyse_errors,
                inputs=[
                    "params:this_run",
                    "params:evaluation",
                    "params:split",
                    "ingestion.lists",
                    "evaluation.results",
                ],
                outputs="evaluation.error_analysis",
                name="analyse_errors",
            ),
        ],
        tags="evaluation",
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
    )
