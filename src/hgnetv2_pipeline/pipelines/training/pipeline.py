"""The four training pipelines, from one factory."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from hgnetv2_pipeline.pipelines.training.nodes import make_trainer


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
                    "params:device",
                    "params:distributed",
                    "params:redo",
                    "params:plan_only",
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
