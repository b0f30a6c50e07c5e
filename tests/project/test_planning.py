"""The plan of a chain: what is there counts as done, the rest is stood in for, sums add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgnetv2_pipeline import processor
from hgnetv2_pipeline.data import classmap, index
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.planning.chain import plan_chain
from hgnetv2_pipeline.training import plan
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.plan import Plan
from hgnetv2_pipeline.training.stored_logits.speed import Rate
from run_params import parameters
from tiny_project import picture

CHAIN = {"ingestion", "train_teacher", "mining", "ssld_stage1", "ssld_stage2", "evaluation"}


@pytest.fixture
def project(tmp_path: Path) -> dict[str, Any]:
    """The sample's parameters, four labelled images and 400 of a pool (which nobody reads)."""
    params = parameters()
    params["teacher_logits"] |= {"source": "online"}
    identity = Identity.model_validate({**params["this_run"]["identity"], "project": tmp_path})
    raw, lists = identity.folder("raw"), identity.folder("lists")
    for number in range(4):
        picture(raw / ("no", "yes")[number % 2] / f"{number}.png", number)
    samples = folders.scan_folder_tree(raw).samples
    for name in ("train", "val"):
        index.write_index(lists / f"index_{name}.parquet", samples)
    pool = samples.iloc[np.zeros(400, int)].assign(key=[f"pool/{n:03d}" for n in range(400)])
    index.write_index(lists / "index_pool.parquet", pool)
    classmap.write_class_map(lists / "class_map.txt", ["no", "yes"])
    write_json(
        lists / "pool_sources.json", {"p": {"prefix": "pool/", "images": 400, "sha256": "0"}}
    )
    return {**params, "this_run": {**params["this_run"], "identity": identity.model_dump()}}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunSpec, int | None]]:
    """The runs that were planned: a second a step, 100 MB; the teacher takes 0.5 s an image."""
    asked: list[tuple[RunSpec, int | None]] = []

    def plan_run(spec: RunSpec, *, processes: int, images: int | None = None) -> Plan:
        asked.append((spec, images))
        steps = spec.config.steps or round((spec.config.epochs or 0) * (images or 4) / 64)
        return Plan(images or 4, 64 * steps, steps, float(steps), 0.25, 10**8, 10**12, 2 * 10**9)

    monkeypatch.setenv("COLUMNS", "200")  # no cell of the table is broken
    monkeypatch.setattr(plan, "plan_run", plan_run)
    monkeypatch.setattr(plan, "peak_memory", lambda device: 10**9)
    monkeypatch.setattr(
        "hgnetv2_pipeline.training.stored_logits.speed.pass_rate", lambda *_, **__: Rate(0.5, 0.1)
    )
    return asked


def rows(text: str) -> dict[str, str]:
    return {line.split("  ")[0]: " ".join(line.split()) for line in text.splitlines()}


def test_whole_chain_from_nothing_but_lists(
    project: dict[str, Any], timed: list[tuple[RunSpec, int | None]]
) -> None:
    text = plan_chain(project, CHAIN)
    found = rows(text)
    # Two members side by side: 150 steps of time, 300 steps of work.
    assert "to do 4 300 2 min 30 s 25% 200 MB 2.0 GB" in found["teacher, 2 members"]
    assert "to do 400 3 min 20 s 10%" in found["mining: scores"]
    # The map shows them all, and the 4 of train and of val.
    assert "to do 408 3 min 24 s 10%" in found["mining: map of the pool"]
    # 60 per class of 2 classes, on top of the 4 that are labelled.
    assert "to do 124 150 2 min 30 s 25% 100 MB" in found["ssld_stage1"]
    assert "to do 4 30 30 s" in found["ssld_stage2"]
    assert "480 12 min 14 s 400 MB 2.0 GB" in found["all that is timed"]
    assert "assumed: the teacher is as fast as fresh weights of b0 + b0" in text
    assert "stage 1 has 124 images, 4 labelled and 120 mined (mining.k=60 per class)" in text
    assert "NOT ENOUGH" not in text
    stage1 = next(spec for spec, images in timed if images == 124)
    assert stage1.teacher is not None
    assert stage1.teacher.members == ["scratch:b0"] * 2


