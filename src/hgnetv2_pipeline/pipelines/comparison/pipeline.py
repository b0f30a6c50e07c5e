"""comparison: is it worth it? The same student trained in other ways, at stated cost."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.comparison.nodes import tabulate, train_arms


def create_pipeline() -> Pipeline:
    """Train the arms, then the table."""
    return Pipeline(
        [
            node(
                train_arms,
                inputs=[
                    "params:this_run",
                    "params:comparison",
                    "params:train_teacher",
                    "params:train",
                    "params:ssld_stage1",
                    "params:ssld_stage2",
                    "params:teacher_logits",
                    "params:mining",
                    "train_teacher.teacher",
                    "mining.result",
                    "ssld_stage2.run",
                ],
                outputs="comparison.arms",
                name="train_arms",
            ),
            node(
                tabulate,
                inputs=[
                    "params:this_run",
                    "params:comparison",
                    "params:train_teacher",
                    "params:evaluation",
                    "params:split",
                    "ingestion.lists",
                    "train_teacher.teacher",
                    "comparison.arms",
                ],
                outputs=["comparison.results", "comparison.table"],
                name="tabulate",
            ),
        ],
        tags="comparison",
        namespace="comparison",
        prefix_datasets_with_namespace=False,
    )
