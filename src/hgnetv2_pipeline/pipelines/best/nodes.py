"""The best model is the one that ships: chosen once, on val, among all that were trained."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import (
    BestParams,
    ComparisonParams,
    EvaluationParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training.choice import (
    choice_result,
    find_candidates,
    log_choice,
    measure_candidates,
    write_choice,
)


def choose_best(
    run: Run, params: BestParams, evaluation: EvaluationParams, comparison: ComparisonParams,
    teacher: TeacherParams, lists: Path, *trained: Path,
) -> Path:  # fmt: skip
    """Measure every candidate on val and make the one that is used a model of its own, ``best``.

    ``trained`` is there for the order of the nodes: the stages, and the arms of the comparison.
    """
    known = Lists(lists)
    candidates, others = find_candidates(run, comparison, teacher, known)
    measured, lost = measure_candidates(run, evaluation, candidates, known)
    spec = choice_result(run, params, measured, others | lost, known)
    made = run.produce(
        spec, lambda aside: write_choice(aside, run, params, measured, others | lost)
    )
    log_choice(made.folder)
    return made.folder