@pytest.mark.parametrize("has", [[], ["avx512_bf16"]])
def test_every_precision_that_is_slow_here_is_told_where_it_was_chosen(
    project: dict[str, Any],
    timed: list[tuple[RunSpec, int | None]],
    monkeypatch: pytest.MonkeyPatch,
    has: list[str],
) -> None:
    monkeypatch.setattr(processor, "features", lambda: frozenset(has))
    project["this_run"]["device"] = "cpu"
    assert "slow here" not in plan_chain(project, CHAIN)
    project["train_teacher"]["recipe"] |= {"amp": "bf16"}
    project["ssld_stage2"] |= {"amp": "bf16"}
    project["train"] |= {"amp": "bf16"}  # no part of this chain
    project["ssld_stage1"] |= {"amp": "bf16", "mode": "auto"}  # a trial will choose
    project["teacher_logits"] |= {"source": "stored", "amp": "bf16"}
    project["evaluation"] |= {"engine": "torch", "precision": "bf16"}
    text = plan_chain(project, CHAIN)
    told = [line for line in text.splitlines() if line.startswith("slow here: ")]
    places = {line.split("; set ")[1] for line in told}
    wanted = {
        "train_teacher.recipe.amp=off", "ssld_stage2.amp=off", "teacher_logits.amp=off",
        "evaluation.precision=fp32",
    }  # fmt: skip
    assert places == (set() if has else wanted)
    assert len(told) == len(places)


def test_stored_answers_take_a_pass_and_steps_without_a_teacher(
    project: dict[str, Any], timed: list[tuple[RunSpec, int | None]]
) -> None:
    project["teacher_logits"] |= {"source": "stored", "views": 10}
    found = rows(plan_chain(project, {"ssld_stage1"}))
    assert "to do 1,240 10 min 20 s 10%" in found["teacher logits, 10 views"]
    assert [spec.teacher for spec, _ in timed] == [None]


def test_what_is_there_is_not_planned_and_further_runs_are_counted(
    project: dict[str, Any], timed: list[tuple[RunSpec, int | None]]
) -> None:
    project["train_teacher"] |= {"source": ["hgnet_small.ssld"]}
    project["comparison"] |= {
        "supervised_seeds": [1], "equal_steps_seeds": [0], "unmined_seeds": [0],
        "stage1_seeds": [], "jobs": 1,
    }  # fmt: skip
    found = rows(plan_chain(project, {*CHAIN, "comparison"}))
    assert "ready weights: hgnet_small.ssld" in found["teacher"]
    # 150 supervised, 180 at equal steps, 150 unmined.
    assert "480 8 min 0 s 300 MB" in found["comparison, 3 runs"]
    [stage1] = [spec for spec, images in timed if images]
    assert stage1.teacher is not None
    assert stage1.teacher.members == ["scratch:hgnet_small"]


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (0, "finished"),
        (30, "to do, 370 of 400 reused 30 15 s"),
        (400, "to do 400 3 min 20 s"),
    ],
)
def test_what_earlier_scores_save_is_in_the_plan(
    project: dict[str, Any],
    timed: list[tuple[RunSpec, int | None]],
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    told: str,
) -> None:
    from hgnetv2_pipeline.project.planning import chain

    teacher = Identity.model_validate(project["this_run"]["identity"]).folder("train_teacher")
    write_json(teacher / "teacher.json", {"members": ["scratch:b0"], "bn": "eval"})
    monkeypatch.setattr(chain, "images_to_score", lambda *_: left)
    assert told in rows(plan_chain(project, {"mining"}))["mining: scores"]


@pytest.mark.parametrize(
    ("shown", "told"), [(100, "finished, if the list stays"), (50, "to do 50 25 s 10%")]
)
def test_a_map_of_the_pool_is_planned_where_it_is_another_and_nothing_follows_from_it(
    project: dict[str, Any],
    timed: list[tuple[RunSpec, int | None]],
    monkeypatch: pytest.MonkeyPatch,
    shown: int,
    told: str,
) -> None:
    from hgnetv2_pipeline.project.lists import Lists
    from hgnetv2_pipeline.project.mining.mapping import FACTS, POINTS, pool_map_result
    from hgnetv2_pipeline.project.params import MiningParams
    from hgnetv2_pipeline.project.planning import chain
    from hgnetv2_pipeline.project.run import Run
    from hgnetv2_pipeline.project.teaching.teacher import read_teacher

    run = Run.model_validate(project["this_run"])
    scores, mined = run.folder("scores"), run.folder("mining")
    write_json(
        run.folder("train_teacher") / "teacher.json", {"members": ["scratch:b0"], "bn": "eval"}
    )
    scores.mkdir(parents=True)
    frame = index.read_index(run.folder("lists") / "index_train.parquet")
    index.write_index(mined / "train_mined.parquet", frame)
    for name in ("mined", "dedup"):
        frame[["key"]].assign(decision="keep").to_parquet(mined / f"{name}.parquet")
    mining = MiningParams.model_validate(project["mining"] | {"map_images": 100})
    teacher = read_teacher(run.folder("train_teacher"), run.identity)
    run.produce(
        pool_map_result(run, mining, Lists(run.folder("lists")), teacher, scores, mined),
        lambda aside: [write_json(aside / name, {}) for name in (POINTS, FACTS)],
    )
    monkeypatch.setattr(chain, "images_to_score", lambda *_: 0)
    monkeypatch.setattr(chain._Chain, "_finished", lambda self, name: not self._made_again())
    write_json(run.folder("ssld_stage1") / "result.json", {"steps": 150})
    project["mining"]["map_images"] = shown
    found = rows(plan_chain(project, {"mining", "ssld_stage1"}))
    assert found["mining: scores"].endswith("finished")
    assert told in found["mining: map of the pool"]
    assert found["ssld_stage1"].endswith("finished")


