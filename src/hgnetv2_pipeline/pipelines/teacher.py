"""The record of a teacher: which networks it is the mean of, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.training.config import TeacherConfig

RECORD = "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """A teacher as later nodes use it; ``config`` has absolute member paths."""

    config: TeacherConfig
    record: Path


def read_teacher(folder: Path, project: Path) -> Teacher:
    """Read ``teacher.json`` of a teacher's folder; members that are folders become absolute."""
    record = folder / RECORD
    if not record.is_file():
        raise WeightsError(f"no teacher in {folder}: run kedro run --pipeline train_teacher")
    values = read_json(record)
    members = [
        str(project / member) if (project / member).exists() else member
        for member in values["members"]
    ]
    return Teacher(TeacherConfig(members=members, bn=values["bn"]), record)
