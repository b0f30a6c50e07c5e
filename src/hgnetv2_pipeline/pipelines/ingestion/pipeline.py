"""ingestion: from folders of images to indexes, lists and a report on them."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.ingestion.nodes import (
    make_lists,
    provide_raw,
    provide_weights,
    report_lists,
)


def create_pipeline() -> Pipeline:
    """Raw images, lists, report; and for the sample a weight file to import."""
    return pipeline(
        [
            node(
                provide_raw,
                inputs=["params:identity", "params:data"],
                outputs="ingestion.raw",
                name="provide_raw",
                tags=["ingestion"],
            ),
            node(
                provide_weights,
                inputs=["params:identity", "params:data", "params:redo", "ingestion.raw"],
                outputs="ingestion.weights",
                name="provide_weights",
                tags=["ingestion", "import_weights"],
            ),
            node(
                make_lists,
                inputs=["params:identity", "params:data", "params:redo", "ingestion.raw"],
                outputs="ingestion.lists",
                name="make_lists",
                tags=["ingestion"],
            ),
            node(
                report_lists,
                inputs=["params:identity", "params:redo", "ingestion.raw", "ingestion.lists"],
                outputs=["ingestion.summary", "ingestion.contact_sheet", "ingestion.quarantine"],
                name="report_lists",
                tags=["ingestion"],
            ),
        ]
    )
