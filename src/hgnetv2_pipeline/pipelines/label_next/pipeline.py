"""label_next: of the pool, the images that a person should label next."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.label_next.nodes import propose_images


def create_pipeline() -> Pipeline:
    """One node, after the pool was scored and compared with the labelled images."""
    return Pipeline(
        [
            node(
                propose_images,
                inputs=[
                    "params:this_run",
                    "params:label_next",
                    "params:mining",
                    "train_teacher.teacher",
                    "mining.scores",
                    "mining.dedup",
                ],
                outputs="label_next.list",
                name="choose",
            ),
        ],
        tags="label_next",
        namespace="label_next",
        prefix_datasets_with_namespace=False,
    )
