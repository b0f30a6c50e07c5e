"""The teacher: ready weights, or members trained side by side; and the gate it must pass."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import weights_input
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.runs import (
    Resume,
    begin_run,
    processes_of_each,
    run_spec,
    train_side_by_side,
)
from hgnetv2_pipeline.project.teacher import RECORD, fit_probes, judge_candidates
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec

_log = logging.getLogger(__name__)


def train_members(
    identity: Identity,
    teacher: TeacherParams,
    device: str,
    distributed: DistributedConfig,
    redo: list[str],
    resume: Resume,
    lists: Path,
) -> Path:
    """Train what is to be trained and write ``teacher.json``: members and validation accuracy."""
    folder = identity.folder("train_teacher")
    reuse = Reuse(identity.project, redo)
    known = Lists(lists)
    candidates = fit_probes(reuse, identity, teacher, known, device)
    candidates += list(teacher.source) or _train(
        reuse, identity, teacher, device, distributed, resume, known
    )
    weights = {member: weights_input(identity, member) for member in candidates}

    def record(aside: Path) -> None:
        judged = judge_candidates(reuse, identity, candidates, weights, teacher, known, device)
        write_json(aside / RECORD, judged)

    inputs: dict[str, Path | str] = {"val": Lists(lists).index("val"), **weights}
    reuse.produce(
        folder,
        name="teacher",
        pipeline="train_teacher",
        inputs=inputs,
        params={
            "bn": teacher.bn,
            "device": device,
            **({"choose": teacher.choose} if teacher.choose != "all" else {}),
        },
        outputs=[RECORD],
        make=record,
    )
    return folder


def _train(
    reuse: Reuse,
    identity: Identity,
    teacher: TeacherParams,
    device: str,
    distributed: DistributedConfig,
    resume: Resume,
    lists: Lists,
) -> list[str]:
    """Train the members that do not stand yet; return their run ids."""
    members: list[str] = []
    unfinished: list[Work] = []
    specs: list[RunSpec] = []
    base = identity.folder("train_teacher")
    processes = processes_of_each(distributed, device, jobs=teacher.jobs)
    for number in range(teacher.members):
        out = base / f"member={number}"
        spec = run_spec(
            identity,
            teacher.recipe,
            pipeline="train_teacher",
            out=out,
            lists=lists,
            train=lists.index("train"),
            teacher=None,
            stored=None,
            device=device,
            seed=identity.seed + number,
            variant=teacher.arch,
            resume=resume,
        )
        members.append(out.relative_to(identity.folder("models")).as_posix())
        spec, work = begin_run(reuse, spec, None, processes=processes)
        if isinstance(work, Work):
            if not unfinished:
                from hgnetv2_pipeline.training.plan import plan_run

                _log.info("each teacher member: %s", plan_run(spec, processes=processes))
            unfinished.append(work)
            specs.append(spec)
    if unfinished:
        train_side_by_side(identity, specs, jobs=teacher.jobs, folder=base, distributed=distributed)
        for work in unfinished:
            work.finish()
    return members


def pass_gate(identity: Identity, teacher: TeacherParams, folder: Path) -> Path:
    """Say whether the teacher beats what it is to teach; stop the run if it must and does not."""
    record = read_json(folder / RECORD)
    accuracy = record["val"]["top1_count"] / record["val"]["n"]
    baseline, named = _baseline(identity, teacher.gate.baseline, record)
    if baseline is None:
        _log.warning("teacher gate: %s; teacher %.2f %% on val", named, 100 * accuracy)
        return folder
    line = f"teacher {100 * accuracy:.2f} % on val, {named} {100 * baseline:.2f} %"
    if accuracy > baseline:
        _log.info("teacher gate passed: %s", line)
    elif teacher.gate.action == "stop":
        raise DataError(
            f"teacher gate: {line}; a student cannot learn more from it than plain training gives. "
            "Train a better teacher, or set train_teacher.gate.action to warn or off"
        )
    elif teacher.gate.action == "warn":
        _log.warning("teacher gate not passed: %s", line)
    return folder


def _baseline(
    identity: Identity, baseline: str, record: dict[str, Any]
) -> tuple[float | None, str]:
    """The accuracy to beat and what it is; None with the reason when there is none to compare."""
    if baseline == "members":
        counts = record["val"]["members_top1_count"]
        if len(counts) < 2:
            return None, "a teacher of one member has no members to be compared with"
        return sum(counts) / len(counts) / record["val"]["n"], "the mean of its members"
    try:
        return float(baseline), "the accuracy given"
    except ValueError:
        result = identity.run_folder(baseline) / "result.json"
        if not result.is_file():
            raise ParameterError(
                f"train_teacher.gate.baseline {baseline!r} is neither 'members', an accuracy, "
                f"nor a finished run: {result} does not exist"
            ) from None
        return float(read_json(result)["val"]["top1"]), f"run {baseline}"
