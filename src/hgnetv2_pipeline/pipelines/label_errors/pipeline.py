"""label_errors: of the labelled images, those whose label a person should look at."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.label_errors.nodes import find_suspects


def create_pipeline() -> Pipeline:
    """One node, after the images were listed."""
    return Pipeline(
        [
            node(
                find_suspects,
                inputs=["params:this_run", "params:train_teacher", "ingestion.lists"],
                outputs="label_errors.list",
                name="find",
            ),
        ],
        tags="label_errors",
        namespace="label_errors",
        prefix_datasets_with_namespace=False,
    )
