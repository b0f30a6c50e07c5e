"""The trainings that the comparison sets beside the chain's own, and which of them are finished.

Arms: supervised (labels only), supervised at as many steps as the whole SSLD run, stage 1 on the
whole pool unmined in as many steps as on the mined list, and further seeds of stages 1 and 2.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists, count_rows
from hgnetv2_pipeline.project.mining.selecting import (
    candidates,
    decided_pairs,
    exclusions,
    person_edits,
)
from hgnetv2_pipeline.project.params import (
    ComparisonParams,
    MiningParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.results import Result, ResultSpec, Reuse
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.teacher import TeacherRecord, read_teacher
from hgnetv2_pipeline.project.training.runs import (
    Training,
    begin_run,
    logits_store,
    make_run_spec,
    processes_of_each,
    train_missing,
)
from hgnetv2_pipeline.project.training.teacher_logits import make_store, store_result, store_spec
from hgnetv2_pipeline.training.config import RunSpec, StoredLogits, TrainConfig
from hgnetv2_pipeline.training.schedule import count_steps

_log = logging.getLogger(__name__)

# Each arm: how the folders of its seeds begin, and the parameter with the seeds.
ARMS = {
    "supervised": ("supervised", "supervised_seeds"),
    "supervised_equal_steps": ("equal_steps", "equal_steps_seeds"),
    "stage1": ("stage1", "stage1_seeds"),
    "stage1_unmined": ("unmined", "unmined_seeds"),
    "stage2": ("stage2", "stage2_seeds"),
}


@dataclass(frozen=True)
class Recipes:
    """What the arms are made by: the recipes of the chain, and the seeds asked for."""

    comparison: ComparisonParams
    teacher: TeacherParams
    train: TrainConfig
    stage1: TrainConfig
    stage2: TrainConfig
    logits: TeacherLogitsParams


@dataclass(frozen=True)
class Arm:
    """One training of an arm."""

    name: str
    seed: int
    folder: Path
    config: TrainConfig
    train: Path
    distilled: bool


def arm_folders(run: Run, comparison: ComparisonParams) -> list[tuple[str, int, Path]]:
    """Name, seed and folder of every training that ``comparison`` asks for.

    Stages 1 and 2 of the run's own seed are those of the chain: trained twice, they would be the
    same.
    """
    base = run.folder("comparison")
    return [
        (name, seed, base / f"{prefix},seed={seed}")
        for name, (prefix, seeds) in ARMS.items()
        for seed in getattr(comparison, seeds)
        if name not in ("stage1", "stage2") or seed != run.identity.seed
    ]


def list_arms(run: Run, recipes: Recipes, unmined: Path | None) -> list[Arm]:
    """All trainings asked for; ``unmined`` is the list of the whole pool, None where there is none.

    Those of stage 2 come last: each starts from stage 1 of its seed.
    """
    base, mined = run.folder("comparison"), run.folder("mining") / "train_mined.parquet"
    labelled = Lists(run.folder("lists")).index("train")
    # Side by side, every process has one thread; the recipes' own count is for a run alone.
    threads = {"threads": 1} if recipes.comparison.jobs > 1 else {}
    plain = recipes.train.model_copy(update=threads)
    first = recipes.stage1.model_copy(update=threads)
    kinds = {"supervised": (plain, labelled, False), "stage1": (first, mined, True)}
    if recipes.comparison.equal_steps_seeds:
        steps = _all_steps(run.identity, recipes.teacher)
        processes = processes_of_each(run.distributed, run.device, jobs=recipes.comparison.jobs)
        longer = lengthened(plain, steps, images=count_rows(labelled), processes=processes)
        kinds["supervised_equal_steps"] = (longer, labelled, False)
    if unmined is not None:
        shorter = at_equal_steps(first, mined=count_rows(mined), unmined=count_rows(unmined))
        kinds["stage1_unmined"] = (shorter, unmined, True)
    arms = []
    for name, seed, folder in arm_folders(run, recipes.comparison):
        if name == "stage2":
            start = {"init": str(base / f"stage1,seed={seed}")}
            config = recipes.stage2.model_copy(update={**threads, **start})
            arms.append(Arm(name, seed, folder, config, labelled, True))
        elif name in kinds:
            arms.append(Arm(name, seed, folder, *kinds[name]))
    return arms


def lengthened(config: TrainConfig, steps: int, *, images: int, processes: int) -> TrainConfig:
    """The recipe for so many steps, evaluated as often as before: more choice would flatter."""
    every = config.eval_every
    if every is not None:
        epoch = images / (config.batch_size * processes)
        its, _ = count_steps(config, images=images, world_size=processes)
        evaluations = math.ceil(its / max(1, round(every * epoch)))
        every = math.ceil(steps / evaluations) / epoch
    return config.model_copy(update={"steps": steps, "epochs": None, "eval_every": every})


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


def _training(
    run: Run, arm: Arm, logits: TeacherLogitsParams, teacher: TeacherRecord | None
) -> Training:
    teacher = teacher if arm.distilled else None
    spec = make_run_spec(
        run,
        arm.config,
        pipeline="comparison",
        out=arm.folder,
        train=arm.train,
        teacher=teacher,
        stored=_answers_for(run, arm, logits),
        seed=arm.seed,
    )
    return spec, teacher


def _answers_for(run: Run, arm: Arm, logits: TeacherLogitsParams) -> StoredLogits | None:
    """The store that an arm reads; None: its teacher runs along, or it has none."""
    if arm.name in ("stage1", "stage2"):
        return logits_store(run, logits)
    # The answers to many views are stored of mined images alone; those to the images are cheap.
    if arm.name == "stage1_unmined" and logits.source == "clean":
        return logits_store(run, logits, _unmined_answers(run))
    return None


def _unmined_answers(run: Run) -> Path:
    return run.folder("comparison") / "teacher_logits"


def store_unmined_answers(
    run: Run, recipes: Recipes, teacher: TeacherRecord, unmined: Path
) -> None:
    """Ask the teacher for each image of the whole pool, where the students follow such answers."""
    if recipes.logits.source != "clean":
        return
    spec = store_spec(
        run,
        recipes.logits,
        recipes.stage1,
        classes=Lists(run.folder("lists")).classes,
        samples=unmined,
        teacher=teacher,
    ).model_copy(update={"out": _unmined_answers(run)})
    run.produce(store_result(spec, recipes.logits, teacher), lambda _: make_store(run, spec))


def train_missing_arms(
    run: Run, recipes: Recipes, teacher: TeacherRecord, unmined: Path | None
) -> None:
    """Train the arms that are not finished yet."""
    if unmined is not None:
        store_unmined_answers(run, recipes, teacher, unmined)
    arms, jobs = list_arms(run, recipes, unmined), recipes.comparison.jobs

    def announce(specs: Sequence[RunSpec]) -> None:
        names = [f"{spec.out.name} ({_length(spec.config)})" for spec in specs]
        _log.info("comparison: %d trainings, %d at a time: %s", len(specs), jobs, "; ".join(names))

    # Stage 2 starts from stage 1 of its seed, so it can only follow in a second wave.
    for last in (False, True):
        wave = [arm for arm in arms if (arm.name == "stage2") is last]
        # The longest first, so that the last to end is a short one.
        wave.sort(key=lambda arm: -(arm.config.steps or 0))
        train_missing(
            run,
            [_training(run, arm, recipes.logits, teacher) for arm in wave],
            jobs=jobs,
            folder=run.folder("comparison"),
            announce=announce,
        )


def _length(config: TrainConfig) -> str:
    return f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"


def finished_arms(
    run: Run, reuse: Reuse, recipes: Recipes, *, chain_finished: bool
) -> set[tuple[str, int]]:
    """Name and seed of the finished arms that would be reused; ``reuse`` only finds out (dry).

    Without ``chain_finished`` the teacher, the mined list or a stage is yet to be made again, and
    only what was trained on labels alone can be finished.
    """
    comparison, teacher = recipes.comparison, None
    if chain_finished:
        teacher = read_teacher(run.folder("train_teacher"), run.identity)
    else:
        later = [seeds for name, (_, seeds) in ARMS.items() if name != "supervised"]
        comparison = comparison.model_copy(update={seeds: [] for seeds in later})
    listed = run.folder("comparison") / "train_unmined.parquet"
    answered = _unmined_answers(run) / "manifest.json"
    there = listed.is_file() and (recipes.logits.source != "clean" or answered.is_file())
    unmined = listed if comparison.unmined_seeds and there else None
    processes = processes_of_each(run.distributed, run.device, jobs=comparison.jobs)
    finished: set[tuple[str, int]] = set()
    for arm in list_arms(run, replace(recipes, comparison=comparison), unmined):
        if arm.name == "stage2" and ("stage1", arm.seed) not in finished:
            continue
        training = _training(run, arm, recipes.logits, teacher)
        if isinstance(begin_run(reuse, *training, processes=processes)[1], Result):
            finished.add((arm.name, arm.seed))
    return finished


def make_unmined_list(run: Run, mining: MiningParams, mined: Path) -> Path:
    """Labelled images and the whole pool, less what may not be mined: images too like those of
    validation or test, doubtful ones as mining takes them, and those left out by name.
    """
    known = Lists(run.folder("lists"))

    def make(aside: Path) -> None:
        import pandas as pd

        from hgnetv2_pipeline.data import index

        barred = candidates(run, mining, run.folder("scores"), decided_pairs(run, mined)).barred
        pool = known.frame("pool")
        # The loss asks the teacher, not the label; some label must be there all the same.
        pool = pool[~pool["key"].isin(barred)].assign(label=0)
        merged = pd.concat([known.frame("train"), pool], ignore_index=True)
        index.write_index(aside / "train_unmined.parquet", merged)

    made = run.produce(
        ResultSpec(
            folder=run.folder("comparison"),
            name="unmined",
            pipeline="comparison",
            inputs={
                "train": known.index("train"),
                "pool": known.index("pool"),
                "dedup": mined / "dedup.parquet",
                "review": person_edits(run),
                **exclusions(run, mining),
            },
            params={"strict": mining.deduplicate.strict},
            outputs=["train_unmined.parquet"],
        ),
        make,
    )
    return made.folder / "train_unmined.parquet"
