"""train_teacher: from labelled images or ready weights to a teacher that is worth following."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.train_teacher.nodes import pass_gate, train_members


def create_pipeline() -> Pipeline:
    """Members, then the gate."""
    return pipeline(
        [
            node(
                train_members,
                inputs=[
                    "params:identity",
                    "params:train_teacher",
                    "params:device",
                    "params:distributed",
                    "params:redo",
                    "params:resume",
                    "ingestion.lists",
                ],
                outputs="train_teacher.members",
                name="train_members",
                tags=["train_teacher"],
                namespace="train_teacher",
            ),
            node(
                pass_gate,
                inputs=["params:identity", "params:train_teacher", "train_teacher.members"],
                outputs="train_teacher.teacher",
                name="pass_gate",
                tags=["train_teacher"],
                namespace="train_teacher",
            ),
        ]
    )
