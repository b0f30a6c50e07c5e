"""The four training pipelines, from one factory, and what is before two of them."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline, node

from hgnetv2_pipeline.pipelines.training.nodes import make_trainer, store_teacher_logits


def training_pipeline(name: str, **upstream: str) -> Pipeline:
    """The pipeline ``name``: one node that trains ``06_models/<dataset>/<name>/<variant>/<run>``.

    ``upstream`` are the further results that the recipe needs, by the trainer's names for them:
    ``mined`` (else it trains on the labelled images), ``teacher``, ``stored`` answers, and what it
    starts from.
    """
    trainer = node(
        make_trainer(name),
        inputs={
            "run": "params:this_run",
            "config": f"params:{name}",
            "logits": "params:teacher_logits",
            "lists": "ingestion.lists",
            **upstream,
        },
        outputs=f"{name}.run",
        name="train",
    )
    return _named(name, trainer)


def teacher_logits_pipeline() -> Pipeline:
    """The first node of ssld_stage1: the teacher's answers, where they are to be stored."""
    store = node(
        store_teacher_logits,
        inputs=[
            "params:this_run",
            "params:teacher_logits",
            "params:ssld_stage1",
            "ingestion.lists",
            "mining.result",
            "train_teacher.teacher",
        ],
        outputs="ssld_stage1.teacher_logits",
        name="store_teacher_logits",
    )
    return _named("ssld_stage1", store)


def _named(name: str, made: Node) -> Pipeline:
    return Pipeline([made], tags=name, namespace=name, prefix_datasets_with_namespace=False)
