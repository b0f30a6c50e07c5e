"""best: of all that was trained, the model that is evaluated, exported and timed."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.best.nodes import choose_best


def create_pipeline() -> Pipeline:
    """One node."""
    return Pipeline(
        [
            node(
                choose_best,
                inputs=[
                    "params:this_run",
                    "params:best",
                    "params:evaluation",
                    "params:comparison",
                    "params:train_teacher",
                    "ingestion.lists",
                    "ssld_stage1.run",
                    "ssld_stage2.run",
                    "comparison.arms",
                ],
                outputs="best.run",
                name="choose",
            ),
        ],
        tags="best",
        namespace="best",
        prefix_datasets_with_namespace=False,
    )
