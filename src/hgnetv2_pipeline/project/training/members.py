"""The members of the teacher: trained side by side, measured, and the gate that they must pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import GateParams, TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training.runs import processes_of_each, run_spec, train_missing
from hgnetv2_pipeline.training.config import RunSpec

_log = logging.getLogger(__name__)


def member_spec(run: Run, teacher: TeacherParams, number: int) -> RunSpec:
    """The training of member ``number``."""
    return run_spec(
        run,
        teacher.recipe,
        pipeline="train_teacher",
        out=run.folder("train_teacher") / f"member={number}",
        train=Lists(run.folder("lists")).index("train"),
        seed=run.identity.seed + number,
        variant=teacher.arch,
    )


def train_members(run: Run, teacher: TeacherParams) -> list[str]:
    """Train the members that do not stand yet; return the run ids of all."""
    specs = [member_spec(run, teacher, number) for number in range(teacher.members)]
    processes = processes_of_each(run.distributed, run.device, jobs=teacher.jobs)

    def announce(missing: list[RunSpec]) -> None:
        from hgnetv2_pipeline.training.plan import plan_run

        _log.info("each teacher member: %s", plan_run(missing[0], processes=processes))

    train_missing(
        run,
        [(spec, None) for spec in specs],
        jobs=teacher.jobs,
        folder=run.folder("train_teacher"),
        announce=announce,
    )
    return [spec.out.relative_to(run.folder("models")).as_posix() for spec in specs]


def check_gate(identity: Identity, gate: GateParams, record: Mapping[str, Any]) -> None:
    """Say whether the teacher of ``record`` beats what it is to teach.

    Raises:
        DataError: it does not, and ``gate.action`` is ``stop``.
    """
    accuracy = record["val"]["top1_count"] / record["val"]["n"]
    baseline, named = _baseline(identity, gate.baseline, record)
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
    elif gate.action == "warn":
        _log.warning("teacher gate not passed: %s", line)


def _baseline(
    identity: Identity, baseline: str, record: Mapping[str, Any]
) -> tuple[float | None, str]:
    """The accuracy to beat and what it is; None with the reason when there is none to compare."""
    if baseline == "members":
        counts = record["val"]["members_top1_count"]
        if len(counts) < 2 and "majority_count" not in record["val"]:
            return None, "a teacher of one member has no members to be compared with"
        if len(counts) < 2:
            return record["val"]["majority_count"] / record["val"]["n"], "always the largest class"
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
