"""The teacher: probes, ready weights, members trained side by side; and the gate it must pass."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import weights_input
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import fit_probes, self_train
from hgnetv2_pipeline.project.teaching.teacher import RECORD, check_gate, write_record
from hgnetv2_pipeline.project.training.members import train_members


def train_teacher(run: Run, teacher: TeacherParams, lists: Path) -> Path:
    """Fit probes, train members unless they are ready weights, judge all on val, ask the gate.

    ``teacher.json`` says who teaches and how accurate they are, each and together.
    """
    known = Lists(lists)
    candidates = fit_probes(run, teacher, known) + (teacher.source or train_members(run, teacher))
    trained = self_train(run, teacher, known)
    candidates += trained.members if trained else []
    weights = {candidate: weights_input(run.identity, candidate) for candidate in candidates}
    choice = {"choose": teacher.choose} if teacher.choose != "all" else {}
    fit = {"fit": other} if (other := teacher.recipe.fit_of_others) else {}
    made = run.produce(
        ResultSpec(
            folder=run.folder("train_teacher"),
            name="teacher",
            pipeline="train_teacher",
            inputs={"val": known.index("val"), **weights},
            params={"bn": teacher.bn, "device": run.device, **choice, **fit},
            outputs=[RECORD],
        ),
        lambda aside: write_record(aside, run, teacher, known, weights, trained),
    )
    check_gate(run.identity, teacher.gate, read_json(made.folder / RECORD))
    return made.folder
