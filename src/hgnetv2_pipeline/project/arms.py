"""The trainings that the comparison sets beside the chain's own, and which of them stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists, count_rows
from hgnetv2_pipeline.project.params import ComparisonParams, TeacherLogitsParams, TeacherParams
from hgnetv2_pipeline.project.results import Result, Reuse, Work
from hgnetv2_pipeline.project.runs import (
    Resume,
    begin_run,
    processes_of_each,
    run_spec,
    stored_logits,
)
from hgnetv2_pipeline.project.teacher import Teacher, read_teacher
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec, StoredLogits, TrainConfig


@dataclass(frozen=True)
class Arm:
    name: str
    seed: int
    folder: Path
    config: TrainConfig
    train: Path
    distilled: bool


def begin_arm(
    reuse: Reuse,
    identity: Identity,
    arm: Arm,
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
    for arm in list_arms(
        identity, comparison, teacher, train, stage1, stage2, lists, mined, unmined
    ):
        if arm.name == "stage2" and ("stage1", arm.seed) not in standing:
            continue
        _, work = begin_arm(
            reuse, identity, arm, found, stored, device, "exact",
            processes=processes_of_each(distributed, device, jobs=comparison.jobs),
        )  # fmt: skip
        if isinstance(work, Result):
            standing.add((arm.name, arm.seed))
    return standing


def list_arms(
    identity: Identity,
    comparison: ComparisonParams,
    teacher: TeacherParams,
    train: TrainConfig,
    stage1: TrainConfig,
    stage2: TrainConfig,
    known: Lists,
    mined: Path,
    unmined: Path | None,
) -> list[Arm]:
    base = identity.folder("comparison")
    # Side by side, every process has one thread; the recipes' own count is for a run alone.
    threads = {"threads": 1} if comparison.jobs > 1 else {}
    plain = train.model_copy(update=threads)
    first = stage1.model_copy(update=threads)
    labelled, merged = known.index("train"), mined / "train_mined.parquet"
    arms = [
        Arm("supervised", seed, base / f"supervised,seed={seed}", plain, labelled, False)
        for seed in comparison.supervised_seeds
    ]
    if comparison.equal_steps_seeds:
        steps = _all_steps(identity, teacher)
        longer = plain.model_copy(update={"steps": steps, "epochs": None})
        arms += [
            Arm("supervised_equal_steps", seed, base / f"equal_steps,seed={seed}", longer,
                 labelled, False)
            for seed in comparison.equal_steps_seeds
        ]  # fmt: skip
    arms += [
        Arm("stage1", seed, base / f"stage1,seed={seed}", first, merged, True)
        for seed in comparison.stage1_seeds
    ]
    if unmined is not None:
        longer = at_equal_steps(first, mined=count_rows(merged), unmined=count_rows(unmined))
        arms += [
            Arm("stage1_unmined", seed, base / f"unmined,seed={seed}", longer, unmined, True)
            for seed in comparison.unmined_seeds
        ]
    for seed in comparison.stage2_seeds:  # after the others: it starts from one of them
        start = base / f"stage1,seed={seed}"
        config = stage2.model_copy(update={**threads, "init": str(start)})
        arms.append(Arm("stage2", seed, base / f"stage2,seed={seed}", config, labelled, True))
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
