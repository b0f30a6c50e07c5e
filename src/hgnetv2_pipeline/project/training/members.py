"""The members of the teacher, trained side by side."""

from __future__ import annotations

import logging

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training.runs import (
    derive_seed,
    make_run_spec,
    processes_of_each,
    train_missing,
)
from hgnetv2_pipeline.training.config import RunSpec

_log = logging.getLogger(__name__)


def member_seed(seed: int, number: int) -> int:
    """The seed of member ``number`` in a run of ``seed``."""
    return derive_seed(seed, f"teacher member {number}")


def member_spec(run: Run, teacher: TeacherParams, number: int) -> RunSpec:
    """The training of member ``number``."""
    spec = make_run_spec(
        run,
        teacher.recipe,
        pipeline="train_teacher",
        out=run.folder("train_teacher") / f"member={number}",
        train=Lists(run.folder("lists")).index("train"),
        seed=member_seed(run.identity.seed, number),
    )
    return spec.model_copy(update={"variant": teacher.arch})


def train_members(run: Run, teacher: TeacherParams) -> list[str]:
    """Train the members that are not finished yet; return the run ids of all."""
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
