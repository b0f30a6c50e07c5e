"""The honest table: the same student trained in other ways, at stated cost, with several seeds."""

from __future__ import annotations

from pathlib import Path

from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import (
    ComparisonParams,
    EvaluationParams,
    MiningParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import read_teacher
from hgnetv2_pipeline.project.training.arms import Recipes, make_unmined_list, train_missing_arms
from hgnetv2_pipeline.project.training.arms_table import (
    list_trainings,
    measure_arms,
    table_result,
    write_table,
)
from hgnetv2_pipeline.training.config import TrainConfig


def train_arms(
    run: Run, comparison: ComparisonParams, teacher: TeacherParams, train: TrainConfig,
    stage1: TrainConfig, stage2: TrainConfig, logits: TeacherLogitsParams, mining: MiningParams,
    members: Path, mined: Path, stage2_run: Path,
) -> Path:  # fmt: skip
    """Train what the table needs and does not have yet; return the folder with the arms.

    ``stage2_run`` is there for the order of the nodes: an arm has as many steps as the whole chain.
    """
    recipes = Recipes(comparison, teacher, train, stage1, stage2, logits)
    folder = run.folder("comparison")
    folder.mkdir(parents=True, exist_ok=True)
    unmined = make_unmined_list(run, mining, mined) if comparison.unmined_seeds else None
    train_missing_arms(run, recipes, read_teacher(members, run.identity), unmined)
    return folder


def tabulate(
    run: Run, comparison: ComparisonParams, teacher: TeacherParams, evaluation: EvaluationParams,
    split: str, lists: Path, members: Path, arms: Path,
) -> tuple[Path, Path]:  # fmt: skip
    """One row per training: arm, seed, steps, images seen, and right answers on ``split``.

    ``arms`` is there for the order of the nodes.
    """
    known = Lists(lists)
    trainings = list_trainings(run, comparison, teacher)
    measured = measure_arms(run, evaluation, trainings, split, known)
    made = run.produce(
        table_result(run, measured, split, known, members),
        lambda aside: write_table(aside, run, measured, split, known, (teacher, members)),
    )
    return made.folder, made.folder / "comparison.json"
