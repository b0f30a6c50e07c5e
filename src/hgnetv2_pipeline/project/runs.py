"""Trainings as results: what each is made from, whether it stands, and several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.results import Result, Reuse, Work
from hgnetv2_pipeline.project.teacher import Teacher
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.training.config import (
    FREE,
    DistributedConfig,
    RunSpec,
    StoredLogits,
    TrainConfig,
)
from hgnetv2_pipeline.weights.zoo import ZOO, provide

Resume = Literal["exact", "force"]


# What a finished run consists of; checkpoints stay beside it and are no part of the result.
OUTPUTS = ("student.safetensors", "history.csv", "result.json")


def run_spec(
    identity: Identity,
    config: TrainConfig,
    *,
    pipeline: str,
    out: Path,
    lists: Lists,
    train: Path,
    teacher: Teacher | None,
    stored: StoredLogits | None,
    device: str,
    seed: int,
    variant: str,
    resume: Resume,
) -> RunSpec:
    """Everything one training process needs to know, as JSON-able values."""
    if config.init in ZOO:
        path = provide(ZOO[config.init], identity.project, download=identity.download)
        config = config.model_copy(update={"init": str(path)})
    elif config.init != "scratch" and identity.run_folder(config.init).is_dir():
        config = config.model_copy(update={"init": str(identity.run_folder(config.init))})
    return RunSpec(
        variant=variant,
        num_classes=len(lists.classes),
        classes=lists.classes,
        train=train,
        train_root=identity.folder("raw"),
        val=lists.index("val"),
        val_root=identity.folder("raw"),
        root=identity.project,
        seed=seed,
        config=config,
        teacher=teacher.config if teacher else None,
        teacher_logits=stored,
        out=out,
        stage=pipeline,
        inputs={},
        device=device,
        resume=resume,
    )


def begin_run(
    reuse: Reuse, spec: RunSpec, teacher: Teacher | None, *, processes: int = 1
) -> tuple[RunSpec, Result | Work]:
    """Find the finished run of ``spec``, or clear its folder for making it.

    The returned spec carries the hashes of its inputs, which travel with the weights. The number of
    ``processes`` decides the global batch, and with it the result.
    """
    # Whether so many bad images are allowed is decided when the result is made.
    config = spec.config.model_dump(mode="json", exclude=FREE - {"max_bad"})
    inputs: dict[str, Path | str] = {"train": spec.train, "val": spec.val}
    start = Path(spec.config.init)
    if start.is_absolute():
        inputs["init"] = start / "student.safetensors" if start.is_dir() else start
        config["init"] = "a file, hashed as input init"
    if teacher is not None:
        inputs["teacher"] = teacher.record
    if spec.teacher_logits is not None:
        inputs["teacher_logits"] = spec.teacher_logits.folder
    work = reuse.begin(
        spec.out,
        pipeline=spec.stage,
        inputs=inputs,
        params={
            "variant": spec.variant,
            "classes": spec.classes,
            "seed": spec.seed,
            "device": spec.device,
            "config": config,
            **({"processes": processes} if processes > 1 else {}),
        },
        outputs=OUTPUTS,
        resumable=True,
        adopt=spec.resume == "force",
    )
    hashes = work.record["inputs"] if isinstance(work, Work) else {}
    return spec.model_copy(update={"inputs": dict(hashes)}), work


def from_resized(identity: Identity, spec: RunSpec) -> RunSpec:
    """``spec`` reading a copy of its training images, made here, where ``input.resized`` asks."""
    index, folder = resized_images(identity, spec.train, spec.train_root, spec.config.input.resized)
    return spec.model_copy(update={"train": index, "train_root": folder})


def resized_images(
    identity: Identity, samples: Path, root: Path, short_side: int | None
) -> tuple[Path, Path]:
    """Samples and root of the copy with ``short_side``, made here; of the originals for None."""
    if short_side is None:
        return samples, root
    from hgnetv2_pipeline.data.index import read_index
    from hgnetv2_pipeline.data.resized import resized_copy

    name = f"{samples.parent.name}-{samples.stem}-{short_side}"
    folder = identity.folder("resized") / name
    return resized_copy(read_index(samples), root, folder, short_side=short_side), folder


def stored_logits(identity: Identity, params: TeacherLogitsParams) -> StoredLogits | None:
    """The store that students read, or None: their teacher runs along."""
    if params.source == "online":
        return None
    return StoredLogits(folder=identity.folder("teacher_logits"), check=params.check)


def processes_of_each(distributed: DistributedConfig, device: str, *, jobs: int) -> int:
    """Processes of one of several runs: those of ``distributed`` where they run one by one."""
    return distributed.processes(device) if jobs == 1 else 1


def train_side_by_side(
    identity: Identity,
    specs: Sequence[RunSpec],
    *,
    jobs: int,
    folder: Path,
    distributed: DistributedConfig,
) -> None:
    """Train several runs in processes of their own, ``jobs`` at once; logs in ``folder/logs``.

    With one job and several devices each run has them all, one after the other.
    """
    from hgnetv2_pipeline.processes.specs import run_specs
    from hgnetv2_pipeline.training import launch

    tracker.begin(specs[0].out)
    if processes_of_each(distributed, specs[0].device, jobs=jobs) > 1:
        for spec in specs:
            launch.train_many(from_resized(identity, spec), distributed)
        return
    run_specs(
        launch.__name__,
        {spec.out.name: from_resized(identity, spec) for spec in specs},
        folder / "specs",
        jobs=jobs,
        threads=specs[0].config.threads,
        logs=folder / "logs",
    )
