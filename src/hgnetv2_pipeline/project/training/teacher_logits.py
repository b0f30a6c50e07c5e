"""The teacher's answers as a result: made once, for every student that learns from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.project.training.runs import resized_images
from hgnetv2_pipeline.training.config import StoreSpec, TrainConfig


def store_spec(
    run: Run,
    logits: TeacherLogitsParams,
    config: TrainConfig,
    *,
    classes: list[str],
    samples: Path,
    teacher: TeacherRecord,
) -> StoreSpec:
    """What the store is made from; the views are those of ``config``, or each image once, as the
    networks of the teacher see it in mining.
    """
    clean = logits.source == "clean"
    values = logits.model_dump(exclude={"source", "check"})
    return StoreSpec(
        classes=classes,
        samples=samples,
        samples_root=run.folder("raw"),
        root=run.identity.project,
        teacher=teacher.config,
        augment=None if clean else config.view(),
        fit=teacher.fit,
        resized=config.input.resized,
        channels_last=config.channels_last,
        threads=config.threads,
        earlier=[],
        out=run.folder("teacher_logits"),
        device=run.device,
        rank=0,
        world_size=1,
        **(values | {"views": 1} if clean else values),
    )


def store_result(
    spec: StoreSpec, logits: TeacherLogitsParams, teacher: TeacherRecord
) -> ResultSpec:
    """The store as a result; an interrupted pass goes on after its last finished shard."""
    from hgnetv2_pipeline.input.augment import make_augment
    from hgnetv2_pipeline.input.teacher_logits import IMAGES, SHARDS, STORE, describe_view

    shown: dict[str, Any] = {"fit": spec.fit, "resized": spec.resized}
    if spec.augment is not None:
        shown = describe_view(make_augment(spec.augment), resized=spec.resized)
    return ResultSpec(
        folder=spec.out,
        pipeline="teacher_logits",
        inputs={"images": spec.samples, "teacher": teacher.record},
        params={
            "classes": spec.classes,
            "transform": shown,
            **spec.model_dump(include={"views", "topk", "seed", "amp", "shard_images"}),
        },
        outputs=[STORE, IMAGES, SHARDS],
        resumable=True,
    )


def make_store(run: Run, spec: StoreSpec) -> None:
    """Ask the teacher for what no earlier store has, and seal the store.

    The processes of this machine share the pass as they share a training.
    """
    from hgnetv2_pipeline.training.stored_logits.make import (
        announce,
        seal_teacher_logits,
        store_in_processes,
    )

    tracker.begin(spec.out)
    spec = spec.model_copy(update={"earlier": _earlier_stores(run, spec.out)})
    announce(spec)
    samples, root = resized_images(run.identity, spec.samples, spec.samples_root, spec.resized)
    processes = run.distributed.processes_here(run.device)
    spec = spec.model_copy(
        update={"samples": samples, "samples_root": root, "world_size": processes}
    )
    store_in_processes(spec)
    seal_teacher_logits(spec)


def _earlier_stores(run: Run, folder: Path) -> list[Path]:
    """A list that changed a little costs a little: what was answered before is taken over."""
    from hgnetv2_pipeline.input.teacher_logits import STORE

    if {"teacher_logits", "all"} & {*run.redo}:
        return []
    archived = sorted(folder.parent.glob(f"archive/*/{folder.name}/{STORE}"))
    students = run.folder("teacher_logits") / STORE
    others = [students] if students.parent != folder and students.is_file() else []
    return [path.parent for path in [*others, *archived]]
