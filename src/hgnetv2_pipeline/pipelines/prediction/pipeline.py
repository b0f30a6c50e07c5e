"""prediction: images in, PaddleClas's lines out."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.prediction.nodes import predict


def create_pipeline() -> Pipeline:
    """One node."""
    return Pipeline(
        [
            node(
                predict,
                inputs=[
                    "params:this_run",
                    "params:prediction",
                    "params:images",
                    "ingestion.lists",
                    "export.bundle",
                ],
                outputs=["prediction.answers", "prediction.sheet"],
                name="predict",
            ),
        ],
        tags="prediction",
        namespace="prediction",
        prefix_datasets_with_namespace=False,
    )
