"""The record of a teacher: which networks it is the mean of, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.models import model_source
from hgnetv2_pipeline.training.config import TeacherConfig

RECORD = "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """A teacher as later nodes use it; the members of ``config`` are build_from specs."""

    config: TeacherConfig
    record: Path


def read_teacher(folder: Path, identity: Identity) -> Teacher:
    """Read ``teacher.json`` of a teacher's folder; run ids become folders of the project."""
    record = folder / RECORD
    if not record.is_file():
        raise WeightsError(f"no teacher in {folder}: run kedro run --pipeline train_teacher")
    values = read_json(record)
    members = [model_source(identity, member) for member in values["members"]]
    return Teacher(TeacherConfig(members=members, bn=values["bn"]), record)
