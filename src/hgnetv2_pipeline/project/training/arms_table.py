"""The table of the comparison: one row per training, those of the chain itself among them.

Of the chain: its members where they are the student's own kind, its stage 1 and its stage 2.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.printable import lines
from hgnetv2_pipeline.project.params import ComparisonParams, TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import SIMPLE_PROBE
from hgnetv2_pipeline.project.teaching.teacher import RECORD
from hgnetv2_pipeline.project.training.arms import arm_folders

_log = logging.getLogger(__name__)

LABELS = {
    "supervised": "supervised only",
    "supervised_equal_steps": "supervised, as many steps as all of SSLD",
    "stage1_unmined": "SSLD stage 1, whole pool unmined",
    "stage1": "SSLD stage 1, mined",
    "stage2": "SSLD stage 2",
    "teacher": "teacher (mean of its members)",
}


def list_trainings(
    run: Run, comparison: ComparisonParams, teacher: TeacherParams
) -> list[tuple[str, int, Path]]:
    """Arm, seed and folder of every training in the table, the chain's own first."""
    seed = run.identity.seed
    runs = [(stage, seed, run.folder(f"ssld_{stage}")) for stage in ("stage1", "stage2")]
    # The members are plain students, where they are the student's own network from scratch.
    plain = teacher.arch == run.identity.variant and teacher.recipe.init == "scratch"
    if plain and not teacher.source:
        runs += [
            ("supervised", seed + number, run.folder("train_teacher") / f"member={number}")
            for number in range(teacher.members)
        ]
    return runs + arm_folders(run, comparison)


def write_table(
    aside: Path, run: Run, trainings: Sequence[tuple[str, int, Path]], teacher: Path
) -> None:
    """Write ``comparison.json``: a row per training with its right answers on val; the teacher.

    Where a probe on simple features was among the teacher's candidates, its row is the reference: a
    training that ends below it was not worth its time.
    """
    from hgnetv2_pipeline.reporting.comparison import ARMS

    models, record = run.folder("models"), read_json(teacher / RECORD)
    rows = [_row(models, arm, seed, folder) for arm, seed, folder in trainings]
    name, val = teacher.relative_to(models).as_posix(), record["val"]
    candidates = record.get("candidates_top1_count", {})
    reference = f"{name}/{SIMPLE_PROBE}"
    if reference in candidates:
        rows.append(
            _untrained("reference", ARMS["reference"], reference, candidates[reference], val["n"])
        )
    rows.append(_untrained("teacher", LABELS["teacher"], name, val["top1_count"], val["n"]))
    write_json(aside / "comparison.json", {"variant": run.identity.variant, "rows": rows})


def _untrained(arm: str, label: str, name: str, right: int, images: int) -> dict[str, Any]:
    return {
        "arm": arm,
        "label": label,
        "seed": None,
        "steps": None,
        "images_seen": None,
        "split": "val",
        "top1_count": right,
        "n": images,
        "run": name,
    }


def _row(models: Path, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    result = read_json(folder / "result.json")
    return {
        "arm": arm,
        "label": LABELS[arm],
        "seed": seed,
        "steps": result["steps"],
        "images_seen": result["images_seen"],
        "split": "val",
        "top1_count": result["val"]["top1_count"],
        "n": result["val"]["n"],
        "run": folder.relative_to(models).as_posix(),
    }


def log_table(file: Path, model: str) -> None:
    """Log the table, what its differences mean, and whether a training beats ``model`` on val."""
    from hgnetv2_pipeline.reporting.comparison import better_training, explain_arms, summarise_arms
    from hgnetv2_pipeline.reporting.terminal import summary_rows, terminal_table

    rows = read_json(file)["rows"]
    summaries, better = summarise_arms(rows), better_training(rows, model)
    table = terminal_table(summary_rows(summaries))
    _log.info("comparison\n%s", lines(table, *explain_arms(summaries)))
    if better:
        _log.warning("%s", better)
