"""best: of all that was trained, the model that is evaluated, exported and timed."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.best.nodes import choose_best


def create_pipeline(*trained: str) -> Pipeline:
    """One node, after the trainings whose results are named: the stages and arms of the chain, or
    in the chain without a pool the supervised one.
    """
    trained = trained or ("ssld_stage1.run", "ssld_stage2.run", "comparison.arms")
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
                    *trained,
                ],
                outputs="best.run",
                name="choose",
            ),
        ],
        tags="best",
        namespace="best",
        prefix_datasets_with_namespace=False,
    )
