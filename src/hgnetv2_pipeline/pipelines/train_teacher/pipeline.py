"""train_teacher: from labelled images or ready weights to a teacher that is worth following."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.train_teacher.nodes import train_teacher


def create_pipeline() -> Pipeline:
    """One node: members, their measure, the gate."""
    return Pipeline(
        [
            node(
                train_teacher,
                inputs=["params:this_run", "params:train_teacher", "ingestion.lists"],
                outputs="train_teacher.teacher",
                name="train_teacher",
            ),
        ],
        tags="train_teacher",
        namespace="train_teacher",
        prefix_datasets_with_namespace=False,
    )