def test_a_finished_arm_of_the_comparison_costs_nothing(
    project: dict[str, Any],
    timed: list[tuple[RunSpec, int | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hgnetv2_pipeline.pipelines.comparison.nodes import train_arms
    from hgnetv2_pipeline.project.params import (
        ComparisonParams,
        MiningParams,
        TeacherLogitsParams,
        TeacherParams,
    )
    from hgnetv2_pipeline.project.run import Run
    from hgnetv2_pipeline.project.training import runs
    from hgnetv2_pipeline.training.config import TrainConfig

    identity = Identity.model_validate(project["this_run"]["identity"])
    mining, models = identity.folder("mining"), identity.folder("models")
    mining.mkdir(parents=True)
    frame = index.read_index(identity.folder("lists") / "index_train.parquet")
    index.write_index(mining / "train_mined.parquet", frame)
    frame[["key"]].assign(decision="keep").to_parquet(mining / "dedup.parquet")
    members = [f"train_teacher/mixed/member={number}" for number in range(2)]
    write_json(
        identity.folder("train_teacher") / "teacher.json", {"members": members, "bn": "eval"}
    )
    for run in (*members, "ssld_stage1/b0/seed=0", "ssld_stage2/b0/seed=0"):
        write_json(models / run / "result.json", {"steps": 100})
        (models / run / "student.safetensors").write_text(run)
    project["comparison"] |= {
        "supervised_seeds": [1, 2], "equal_steps_seeds": [0], "unmined_seeds": [0],
        "stage1_seeds": [1], "stage2_seeds": [1], "jobs": 1,
    }  # fmt: skip
    due = 6

    def trained(_: Run, specs: list[RunSpec], **__: Any) -> None:
        for spec in specs:
            spec.out.mkdir(parents=True, exist_ok=True)
            for name in ("student.safetensors", "history.csv", "result.json"):
                (spec.out / name).write_text("{}")

    monkeypatch.setattr(runs, "train_side_by_side", trained)
    recipes = [TrainConfig.model_validate(project[n]) for n in
               ("train", "ssld_stage1", "ssld_stage2")]  # fmt: skip

    assert f"comparison, {due} runs" in rows(plan_chain(project, {"comparison"}))
    train_arms(
        Run.model_validate(project["this_run"]),
        ComparisonParams.model_validate(project["comparison"]),
        TeacherParams.model_validate(project["train_teacher"]), *recipes,
        TeacherLogitsParams.model_validate(project["teacher_logits"]),
        MiningParams.model_validate(project["mining"]),
        identity.folder("train_teacher"), mining, Path(),
    )  # fmt: skip
    assert rows(plan_chain(project, {"comparison"}))["comparison"] == "comparison finished"
    # One seed more is all that is due; so is what depends on a recipe that changed.
    project["comparison"] |= {"supervised_seeds": [1, 2, 3]}
    assert "comparison, 1 runs" in rows(plan_chain(project, {"comparison"}))
    project["comparison"] |= {"supervised_seeds": [1, 2]}
    project["ssld_stage2"] |= {"lr": 0.125}
    assert "comparison, 1 runs" in rows(plan_chain(project, {"comparison"}))


def test_what_is_mined_by_typicality_is_planned_as_if_the_pool_were_like_the_labelled_images(
    project: dict[str, Any], timed: list[tuple[RunSpec, int | None]]
) -> None:
    mining = {**project["mining"], "k": None, "rank_by": "typicality", "min_conf": 0.3}
    text = plan_chain({**project, "mining": mining}, CHAIN)
    assert "4 labelled and 280 mined (mining.min_conf=0.3, if the pool is like them" in text
