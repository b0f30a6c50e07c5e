"""From a RunSpec to the things a run works with: samples, student, objective, schedule."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hgnetv2_pipeline.data.index import decoding_of, read_index
from hgnetv2_pipeline.data.lists.multi_label import is_multi_label, label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.input.augment import make_augment
from hgnetv2_pipeline.input.balance import (
    class_weights,
    own_weights,
    positive_weights,
    sampling_weights,
)
from hgnetv2_pipeline.input.deferred_view import on_device
from hgnetv2_pipeline.input.loader import (
    View,
    memory_format,
    normalised_view,
    train_batches,
)
from hgnetv2_pipeline.input.teacher_logits import STORE
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.teacher.teacher import Teacher, first_classes, load_teacher
from hgnetv2_pipeline.training.config import RunSpec, TeacherConfig, TrainConfig
from hgnetv2_pipeline.training.erasing import random_erasing
from hgnetv2_pipeline.training.matched_head import MatchedHead, build_matched
from hgnetv2_pipeline.training.mixing import Mixing
from hgnetv2_pipeline.training.objectives import (
    DistillationObjective,
    MultiLabelObjective,
    Objective,
    SupervisedObjective,
)
from hgnetv2_pipeline.training.optim import build_optimizer, param_groups
from hgnetv2_pipeline.training.schedule import Schedule, plan_schedule
from hgnetv2_pipeline.training.state import COLUMNS, MULTI_LABEL_COLUMNS, State, average_weights
from hgnetv2_pipeline.training.step import Step

if TYPE_CHECKING:
    import pandas as pd

    from hgnetv2_pipeline.input.batches import Batch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedRun:
    """A run before its first step."""

    device: torch.device
    train: pd.DataFrame
    val: pd.DataFrame
    sample_weights: np.ndarray[Any, Any] | None
    transform: Any
    preprocess: Preprocess
    state: State
    objective: Objective
    schedule: Schedule
    sources: dict[str, str]
    matched: MatchedHead | None = None
    """What became of the classes of the weights that it starts from, with ``head: match``."""


def prepare(spec: RunSpec, *, device: torch.device, world_size: int) -> PreparedRun:
    """Read the samples, build student, teacher and optimiser on ``device``."""
    config = spec.config
    config.check_device(device.type)
    train = read_samples(spec.train, num_classes=spec.num_classes)
    val = read_samples(spec.val, num_classes=spec.num_classes)
    _check_task(spec, train, val)
    needs_labels = spec.teacher is None or config.class_balance != "none"
    if not config.loss.multi_label and val["label"].isna().any():
        raise DataError(f"{spec.val}: weights are chosen by val, so all its images need a label")
    if not config.loss.multi_label and needs_labels and train["label"].isna().any():
        raise DataError(
            f"{spec.train}: {int(train['label'].isna().sum())} images have no label, but "
            f"{'class_balance' if spec.teacher else 'training without a teacher'} needs them all"
        )
    schedule = plan_schedule(config, images=len(train), world_size=world_size)

    torch.manual_seed(spec.seed)
    student, sources, matched = _student(spec)
    if config.sync_bn and world_size > 1:
        student = synchronise_batch_norm(student, device)
    student.to(device, memory_format=memory_format(config.channels_last))
    groups = param_groups(
        student, schedule.base_lr, config.optimizer.weight_decay, config.stage_lr_mult
    )
    state = State(
        student=student.train(),
        optimizer=build_optimizer(groups, config.optimizer),
        scaler=torch.amp.GradScaler(
            device.type, init_scale=config.fp16_scale, enabled=config.amp == "fp16"
        ),
        ema=average_weights(student, config.ema_decay),
        keep=config.keep,
        columns=MULTI_LABEL_COLUMNS if config.loss.multi_label else COLUMNS,
    )
    preprocess = config.preprocess.reading(decoding_of(train))
    objective, teachers = _objective(spec, preprocess, train, device)
    transform = training_view(config, device)
    if isinstance(objective, DistillationObjective) and spec.teacher_logits is not None:
        from hgnetv2_pipeline.training.stored_logits.replay import open_replay

        assert objective.teacher is not None, "its answers are checked"  # noqa: S101
        transform = open_replay(spec, transform, train, objective.teacher, teachers, device)
        # From here on the teacher's memory is free for the student.
        objective = replace(objective, teacher=None)
        teachers = teachers | {"teacher_logits": sha256_file(transform.store.folder / STORE)}
    balanced = config.class_balance == "sampler"
    return PreparedRun(
        device=device,
        train=train,
        val=val,
        sample_weights=sampling_weights(_labels(train)) if balanced else None,
        transform=transform,
        preprocess=preprocess,
        state=state,
        objective=objective,
        schedule=schedule,
        sources=sources | teachers,
        matched=matched,
    )


def make_step(run: PreparedRun, spec: RunSpec, device: torch.device, world: World) -> Step:
    """What takes the steps of ``run``: the student with gradients exchanged, compiled if asked."""
    config, network = spec.config, run.state.student
    if world.size > 1:
        ids = [device.index] if device.type == "cuda" else None
        network = nn.parallel.DistributedDataParallel(network, device_ids=ids)
    return Step(
        run.state,
        torch.compile(network) if config.compile else network,
        run.objective,
        device=device,
        world=world,
        amp=config.amp,
        clip_norm=config.clip_norm,
        accumulate=config.accumulate,
        seed=spec.seed,
    )


def make_batches(
    run: PreparedRun, spec: RunSpec, world: World, ledger: Ledger, *, steps: int, workers: int
) -> Iterator[Batch]:
    """The next ``steps`` batches of ``run`` for this process, from the step of its state.

    On a GPU their images are there already, copied beside the step before.
    """
    return train_batches(
        run.train,
        spec.train_root,
        transform=run.transform,
        seed=spec.seed,
        batch_size=spec.config.batch_size,
        start_step=run.state.step,
        steps=steps,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
        weights=run.sample_weights,
        ledger=ledger,
        device=run.device,
    )


def synchronise_batch_norm(student: nn.Module, device: torch.device) -> nn.Module:
    """``student`` with BN over all processes; names and tensors stay what they are."""
    if device.type != "cuda":
        raise ParameterError(
            "training.sync_bn is true, but torch shares BN statistics between GPUs only; set it to "
            "false"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(student)


def training_view(config: TrainConfig, device: torch.device) -> Any:
    """The training view of a recipe, made by the workers and on ``device`` (``input.device``)."""
    view = make_augment(config.view())
    if config.input.device == "none":
        return view
    if device.type != "cuda":
        raise ParameterError(
            f"training.input.device is {config.input.device}, but the run is on the CPU; set it to "
            "none, or choose a GPU (--params device=cuda)"
        )
    return on_device(view, config.input.device, device)


def identity(spec: RunSpec, *, sources: Mapping[str, str], world_size: int) -> dict[str, Any]:
    """What decides the result, for the guard against resuming under another configuration.

    Places (folders, the number of loader processes) are left out; contents are in as hashes.
    """
    return {
        "training": spec.config.decisive(),
        "teacher": spec.teacher.model_dump(mode="json") if spec.teacher else None,
        "variant": spec.variant,
        "classes": spec.classes,
        "seed": spec.seed,
        "stage": spec.stage,
        "train": sha256_file(spec.train),
        "val": sha256_file(spec.val),
        "weights": dict(sources),
        "processes": world_size,
    }


def read_samples(path: Path, *, num_classes: int) -> pd.DataFrame:
    """The samples parquet at ``path``; labels, where given, must be below ``num_classes``."""
    frame = read_index(path)
    if not len(frame):
        raise DataError(f"{path} lists no image; check the list it was made from")
    if is_multi_label(frame) and label_matrix(frame).shape[1] != num_classes:
        raise DataError(
            f"{path}: {label_matrix(frame).shape[1]} labels per image do not fit {num_classes} "
            "classes"
        )
    labels = frame["label"].dropna()
    if len(labels) and not labels.between(0, num_classes - 1).all():
        raise DataError(
            f"{path}: labels from {labels.min()} to {labels.max()} do not fit {num_classes} classes"
        )
    return frame


def _check_task(spec: RunSpec, train: pd.DataFrame, val: pd.DataFrame) -> None:
    """The loss and both lists must agree on whether an image may belong to several classes."""
    loss = spec.config.loss
    for path, frame in ((spec.train, train), (spec.val, val)):
        if is_multi_label(frame) and not loss.multi_label:
            raise ParameterError(
                f"{path} has several labels per image, but loss {loss.name!r} is for one: set "
                f"{spec.place}.loss.name to bce or asymmetric (--params recipe=multi_label)"
            )
        if loss.multi_label and not is_multi_label(frame):
            raise ParameterError(
                f"loss {loss.name!r} is for several labels per image, but {path} has one: set "
                "data.layout to multi_label, or the loss to label_smoothing"
            )
    if spec.num_classes == 1 and not loss.multi_label:
        raise DataError(
            f"{spec.train} has one class, {spec.classes[0]!r}: there is nothing to distinguish; "
            "data.root is the folder that holds a folder for each of several classes"
        )
    if loss.multi_label and not label_matrix(val).any():
        raise DataError(f"{spec.val}: none of its images belongs to any class; mAP needs some")


def make_view(preprocess: Preprocess, *, channels_last: bool, erasing: float = 0.0) -> View:
    """uint8 images [N, 3, H, W] as one network wants them: its own mean and deviation.

    With ``erasing``, a share of them loses a rectangle (``random_erasing``).
    """
    view = normalised_view(preprocess, channels_last=channels_last)
    return (lambda images: random_erasing(view(images), erasing)) if erasing else view


def _student(spec: RunSpec) -> tuple[nn.Module, dict[str, str], MatchedHead | None]:
    from hgnetv2_pipeline.models.frozen import freeze
    from hgnetv2_pipeline.weights.build import build_from
    from hgnetv2_pipeline.weights.imagenet import agree

    init = spec.config.init
    source, head = f"scratch:{spec.variant}" if init == "scratch" else init, spec.config.head
    matched = None
    if head == "match" and not source.startswith("scratch:"):
        student, info, matched = build_matched(source, classes=spec.classes, root=spec.root)
        _log.info("%s: %s", init, matched)
    else:
        strict = "strict" if head == "match" else head
        student, info = build_from(
            source, num_classes=spec.num_classes, root=spec.root, head=strict
        )
    if info["variant"] != spec.variant:
        raise WeightsError(
            f"training.init {init!r} is a {info['variant']}, but variant is {spec.variant!r}; "
            "name weights of the same variant"
        )
    if spec.config.head == "strict" and not agree(info["classes"], spec.classes):
        raise WeightsError(
            f"training.init {init!r} knows other classes ({first_classes(info['classes'])}) "
            f"than the data ({first_classes(spec.classes)}); set training.head to 'match', which "
            "keeps what it knows of classes of the same names, or to 'reinit'"
        )
    if spec.config.freeze_at or spec.config.freeze_norm:
        freeze(student, at=spec.config.freeze_at, norm=spec.config.freeze_norm)
    return student, {"init": info["sha256"]} if info["sha256"] else {}, matched


def _objective(
    spec: RunSpec, preprocess: Preprocess, train: pd.DataFrame, device: torch.device
) -> tuple[Objective, dict[str, str]]:
    config = spec.config
    view = make_view(preprocess, channels_last=config.channels_last, erasing=config.erasing)
    if spec.teacher is None:
        weights, loss = None, config.loss
        balanced = config.class_balance == "weights"
        mixing = Mixing(**config.mix.model_dump()) if config.mix.probability else None
        if config.loss.multi_label:
            if balanced:
                weights = positive_weights(label_matrix(train))
            elif loss.class_weights is not None:
                weights = own_weights(loss.class_weights, spec.classes)
            return MultiLabelObjective(view, loss, _tensor(weights, device), mixing), {}
        if balanced:
            weights = class_weights(_labels(train), spec.num_classes)
        elif loss.class_weights is not None:
            weights = own_weights(loss.class_weights, spec.classes, _labels(train))
        each = _tensor(weights, device)
        return SupervisedObjective(view, loss.label_smoothing, each, mixing, loss.gamma), {}

    teacher, sources = build_teacher(
        spec.teacher,
        classes=spec.classes,
        root=spec.root,
        preprocess=preprocess,
        channels_last=config.channels_last,
        device=device,
    )
    return DistillationObjective(view, teacher, config.loss), sources


def _tensor(weights: np.ndarray[Any, Any] | None, device: torch.device) -> torch.Tensor | None:
    return None if weights is None else torch.from_numpy(weights).to(device)


def build_teacher(
    config: TeacherConfig,
    *,
    classes: list[str],
    root: Path,
    preprocess: Preprocess,
    channels_last: bool,
    device: torch.device,
) -> tuple[Teacher, dict[str, str]]:
    """The teacher on ``device``, and SHA-256 of what its members are.

    ``preprocess`` is for members whose weights do not say how their images are prepared; its
    decoding holds for all.
    """
    teacher = load_teacher(
        config.members,
        classes=classes,
        root=root,
        device=device,
        preprocess=preprocess,
        decoding=preprocess.decoding,
        bn=config.bn,
        channels_last=channels_last,
    ).folded()
    return teacher, {f"teacher {at}": one.sha256 for at, one in enumerate(teacher.members)}


def _labels(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    return frame["label"].to_numpy(dtype=np.int64)
