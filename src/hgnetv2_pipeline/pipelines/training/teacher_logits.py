"""The node that stores a teacher's answers, once for every student that learns from it."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.runs import resized_images
from hgnetv2_pipeline.project.teacher import read_teacher
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.training.config import DistributedConfig, StoreSpec, TrainConfig

_log = logging.getLogger(__name__)


def store_teacher_logits(
    identity: Identity,
    logits: TeacherLogitsParams,
    config: TrainConfig,
    device: str,
    distributed: DistributedConfig,
    redo: list[str],
    lists: Path,
    mined: Path,
    teacher: Path,
) -> Path:
    """The teacher's answers to V views of every image of stage 1's list; nothing when online.

    Stage 2's images are among them, so both stages and all variants read one store. The processes
    of this machine share the pass as they share a training. Stopped, it goes on after the last
    finished shard.
    """
    folder = identity.folder("teacher_logits")
    if logits.source == "online":
        folder.mkdir(parents=True, exist_ok=True)
        _log.info("no teacher logits are stored: the teacher runs along with its students "
                  "(--params teacher_logits.source=stored)")  # fmt: skip
        return folder
    from hgnetv2_pipeline.input.augment import make_augment
    from hgnetv2_pipeline.input.teacher_logits import IMAGES, SHARDS, STORE, describe_view

    found = read_teacher(teacher, identity)
    samples = mined / "train_mined.parquet"
    spec = StoreSpec(
        classes=Lists(lists).classes,
        samples=samples,
        samples_root=identity.folder("raw"),
        root=identity.project,
        teacher=found.config,
        augment=config.view(),
        resized=config.input.resized,
        channels_last=config.channels_last,
        threads=config.threads,
        earlier=[],
        out=folder,
        device=device,
        rank=0,
        world_size=distributed.processes_here(device),
        **logits.model_dump(exclude={"source", "check"}),
    )
    work = Reuse(identity.project, redo).begin(
        folder,
        pipeline="teacher_logits",
        inputs={"images": samples, "teacher": found.record},
        params={
            "classes": spec.classes,
            "transform": describe_view(make_augment(spec.augment), resized=spec.resized),
            **logits.model_dump(include={"views", "topk", "seed", "amp", "shard_images"}),
        },
        outputs=[STORE, IMAGES, SHARDS],
        resumable=True,
    )
    if isinstance(work, Work):
        tracker.begin(folder)
        # A list that changed a little costs a little: what was answered before is taken over.
        archived = sorted(folder.parent.glob(f"archive/*/{folder.name}/{STORE}"))
        redone = "teacher_logits" in redo or "all" in redo
        earlier = [] if redone else [path.parent for path in archived]
        _make(identity, spec.model_copy(update={"earlier": earlier}))
        work.finish()
    return folder


def _make(identity: Identity, spec: StoreSpec) -> None:
    from hgnetv2_pipeline.training.stored_logits.make import (
        announce,
        seal_teacher_logits,
        store_in_processes,
    )

    announce(spec)
    samples, root = resized_images(identity, spec.samples, spec.samples_root, spec.resized)
    spec = spec.model_copy(update={"samples": samples, "samples_root": root})
    store_in_processes(spec)
    seal_teacher_logits(spec)
