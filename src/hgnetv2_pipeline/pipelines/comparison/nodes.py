"""The honest table: the same student trained in other ways, at stated cost, with several seeds.

Arms: supervised (labels only), supervised at as many steps as the whole SSLD run, stage 1 on the
whole pool unmined in as many steps as on the mined list, and further seeds of stages 1 and 2. What
the chain itself trained is counted too: its members where they are the student's own kind, its
stage 1 and its stage 2.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.pipelines.identity import Identity
from hgnetv2_pipeline.pipelines.lists import Lists, count_rows
from hgnetv2_pipeline.pipelines.params import (
    ComparisonParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.pipelines.reuse import Result, Reuse, Work
from hgnetv2_pipeline.pipelines.teacher import RECORD, Teacher, read_teacher
from hgnetv2_pipeline.pipelines.training.nodes import (
    Resume,
    begin_run,
    processes_of_each,
    run_spec,
    stored_logits,
    train_side_by_side,
)
from hgnetv2_pipeline.printable import lines
from hgnetv2_pipeline.training.config import (
    DistributedConfig,
    RunSpec,
    StoredLogits,
    TrainConfig,
)

_log = logging.getLogger(__name__)

LABELS = {
    "supervised": "supervised only",
    "supervised_equal_steps": "supervised, as many steps as all of SSLD",
    "stage1_unmined": "SSLD stage 1, whole pool unmined",
    "stage1": "SSLD stage 1, mined",
    "stage2": "SSLD stage 2",
    "teacher": "teacher (mean of its members)",
}


@dataclass(frozen=True)
class _Arm:
    name: str
    seed: int
    folder: Path
    config: TrainConfig
    train: Path
    distilled: bool


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
    arms = _arms(identity, comparison, teacher, train, stage1, stage2, known, mined, unmined)
    found = read_teacher(teacher_folder, identity)
    stored = stored_logits(identity, logits)
    # Stage 2 starts from stage 1 of its seed, so it can only follow in a second wave.
    for wave in (
        [arm for arm in arms if arm.name != "stage2"],
        [arm for arm in arms if arm.name == "stage2"],
    ):
        works, specs = [], []
        for arm in wave:
            spec, work = _begin(
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


def _begin(
    reuse: Reuse,
    identity: Identity,
    arm: _Arm,
    teacher: Teacher | None,
    stored: StoredLogits | None,
    device: str,
    resume: Resume,
    *,
    processes: int,
) -> tuple[RunSpec, Result | Work]:
    spec = run_spec(
        identity,
        arm.config,
        pipeline="comparison",
        out=arm.folder,
        lists=Lists(identity.folder("lists")),
        train=arm.train,
        teacher=teacher if arm.distilled else None,
        # Of the images that were not mined no answers are stored.
        stored=stored if arm.name in ("stage1", "stage2") else None,
        device=device,
        seed=arm.seed,
        variant=identity.variant,
        resume=resume,
    )
    return begin_run(reuse, spec, teacher if arm.distilled else None, processes=processes)


def finished_arms(
    reuse: Reuse,
    identity: Identity,
    comparison: ComparisonParams,
    teacher: TeacherParams,
    train: TrainConfig,
    stage1: TrainConfig,
    stage2: TrainConfig,
    logits: TeacherLogitsParams,
    device: str,
    distributed: DistributedConfig,
    *,
    chain_stands: bool,
) -> set[tuple[str, int]]:
    """Name and seed of the arms that stand and would be reused; ``reuse`` only finds out (dry).

    Without ``chain_stands`` the teacher, the mined list or a stage is yet to be made anew, and only
    what was trained on labels alone can stand.
    """
    lists, mined = Lists(identity.folder("lists")), identity.folder("mining")
    unmined: Path | None = identity.folder("comparison") / "train_unmined.parquet"
    found = None
    if chain_stands:
        found = read_teacher(identity.folder("train_teacher"), identity)
    else:
        later = ("equal_steps_seeds", "unmined_seeds", "stage1_seeds", "stage2_seeds")
        comparison = comparison.model_copy(update={name: [] for name in later})
    if not comparison.unmined_seeds or unmined is None or not unmined.is_file():
        unmined = None
    stored = stored_logits(identity, logits)
    standing: set[tuple[str, int]] = set()
    for arm in _arms(identity, comparison, teacher, train, stage1, stage2, lists, mined, unmined):
        if arm.name == "stage2" and ("stage1", arm.seed) not in standing:
            continue
        _, work = _begin(
            reuse, identity, arm, found, stored, device, "exact",
            processes=processes_of_each(distributed, device, jobs=comparison.jobs),
        )  # fmt: skip
        if isinstance(work, Result):
            standing.add((arm.name, arm.seed))
    return standing


def _announce(specs: list[RunSpec], jobs: int) -> None:
    names = [f"{spec.out.name} ({_length(spec.config)})" for spec in specs]
    _log.info("comparison: %d trainings, %d at a time: %s", len(specs), jobs, "; ".join(names))


def _length(config: TrainConfig) -> str:
    return f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"


def _arms(
    identity: Identity,
    comparison: ComparisonParams,
    teacher: TeacherParams,
    train: TrainConfig,
    stage1: TrainConfig,
    stage2: TrainConfig,
    known: Lists,
    mined: Path,
    unmined: Path | None,
) -> list[_Arm]:
    base = identity.folder("comparison")
    # Side by side, every process has one thread; the recipes' own count is for a run alone.
    threads = {"threads": 1} if comparison.jobs > 1 else {}
    plain = train.model_copy(update=threads)
    first = stage1.model_copy(update=threads)
    labelled, merged = known.index("train"), mined / "train_mined.parquet"
    arms = [
        _Arm("supervised", seed, base / f"supervised,seed={seed}", plain, labelled, False)
        for seed in comparison.supervised_seeds
    ]
    if comparison.equal_steps_seeds:
        steps = _all_steps(identity, teacher)
        longer = plain.model_copy(update={"steps": steps, "epochs": None})
        arms += [
            _Arm("supervised_equal_steps", seed, base / f"equal_steps,seed={seed}", longer,
                 labelled, False)
            for seed in comparison.equal_steps_seeds
        ]  # fmt: skip
    arms += [
        _Arm("stage1", seed, base / f"stage1,seed={seed}", first, merged, True)
        for seed in comparison.stage1_seeds
    ]
    if unmined is not None:
        longer = at_equal_steps(first, mined=count_rows(merged), unmined=count_rows(unmined))
        arms += [
            _Arm("stage1_unmined", seed, base / f"unmined,seed={seed}", longer, unmined, True)
            for seed in comparison.unmined_seeds
        ]
    for seed in comparison.stage2_seeds:  # after the others: it starts from one of them
        start = base / f"stage1,seed={seed}"
        config = stage2.model_copy(update={**threads, "init": str(start)})
        arms.append(_Arm("stage2", seed, base / f"stage2,seed={seed}", config, labelled, True))
    return arms


def at_equal_steps(config: TrainConfig, *, mined: int, unmined: int) -> TrainConfig:
    """The recipe as it is for ``mined`` images, on a list of ``unmined``: in passes over that list
    the run, its warm-up and the time between evaluations are shorter, in steps they are the same.
    """
    shorter = {
        name: value * mined / unmined
        for name in ("epochs", "warmup_epochs", "eval_every")
        if (value := getattr(config, name)) is not None
    }
    return config.model_copy(update=shorter)


def _all_steps(identity: Identity, teacher: TeacherParams) -> int:
    """Optimiser steps of the whole SSLD run: the members it trained, stage 1 and stage 2."""
    runs = [identity.folder("ssld_stage1"), identity.folder("ssld_stage2")]
    if not teacher.source:
        base = identity.folder("train_teacher")
        runs += [base / f"member={number}" for number in range(teacher.members)]
    return sum(int(read_json(run / "result.json")["steps"]) for run in runs)


def _unmined_list(reuse: Reuse, base: Path, known: Lists, mined: Path) -> Path:
    """Labelled images and the whole pool, less what is too like validation or test images."""

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline import data

        pairs = pd.read_parquet(mined / "dedup.parquet")
        barred = pairs.loc[pairs["decision"] == "remove", "key"]
        pool = known.frame("pool")
        # The loss asks the teacher, not the label; some label must stand there all the same.
        pool = pool[~pool["key"].isin(barred)].assign(label=0)
        merged = pd.concat([known.frame("train"), pool], ignore_index=True)
        data.write_index(aside / "train_unmined.parquet", merged)

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
