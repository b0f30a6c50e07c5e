"""The honest table: the same student trained in other ways, at stated cost, with several seeds.

Arms: supervised (labels only), supervised at as many steps as the whole SSLD run, stage 1 on the
whole pool unmined in as many steps as on the mined list, and further seeds of stages 1 and 2. What
the chain itself trained is counted too: its members where they are the student's own kind, its
stage 1 and its stage 2.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.printable import lines
from hgnetv2_pipeline.project.arms import begin_arm, list_arms
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import ComparisonParams, TeacherLogitsParams, TeacherParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.runs import (
    Resume,
    processes_of_each,
    stored_logits,
    train_side_by_side,
)
from hgnetv2_pipeline.project.teacher import RECORD, read_teacher
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec, TrainConfig

_log = logging.getLogger(__name__)

LABELS = {
    "supervised": "supervised only",
    "supervised_equal_steps": "supervised, as many steps as all of SSLD",
    "stage1_unmined": "SSLD stage 1, whole pool unmined",
    "stage1": "SSLD stage 1, mined",
    "stage2": "SSLD stage 2",
    "teacher": "teacher (mean of its members)",
}


def train_arms(
    identity: Identity,
    comparison: ComparisonParams,
    teacher: TeacherParams,
    train: TrainConfig,
    stage1: TrainConfig,
    stage2: TrainConfig,
    logits: TeacherLogitsParams,
    device: str,
    distributed: DistributedConfig,
    redo: list[str],
    resume: Resume,
    lists: Path,
    teacher_folder: Path,
    mined: Path,
    stage2_run: Path,
) -> Path:
    """Train what the table needs and does not have yet; return the folder with the arms."""
    reuse = Reuse(identity.project, redo)
    known = Lists(lists)
    base = identity.folder("comparison")
    base.mkdir(parents=True, exist_ok=True)
    unmined = _unmined_list(reuse, base, known, mined) if comparison.unmined_seeds else None
    arms = list_arms(identity, comparison, teacher, train, stage1, stage2, known, mined, unmined)
    found = read_teacher(teacher_folder, identity)
    stored = stored_logits(identity, logits)
    # Stage 2 starts from stage 1 of its seed, so it can only follow in a second wave.
    for wave in (
        [arm for arm in arms if arm.name != "stage2"],
        [arm for arm in arms if arm.name == "stage2"],
    ):
        works, specs = [], []
        for arm in wave:
            spec, work = begin_arm(
                reuse, identity, arm, found, stored, device, resume,
                processes=processes_of_each(distributed, device, jobs=comparison.jobs),
            )  # fmt: skip
            if isinstance(work, Work):
                works.append(work)
                specs.append(spec)
        if works:
            # The longest first, so that the last to end is a short one.
            specs.sort(key=lambda spec: -(spec.config.steps or 0))
            _announce(specs, comparison.jobs)
            train_side_by_side(
                identity, specs, jobs=comparison.jobs, folder=base, distributed=distributed
            )
            for work in works:
                work.finish()
    return base


def _announce(specs: list[RunSpec], jobs: int) -> None:
    names = [f"{spec.out.name} ({_length(spec.config)})" for spec in specs]
    _log.info("comparison: %d trainings, %d at a time: %s", len(specs), jobs, "; ".join(names))


def _length(config: TrainConfig) -> str:
    return f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"


def _unmined_list(reuse: Reuse, base: Path, known: Lists, mined: Path) -> Path:
    """Labelled images and the whole pool, less what is too like validation or test images."""

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline.data import index

        pairs = pd.read_parquet(mined / "dedup.parquet")
        barred = pairs.loc[pairs["decision"] == "remove", "key"]
        pool = known.frame("pool")
        # The loss asks the teacher, not the label; some label must stand there all the same.
        pool = pool[~pool["key"].isin(barred)].assign(label=0)
        merged = pd.concat([known.frame("train"), pool], ignore_index=True)
        index.write_index(aside / "train_unmined.parquet", merged)

    reuse.produce(
        base,
        name="unmined",
        pipeline="comparison",
        inputs={
            "train": known.index("train"),
            "pool": known.index("pool"),
            "dedup": mined / "dedup.parquet",
        },
        params={},
        outputs=["train_unmined.parquet"],
        make=make,
    )
    return base / "train_unmined.parquet"


def tabulate(
    identity: Identity,
    comparison: ComparisonParams,
    teacher: TeacherParams,
    redo: list[str],
    lists: Path,
    teacher_folder: Path,
    stage1_run: Path,
    stage2_run: Path,
    arms: Path,
) -> tuple[Path, Path]:
    """One row a training: arm, seed, steps, images seen, and right answers on val."""
    runs = [("stage1", identity.seed, stage1_run), ("stage2", identity.seed, stage2_run)]
    # The members are plain students, where they are the student's own network from scratch.
    plain = teacher.arch == identity.variant and teacher.recipe.init == "scratch"
    if plain and not teacher.source:
        runs += [
            ("supervised", identity.seed + number, teacher_folder / f"member={number}")
            for number in range(teacher.members)
        ]
    for arm, prefix, seeds in (
        ("supervised", "supervised", comparison.supervised_seeds),
        ("supervised_equal_steps", "equal_steps", comparison.equal_steps_seeds),
        ("stage1", "stage1", comparison.stage1_seeds),
        ("stage1_unmined", "unmined", comparison.unmined_seeds),
        ("stage2", "stage2", comparison.stage2_seeds),
    ):
        runs += [(arm, seed, arms / f"{prefix},seed={seed}") for seed in seeds]
    from hgnetv2_pipeline.reporting.comparison import explain, summarise_arms
    from hgnetv2_pipeline.reporting.terminal import summary_rows, terminal_table

    folder = identity.folder("comparison_report")

    def make(aside: Path) -> None:
        rows = [_row(identity, arm, seed, run) for arm, seed, run in runs]
        record = read_json(teacher_folder / RECORD)
        rows.append(
            {
                "arm": "teacher",
                "label": LABELS["teacher"],
                "seed": None,
                "steps": None,
                "images_seen": None,
                "split": "val",
                "top1_count": record["val"]["top1_count"],
                "n": record["val"]["n"],
                "run": teacher_folder.relative_to(identity.folder("models")).as_posix(),
            }
        )
        write_json(aside / "comparison.json", {"variant": identity.variant, "rows": rows})

    Reuse(identity.project, redo).produce(
        folder,
        pipeline="comparison",
        inputs={
            "teacher": teacher_folder / RECORD,
            **{f"{arm} {seed}": run / "result.json" for arm, seed, run in runs},
        },
        params={},
        outputs=["comparison.json"],
        make=make,
    )
    summaries = summarise_arms(read_json(folder / "comparison.json")["rows"])
    told = lines(terminal_table(summary_rows(summaries)), *explain(summaries))
    _log.info("comparison\n%s", told)
    return folder, folder / "comparison.json"


def _row(identity: Identity, arm: str, seed: int, run: Path) -> dict[str, Any]:
    result = read_json(run / "result.json")
    return {
        "arm": arm,
        "label": LABELS[arm],
        "seed": seed,
        "steps": result["steps"],
        "images_seen": result["images_seen"],
        "split": "val",
        "top1_count": result["val"]["top1_count"],
        "n": result["val"]["n"],
        "run": run.relative_to(identity.folder("models")).as_posix(),
    }
