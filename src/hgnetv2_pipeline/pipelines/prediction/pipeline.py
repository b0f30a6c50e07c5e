"""prediction: images in, the seed page's answers out."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.prediction.nodes import predict


def create_pipeline() -> Pipeline:
    """One node."""
    return pipeline(
        [
            node(
                predict,
                inputs=[
                    "params:identity",
                    "params:prediction",
                    "params:images",
                    "params:device",
                    "params:redo",
                    "ingestion.lists",
                    "export.bundle",
                ],
                outputs=["prediction.answers", "prediction.sheet"],
                name="predict",
                tags=["prediction"],
                namespace="prediction",
            )
        ]
    )
