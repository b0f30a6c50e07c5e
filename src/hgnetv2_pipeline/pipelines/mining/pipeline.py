"""mining: from the pool and the teacher to the training list of stage 1."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.mining.audit import audit, estimate_purity, score_probes
from hgnetv2_pipeline.pipelines.mining.nodes import deduplicate, score_pool, select


def create_pipeline() -> Pipeline:
    """Score, deduplicate, select, estimate the purity, audit."""
    return pipeline(
        [
            node(
                score_pool,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:device",
                    "params:redo",
                    "ingestion.lists",
                    "train_teacher.teacher",
                ],
                outputs="mining.scores",
                name="score_pool",
                tags=["mining"],
                namespace="mining",
            ),
            node(
                deduplicate,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:redo",
                    "ingestion.lists",
                    "mining.scores",
                ],
                outputs=["mining.pairs", "mining.dedup"],
                name="deduplicate",
                tags=["mining"],
                namespace="mining",
            ),
            node(
                select,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:redo",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.pairs",
                ],
                outputs=["mining.result", "mining.mined"],
                name="select",
                tags=["mining"],
                namespace="mining",
            ),
            node(
                score_probes,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:device",
                    "params:redo",
                    "ingestion.lists",
                    "train_teacher.teacher",
                ],
                outputs="mining.probes",
                name="score_probes",
                tags=["mining"],
                namespace="mining",
            ),
            node(
                estimate_purity,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:redo",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.result",
                    "mining.probes",
                ],
                outputs=["mining.purity", "mining.purity_curve"],
                name="estimate_purity",
                tags=["mining"],
                namespace="mining",
            ),
            node(
                audit,
                inputs=[
                    "params:identity",
                    "params:mining",
                    "params:redo",
                    "ingestion.lists",
                    "mining.scores",
                    "mining.result",
                    "mining.purity",
                ],
                outputs=[
                    "mining.report",
                    "mining.audit",
                    "mining.page",
                    "mining.sheet",
                    "mining.sheet_bottom",
                    "mining.sheet_removed",
                    "mining.sheet_review",
                ],
                name="audit",
                tags=["mining"],
                namespace="mining",
            ),
        ]
    )
