"""comparison: is it worth it? The same student trained in other ways, at stated cost."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.comparison.nodes import tabulate, train_arms


def create_pipeline() -> Pipeline:
    """Train the arms, then the table."""
    return pipeline(
        [
            node(
                train_arms,
                inputs=[
                    "params:identity",
                    "params:comparison",
                    "params:train_teacher",
                    "params:train",
                    "params:ssld_stage1",
                    "params:ssld_stage2",
                    "params:teacher_logits",
                    "params:device",
                    "params:distributed",
                    "params:redo",
                    "params:resume",
                    "ingestion.lists",
                    "train_teacher.teacher",
                    "mining.result",
                    "ssld_stage2.run",
                ],
                outputs="comparison.arms",
                name="train_arms",
                tags=["comparison"],
                namespace="comparison",
            ),
            node(
                tabulate,
                inputs=[
                    "params:identity",
                    "params:comparison",
                    "params:train_teacher",
                    "params:redo",
                    "ingestion.lists",
                    "train_teacher.teacher",
                    "ssld_stage1.run",
                    "ssld_stage2.run",
                    "comparison.arms",
                ],
                outputs=["comparison.results", "comparison.table"],
                name="tabulate",
                tags=["comparison"],
                namespace="comparison",
            ),
        ]
    )
