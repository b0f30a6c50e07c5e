"""The teacher: ready weights, or members trained side by side; and the gate it must pass."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.models import weights_input
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teacher import RECORD
from hgnetv2_pipeline.project.training.members import check_gate, measure_members, train_members


def train_teacher(run: Run, teacher: TeacherParams, lists: Path) -> Path:
    """Train members unless they are ready weights, measure them on val, and ask the gate.

    ``teacher.json`` says who they are and how accurate they are, each and together.
    """
    known, members = Lists(lists), teacher.source or train_members(run, teacher)
    weights = {member: weights_input(run.identity, member) for member in members}
    made = run.produce(
        ResultSpec(
            folder=run.folder("train_teacher"),
            name="teacher",
            pipeline="train_teacher",
            inputs={"val": known.index("val"), **weights},
            params={"bn": teacher.bn, "device": run.device},
            outputs=[RECORD],
        ),
        lambda aside: write_json(aside / RECORD, measure_members(run, teacher, known, weights)),
    )
    check_gate(run.identity, teacher.gate, read_json(made.folder / RECORD))
    return made.folder
