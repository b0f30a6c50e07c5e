"""import_weights: from a .pdparams, archive, .pth or safetensors file to a run of our own."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.import_weights.nodes import import_weights


def create_pipeline() -> Pipeline:
    """One node."""
    return pipeline(
        [
            node(
                import_weights,
                inputs=[
                    "params:identity",
                    "params:import_weights",
                    "params:weights",
                    "params:redo",
                    "ingestion.lists",
                    "ingestion.weights",
                ],
                outputs="import_weights.weights",
                name="import_weights",
                tags=["import_weights"],
            )
        ]
    )
