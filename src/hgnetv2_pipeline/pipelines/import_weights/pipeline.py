"""import_weights: from a .pdparams, archive, .pth or safetensors file to a run of our own."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.import_weights.nodes import import_weights, provide_weights


def create_pipeline() -> Pipeline:
    """For the sample a weight file to import; then the import."""
    return Pipeline(
        [
            node(
                provide_weights,
                inputs=["params:this_run", "params:data"],
                outputs="import_weights.file",
                name="provide_weights",
            ),
            node(
                import_weights,
                inputs=[
                    "params:this_run",
                    "params:import_weights",
                    "params:weights",
                    "import_weights.file",
                ],
                outputs="import_weights.weights",
                name="import_weights",
            ),
        ],
        tags="import_weights",
        namespace="import_weights",
        prefix_datasets_with_namespace=False,
    )
