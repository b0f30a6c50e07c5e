"""ingestion: from folders of images to indexes, lists and a report on them."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw, report_lists


def create_pipeline() -> Pipeline:
    """Raw images, lists, report."""
    return Pipeline(
        [
            node(
                provide_raw,
                inputs=["params:this_run", "params:data"],
                outputs="ingestion.raw",
                name="provide_raw",
            ),
            node(
                make_lists,
                inputs=["params:this_run", "params:data", "ingestion.raw"],
                outputs="ingestion.lists",
                name="make_lists",
            ),
            node(
                report_lists,
                inputs=["params:this_run", "ingestion.raw", "ingestion.lists"],
                outputs=[
                    "ingestion.summary",
                    "ingestion.contact_sheet",
                    "ingestion.page",
                    "ingestion.quarantine",
                ],
                name="report_lists",
            ),
        ],
        tags="ingestion",
        namespace="ingestion",
        prefix_datasets_with_namespace=False,
    )
