"""The four training pipelines, from one factory, and what lies before two of them."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.training.nodes import make_trainer
from hgnetv2_pipeline.pipelines.training.teacher_logits import store_teacher_logits


def training_pipeline(
    name: str, *, train: str | None = None, upstream: tuple[str, ...] = ()
) -> Pipeline:
    """The pipeline ``name``: one node that trains ``06_models/<dataset>/<name>/<variant>/<run>``.

    Args:
        train: dataset with the training samples; None: the labelled images of the lists.
        upstream: further results the recipe needs: the teacher, the run it starts from.
    """
    return pipeline(
        [
            node(
                make_trainer(
                    name, mined=train is not None, distilled="train_teacher.teacher" in upstream
                ),
                inputs=[
                    "params:identity",
                    f"params:{name}",
                    "params:teacher_logits",
                    "params:device",
                    "params:distributed",
                    "params:redo",
                    "params:resume",
                    "ingestion.lists",
                    *([train] if train else []),
                    *upstream,
                ],
                outputs=[f"{name}.run", f"{name}.history"],
                name="train",
                tags=[name],
                namespace=name,
            )
        ]
    )


def teacher_logits_pipeline() -> Pipeline:
    """The first node of ssld_stage1: the teacher's answers, where they are to be stored."""
    return pipeline(
        [
            node(
                store_teacher_logits,
                inputs=[
                    "params:identity",
                    "params:teacher_logits",
                    "params:ssld_stage1",
                    "params:device",
                    "params:distributed",
                    "params:redo",
                    "ingestion.lists",
                    "mining.result",
                    "train_teacher.teacher",
                ],
                outputs="ssld_stage1.teacher_logits",
                name="store_teacher_logits",
                tags=["ssld_stage1"],
                namespace="ssld_stage1",
            )
        ]
    )
