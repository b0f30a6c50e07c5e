"""Which images of the pool a person should label next."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.project.mining.labelling import (
    COPIES,
    LIST,
    label_next_result,
    write_label_next,
)
from hgnetv2_pipeline.project.params import LabelNextParams, MiningParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import read_teacher

_log = logging.getLogger(__name__)


def propose_images(
    run: Run, params: LabelNextParams, mining: MiningParams, teacher: Path, scores: Path,
    pairs: Path,
) -> Path:  # fmt: skip
    """The images whose labels would help most: those that the teacher doubts, each of its kind."""
    found = read_teacher(teacher, run.identity)
    made = run.produce(
        label_next_result(run, params, mining, found, scores, pairs),
        lambda aside: write_label_next(aside, run, params, mining, found, scores, pairs),
    )
    _log.log(
            SHOWN,
        "%s: the images to label, most useful first; their files, by the teacher's guess, are in "
        "%s: copy that folder, move what is in the wrong class, delete what is of none, and name "
        "it beside your labelled images (data.root)",
        made.folder / LIST, made.folder / COPIES,
    )  # fmt: skip
    return made.folder
