"""export: from weights to a folder with everything another machine needs."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.export.nodes import export


def create_pipeline(last: str = "ssld_stage2.run", *, measured: str | None = None) -> Pipeline:
    """One node, after the best model and the ``last`` training of the chain.

    ``measured``: the evaluation that it waits for, so that the model card has its figures.
    """
    return Pipeline(
        [
            node(
                export,
                inputs=[
                    "params:this_run",
                    "params:export",
                    "ingestion.lists",
                    "best.run",
                    last,
                    *([measured] if measured else []),
                ],
                outputs=["export.bundle", "export.export_history"],
                name="export",
            ),
        ],
        tags="export",
        namespace="export",
        prefix_datasets_with_namespace=False,
    )
