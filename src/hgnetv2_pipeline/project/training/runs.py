"""Trainings as results: what each is made from, whether it is finished, several at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hgnetv2_pipeline.project.experiment.names import STAGES, training_name
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists, count_rows
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse, Work
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.project.training.view_sheet import write_views
from hgnetv2_pipeline.training.config import (
    FREE,
    DistributedConfig,
    RunSpec,
    StoredLogits,
    TrainConfig,
)
from hgnetv2_pipeline.training.schedule import count_steps
from hgnetv2_pipeline.weights.places import said_of, split_spec
from hgnetv2_pipeline.weights.zoo import ZOO, provide

_log = logging.getLogger(__name__)

# What a finished run consists of; checkpoints stay beside it and are no part of the result.
OUTPUTS = ("student.safetensors", "history.csv", "result.json")

Training = tuple[RunSpec, TeacherRecord | None]
"""A training and the teacher whose record it depends on."""


def derive_seed(seed: int, role: str) -> int:
    """The seed of a training that has another ``role`` in a run than its students: 32 bits.

    The students of a run, whatever they learn from, have its ``seed`` itself: arms of one seed
    start from the same weights, so that the start is no part of their difference. Who teaches them
    must share neither start nor views nor order with them, and has a seed of its own.
    """
    digest = hashlib.blake2b(f"{seed}/{role}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def make_run_spec(
    run: Run,
    config: TrainConfig,
    *,
    pipeline: str,
    train: Path,
    teacher: TeacherRecord | None = None,
    stored: StoredLogits | None = None,
    out: Path | None = None,
    seed: int | None = None,
) -> RunSpec:
    """Everything one training process needs to know, as JSON-able values.

    Where not given, folder and seed are those of ``run`` and ``pipeline``.
    """
    identity, lists = run.identity, Lists(run.folder("lists"))
    return RunSpec(
        variant=identity.variant,
        num_classes=len(lists.classes),
        classes=lists.classes,
        train=train,
        train_root=run.folder("raw"),
        val=lists.index("val"),
        val_root=run.folder("raw"),
        root=identity.project,
        seed=identity.seed if seed is None else seed,
        config=_found_start(identity, config),
        teacher=teacher.config if teacher else None,
        teacher_logits=stored,
        out=out or run.folder(pipeline),
        stage=pipeline,
        inputs={},
        device=run.device,
        resume=run.resume,
    )


def _found_start(identity: Identity, config: TrainConfig) -> TrainConfig:
    """``config`` with the file or folder that its ``init`` names, and what is said behind it."""
    name, _ = split_spec(config.init)
    if config.init in ZOO:
        path = provide(ZOO[config.init], identity.project, download=identity.download)
    elif name != "scratch" and identity.run_folder(name).is_dir():
        path = identity.run_folder(name)
    elif (identity.project / name).is_file():
        path = identity.project / name  # whose contents count, not only what it is called
    else:
        return config
    return config.model_copy(update={"init": f"{path}{said_of(config.init)}"})


def begin_run(
    reuse: Reuse, spec: RunSpec, teacher: TeacherRecord | None, *, processes: int = 1
) -> tuple[RunSpec, Result | Work]:
    """Find the finished run of ``spec``, or clear its folder for making it.

    The returned spec carries the hashes of its inputs, which travel with the weights. The number of
    ``processes`` decides the global batch, and with it the result.
    """
    # Whether so many bad images are allowed is decided when the result is made.
    config = spec.config.decisive(FREE - {"max_bad"})
    inputs: dict[str, Path | str] = {"train": spec.train, "val": spec.val}
    start = Path(split_spec(spec.config.init)[0])
    if start.is_absolute():
        inputs["init"] = start / "student.safetensors" if start.is_dir() else start
        config["init"] = f"a file, hashed as input init{said_of(spec.config.init)}"
    if teacher is not None:
        inputs["teacher"] = teacher.record
    if spec.teacher_logits is not None:
        inputs["teacher_logits"] = spec.teacher_logits.folder
    work = reuse.begin(
        ResultSpec(
            folder=spec.out,
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
    )
    hashes = work.record["inputs"] if isinstance(work, Work) else {}
    return spec.model_copy(update={"inputs": dict(hashes)}), work


def train_student(run: Run, spec: RunSpec, teacher: TeacherRecord | None) -> None:
    """Train the run of ``spec`` in all the processes of this command, unless it is finished."""
    processes = run.distributed.processes(run.device)
    _refuse_untrainable(spec, processes)
    spec, work = begin_run(run.reuse, spec, teacher, processes=processes)
    if isinstance(work, Result):
        return
    from hgnetv2_pipeline.training.launch import train_many
    from hgnetv2_pipeline.training.plan import plan_run
    from hgnetv2_pipeline.training.run import train_run

    tracker.begin(spec.out)
    # Stored answers belong to the files that are read, so the plan reads those too.
    read = spec if spec.teacher_logits is None else use_resized_copy(run.identity, spec)
    _log.info("%s: %s", spec.stage, plan_run(read, processes=processes))
    read = use_resized_copy(run.identity, spec)
    write_views(read)
    if processes == 1:
        name = training_name(STAGES.get(spec.stage, spec.stage), spec.seed)
        train_run(read, report=tracker.reporter(spec.out, name))
    else:
        train_many(read, run.distributed)
    work.finish()


def _refuse_untrainable(spec: RunSpec, processes: int) -> None:
    """Raise ``ParameterError`` of what its parameters rule out, before an earlier result is moved
    to make room for it.
    """
    spec.config.check_device(spec.device)
    count_steps(spec.config, images=count_rows(spec.train), world_size=processes)


def train_missing(
    run: Run,
    trainings: Iterable[Training],
    *,
    jobs: int,
    folder: Path,
    announce: Callable[[list[RunSpec]], None],
) -> None:
    """Train those that are not finished, ``jobs`` at once, after ``announce`` of them."""
    specs, works = [], []
    processes = processes_of_each(run.distributed, run.device, jobs=jobs)
    trainings = list(trainings)
    for spec, _ in trainings:
        _refuse_untrainable(spec, processes)
    for training in trainings:
        spec, work = begin_run(run.reuse, *training, processes=processes)
        if isinstance(work, Work):
            specs.append(spec)
            works.append(work)
    if specs:
        announce(specs)
        train_side_by_side(run, specs, jobs=jobs, folder=folder)
    for work in works:
        work.finish()


def train_side_by_side(run: Run, specs: Sequence[RunSpec], *, jobs: int, folder: Path) -> None:
    """Train several runs in processes of their own, ``jobs`` at once; logs in ``folder/logs``.

    With one job and several devices each run has them all, one after the other.
    """
    from hgnetv2_pipeline.processes.specs import run_specs
    from hgnetv2_pipeline.training import launch

    tracker.begin(*(spec.out for spec in specs))
    read = {spec.out.name: use_resized_copy(run.identity, spec) for spec in specs}
    for spec in read.values():
        write_views(spec)
    if processes_of_each(run.distributed, specs[0].device, jobs=jobs) > 1:
        for spec in read.values():
            launch.train_many(spec, run.distributed)
        return
    run_specs(
        launch.__name__,
        read,
        folder / "specs",
        jobs=jobs,
        threads=specs[0].config.threads,
        logs=folder / "logs",
    )


def processes_of_each(distributed: DistributedConfig, device: str, *, jobs: int) -> int:
    """Processes of one of several runs: those of ``distributed`` where they run one by one."""
    return distributed.processes(device) if jobs == 1 else 1


def use_resized_copy(identity: Identity, spec: RunSpec) -> RunSpec:
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


def logits_store(
    run: Run, params: TeacherLogitsParams, folder: Path | None = None
) -> StoredLogits | None:
    """The store that students read, in ``folder`` if not in the usual one; None: their teacher runs
    along.
    """
    if params.source == "online":
        return None
    return StoredLogits(
        folder=folder or run.folder("teacher_logits"),
        check=params.check,
        clean=params.source == "clean",
    )
