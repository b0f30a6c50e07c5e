"""One node trains all four students, another stores what their teacher answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import read_teacher
from hgnetv2_pipeline.project.training.runs import logits_store, make_run_spec, train_student
from hgnetv2_pipeline.project.training.teacher_logits import make_store, store_result, store_spec
from hgnetv2_pipeline.training.config import TrainConfig

_log = logging.getLogger(__name__)


def make_trainer(pipeline: str) -> Callable[..., Path]:
    """The node function of one training pipeline, named after it.

    It reads ``mined`` and ``teacher`` where the pipeline has them. What is ``earlier`` orders the
    nodes: the stored answers, and what the recipe's ``init`` may name.
    """

    def train(
        run: Run, config: TrainConfig, logits: TeacherLogitsParams, lists: Path,
        mined: Path | None = None, teacher: Path | None = None, **earlier: Path,
    ) -> Path:  # fmt: skip
        samples = mined / "train_mined.parquet" if mined else Lists(lists).index("train")
        found = read_teacher(teacher, run.identity) if teacher else None
        answers = logits_store(run, logits) if teacher else None
        spec = make_run_spec(
            run, config, pipeline=pipeline, train=samples, teacher=found, stored=answers
        )
        train_student(run, spec, found)
        return spec.out

    train.__name__ = pipeline
    return train


def store_teacher_logits(
    run: Run, logits: TeacherLogitsParams, config: TrainConfig, lists: Path, mined: Path,
    teacher: Path,
) -> Path:  # fmt: skip
    """The teacher's answers to V views of every image of stage 1's list; nothing when online.

    Stage 2's images are among them, so both stages and all variants read one store.
    """
    folder = run.folder("teacher_logits")
    if logits.source == "online":
        folder.mkdir(parents=True, exist_ok=True)
        _log.info("no teacher logits are stored: the teacher runs along with its students "
                  "(--params teacher_logits.source=stored)")  # fmt: skip
        return folder
    found, samples = read_teacher(teacher, run.identity), mined / "train_mined.parquet"
    classes = Lists(lists).classes
    spec = store_spec(run, logits, config, classes=classes, samples=samples, teacher=found)
    run.produce(store_result(spec, logits, found), lambda _: make_store(run, spec))
    return folder
