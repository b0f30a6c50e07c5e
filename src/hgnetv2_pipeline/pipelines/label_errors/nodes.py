"""Which labelled images are probably labelled wrongly."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.label_errors import label_errors_result, write_label_errors


def find_suspects(run: Run, teacher: TeacherParams, lists: Path) -> Path:
    """Labels that classifiers contradict which had not seen them, the most doubtful first."""
    known = Lists(lists)
    made = run.produce(
        label_errors_result(run, teacher, known),
        lambda aside: write_label_errors(aside, run, teacher, known),
    )
    return made.folder
