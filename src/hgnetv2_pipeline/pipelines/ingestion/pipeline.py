"""ingestion: from folders of images to indexes, lists and a report on them."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw, report_lists


def create_pipeline() -> Pipeline:
    """Raw images, lists, report."""
    return pipeline(
        [
            node(
                provide_raw,
                inputs=["params:identity", "params:data"],
                outputs="ingestion.raw",
                name="provide_raw",
                tags=["ingestion"],
                namespace="ingestion",
            ),
            node(
                make_lists,
                inputs=["params:identity", "params:data", "params:redo", "ingestion.raw"],
                outputs="ingestion.lists",
                name="make_lists",
                tags=["ingestion"],
                namespace="ingestion",
            ),
            node(
                report_lists,
                inputs=["params:identity", "params:redo", "ingestion.raw", "ingestion.lists"],
                outputs=[
                    "ingestion.summary",
                    "ingestion.contact_sheet",
                    "ingestion.page",
                    "ingestion.quarantine",
                ],
                name="report_lists",
                tags=["ingestion"],
                namespace="ingestion",
            ),
        ]
    )
