"""mining: from the pool and the teacher to the training list of stage 1."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from hgnetv2_pipeline.pipelines.mining.nodes import (
    audit,
    deduplicate,
    estimate_purity,
    map_pool,
    score_hidden_images,
    score_pool,
    select,
)


def create_pipeline() -> Pipeline:
    """Score, deduplicate, select, estimate the purity, map, audit."""
    return Pipeline(
        [
            node(
                score_pool,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "train_teacher.teacher",
                ],
                outputs="mining.scores",
                name="score_pool",
            ),
            node(
                deduplicate,
                inputs=["params:this_run", "params:mining", "ingestion.lists", "mining.scores"],
                outputs="mining.dedup",
                name="deduplicate",
            ),
            node(
                select,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.dedup",
                ],
                outputs="mining.result",
                name="select",
            ),
            node(
                score_hidden_images,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "train_teacher.teacher",
                    "mining.scores",
                ],
                outputs="mining.probes",
                name="score_probes",
            ),
            node(
                estimate_purity,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.result",
                    "mining.probes",
                ],
                outputs="mining.purity",
                name="estimate_purity",
            ),
            node(
                map_pool,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "train_teacher.teacher",
                    "mining.scores",
                    "mining.result",
                ],
                outputs="mining.map",
                name="map_pool",
            ),
            node(
                audit,
                inputs=[
                    "params:this_run",
                    "params:mining",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.result",
                    "mining.purity",
                    "mining.map",
                ],
                outputs=[
                    "mining.report",
                    "mining.audit",
                    "mining.sheet",
                    "mining.sheet_bottom",
                    "mining.sheet_removed",
                    "mining.sheet_review",
                ],
                name="audit",
            ),
        ],
        tags="mining",
        namespace="mining",
        prefix_datasets_with_namespace=False,
    )
