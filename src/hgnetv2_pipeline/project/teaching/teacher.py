"""The teacher as a result: candidates judged on val, its record and its gate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.devices import known_device
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.intervals import share_error
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import model_source
from hgnetv2_pipeline.project.params import GateParams, TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import SelfTrained
from hgnetv2_pipeline.training.config import TeacherConfig
from hgnetv2_pipeline.variants import Fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)
RECORD = "teacher.json"


@dataclass(frozen=True)
class TeacherRecord:
    """A teacher as later nodes use it; the members of ``config`` are build_from specs."""

    config: TeacherConfig
    record: Path
    fit: Fit | None = None
    """How members that were not made for these images see them; None: as their weights say."""


def read_teacher(folder: Path, identity: Identity) -> TeacherRecord:
    """Read ``teacher.json`` of a teacher's folder; run ids become folders of the project."""
    record = folder / RECORD
    if not record.is_file():
        raise WeightsError(f"no teacher in {folder}: run kedro run --pipeline train_teacher")
    values = read_json(record)
    members = [model_source(identity, member) for member in values["members"]]
    return TeacherRecord(TeacherConfig(members=members, bn=values["bn"]), record, values.get("fit"))


def write_record(
    aside: Path, run: Run, teacher: TeacherParams, lists: Lists,
    candidates: Mapping[str, Path | str], trained: SelfTrained | None = None,
) -> None:  # fmt: skip
    """Write ``teacher.json``: who teaches, what they score on val, and which bytes they are.

    Whatever learns from the teacher depends on this record alone, so the weights of every member
    are in it, wherever they come from; timm's names alone have none to be hashed. ``candidates``
    are the weights by name, those of ``trained`` among them.
    """
    import numpy as np

    probabilities, labels = teacher_answers(run, candidates, teacher, lists, "val")
    right = {name: _right(answers, labels) for name, answers in probabilities.items()}
    members, reasons = _who_teaches(teacher, probabilities, labels, trained)
    judged = {"candidates": reasons, "candidates_top1_count": right} if reasons else {}
    if trained:
        judged["self_training"] = {**trained.record, "teaches": members == trained.members}
    mean = np.mean([probabilities[name] for name in members], axis=0)
    record = {
        "members": members,
        "bn": teacher.bn,
        "sha256": {
            name: run.reuse.digest(place)
            for name in members
            if isinstance(place := candidates[name], Path)
        },
        "val": {
            "split": "val",
            "n": len(labels),
            "top1_count": _right(mean, labels),
            "members_top1_count": [right[name] for name in members],
            "majority_count": int(np.bincount(labels).max()),
        },
        **({"fit": teacher.recipe.fit_of_others} if teacher.recipe.fit_of_others else {}),
        **judged,
    }
    write_json(aside / RECORD, record)


def _who_teaches(
    teacher: TeacherParams,
    probabilities: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.int64],
    trained: SelfTrained | None,
) -> tuple[list[str], dict[str, str]]:
    """The members, and of every candidate why it teaches or does not; none where all do."""
    from hgnetv2_pipeline.teacher.choosing import choose_members, keep_self_trained

    names = trained.members if trained else []
    helps = bool(trained and trained.record["helps"])
    group = names if helps else []
    alone = {name: answers for name, answers in probabilities.items() if name not in names}
    reasons = {} if helps else dict.fromkeys(names, "self-training made held-out images worse")
    if teacher.choose == "all":
        replaced = {f"probe={Path(name).name}" for name in group}
        others = [name for name in alone if Path(name).name not in replaced]
        if reasons:
            reasons = dict.fromkeys(alone, "all candidates teach") | reasons
        return group + others, reasons
    choice = choose_members(alone, labels)
    if not group:
        return list(choice.members), choice.reasons | reasons
    kept, why = keep_self_trained(
        [probabilities[name] for name in group],
        [alone[name] for name in choice.members],
        labels,
    )
    return group if kept else list(choice.members), choice.reasons | dict.fromkeys(group, why)


def teacher_answers(
    run: Run, candidates: Iterable[str], teacher: TeacherParams, lists: Lists, split: str
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Probabilities [N, C] that each candidate gives to the images of ``split``, and their labels.

    The candidates are named as in ``teacher.json``.
    """
    import numpy as np
    import torch

    from hgnetv2_pipeline.data.index import decoding_of
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.teacher.member_answers import member_probabilities
    from hgnetv2_pipeline.teacher.teacher import load_teacher

    place, samples = torch.device(known_device(run.device)), lists.frame(split)
    loaded = load_teacher(
        [model_source(run.identity, name) for name in candidates],
        classes=lists.classes,
        root=run.identity.project,
        device=place,
        preprocess=Preprocess(),
        decoding=decoding_of(samples),
        bn=teacher.bn,
    ).seeing(teacher.recipe.fit_of_others)
    answers = member_probabilities(loaded, samples, run.folder("raw"), device=place)
    labels = samples["label"].to_numpy(dtype=np.int64)
    return dict(zip(candidates, answers, strict=True)), labels


def _right(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> int:
    return int((probabilities.argmax(axis=1) == labels).sum())


def check_gate(identity: Identity, gate: GateParams, record: Mapping[str, Any]) -> None:
    """Say whether the teacher of ``record`` beats what it is to teach.

    Behind its members or a run by no more than a standard error of its accuracy, there is no
    warning: the log says that val cannot tell. ``stop`` stops there as well.

    Raises:
        DataError: it does not, and ``gate.action`` is ``stop``.
    """
    images = record["val"]["n"]
    accuracy = record["val"]["top1_count"] / images
    baseline, named, noisy = _baseline(identity, gate.baseline, record)
    if baseline is None:
        _log.warning("teacher gate: %s; teacher %.2f %% on val", named, 100 * accuracy)
        return
    line = f"teacher {100 * accuracy:.2f} % on val, {named} {100 * baseline:.2f} %"
    if accuracy > baseline:
        _log.info("teacher gate passed: %s", line)
    elif gate.action == "stop":
        raise DataError(
            f"teacher gate: {line}; a student cannot learn more from it than plain training gives. "
            "Train a better teacher, or set train_teacher.gate.action to warn or off"
        )
    elif gate.action == "warn" and noisy and baseline - accuracy <= share_error(accuracy, images):
        _log.info("teacher gate: %s, which %d images cannot tell apart", line, images)
    elif gate.action == "warn":
        _log.warning("teacher gate not passed: %s", line)


def _baseline(
    identity: Identity, baseline: str, record: Mapping[str, Any]
) -> tuple[float | None, str, bool]:
    """The accuracy to beat, what it is, and whether chance moves it as it moves the teacher's.

    None with the reason when there is none to compare.
    """
    if baseline == "members":
        counts = record["val"]["members_top1_count"]
        if len(counts) < 2 and "majority_count" not in record["val"]:
            return None, "a teacher of one member has no members to be compared with", False
        if len(counts) < 2 and record["val"]["majority_count"] == record["val"]["n"]:
            return None, "val has images of one class alone, which says nothing", False
        if len(counts) < 2:
            largest = record["val"]["majority_count"] / record["val"]["n"]
            return largest, "naming the largest class every time", False
        return sum(counts) / len(counts) / record["val"]["n"], "the mean of its members", True
    try:
        return float(baseline), "the accuracy given", False
    except ValueError:
        result = identity.run_folder(baseline) / "result.json"
        if not result.is_file():
            raise ParameterError(
                f"train_teacher.gate.baseline {baseline!r} is neither 'members', an accuracy, "
                f"nor a finished run: {result} does not exist"
            ) from None
        return float(read_json(result)["val"]["top1"]), f"run {baseline}", True
