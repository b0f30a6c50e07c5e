"""The arms of the comparison are comparable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hgnetv2_pipeline.data import index
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.project import evaluation
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import (
    ComparisonParams,
    EvaluationParams,
    MiningParams,
    TeacherLogitsParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.training import arms_table
from hgnetv2_pipeline.project.training.arms import (
    Recipes,
    arm_folders,
    at_equal_steps,
    list_arms,
    make_unmined_list,
)
from hgnetv2_pipeline.project.training.arms_table import (
    kept_weights,
    list_trainings,
    measure_arms,
    training_cost,
)
from hgnetv2_pipeline.project.training.members import member_spec
from hgnetv2_pipeline.project.training.runs import make_run_spec
from hgnetv2_pipeline.training.config import TrainConfig
from hgnetv2_pipeline.training.schedule import plan_schedule
from run_params import parameters
from tiny_project import identity, run_of


@pytest.mark.parametrize("environment", ["sample", "imagenet"])
@pytest.mark.parametrize("recipe", ["published", "short"])
def test_unmined_arm_takes_the_steps_of_the_mined_one(environment: str, recipe: str) -> None:
    stage1 = TrainConfig.model_validate(parameters(environment, recipe=recipe)["ssld_stage1"])
    mined, unmined = 5_281_167, 15_000_001
    ours = plan_schedule(stage1, images=mined, world_size=8)
    other = at_equal_steps(stage1, mined=mined, unmined=unmined)
    theirs = plan_schedule(other, images=unmined, world_size=8)
    assert dataclasses.replace(theirs, steps_per_epoch=0, row_steps=0) == dataclasses.replace(
        ours, steps_per_epoch=0, row_steps=0
    )


def test_short_protocol_is_thirty_epochs_and_one_more_run() -> None:
    short = parameters("imagenet", recipe="short")
    assert (short["ssld_stage1"]["epochs"], short["ssld_stage1"]["steps"]) == (30, None)
    seeds = {name: value for name, value in short["comparison"].items() if name != "jobs"}
    assert [name for name, value in seeds.items() if value] == ["unmined_seeds"]


@pytest.mark.parametrize("seed", [0, 1])
def test_stages_of_the_runs_own_seed_are_not_trained_again(tmp_path: Path, seed: int) -> None:
    who = identity(tmp_path).model_copy(update={"seed": seed, "run": f"seed={seed}"})
    given = parameters()["comparison"] | {
        "supervised_seeds": [1, 2], "stage1_seeds": [0, 1, 2], "stage2_seeds": [0, 1],
    }  # fmt: skip
    asked = arm_folders(run_of(who), ComparisonParams.model_validate(given))
    names = [(arm, its) for arm, its, _ in asked if arm in ("supervised", "stage1", "stage2")]
    again = {("stage1", seed), ("stage2", seed)}
    whole = [("supervised", 1), ("supervised", 2), *(("stage1", one) for one in range(3)),
             ("stage2", 0), ("stage2", 1)]  # fmt: skip
    assert names == [each for each in whole if each not in again]


@pytest.mark.parametrize(
    # Of b2sum -l 32 over "<seed>/teacher member <number>".
    ("seed", "number", "digest"),
    [(0, 0, "48c2241e"), (0, 1, "01fd2508"), (1, 0, "eb97a8f5")],
)
def test_a_member_shares_its_seed_with_no_student(
    tmp_path: Path, seed: int, number: int, digest: str
) -> None:
    who = identity(tmp_path).model_copy(update={"seed": seed})
    who.folder("lists").mkdir(parents=True)
    (who.folder("lists") / "class_map.txt").write_text("0 ant\n1 bee\n")
    for name in ("train", "val"):
        pd.DataFrame({"key": ["a"]}).to_parquet(who.folder("lists") / f"index_{name}.parquet")
    teacher = TeacherParams.model_validate(parameters()["train_teacher"])
    spec = member_spec(run_of(who), teacher, number)
    assert spec.seed == int.from_bytes(bytes.fromhex(digest), "little")
    student = make_run_spec(run_of(who), teacher.recipe, pipeline="train", train=spec.train)
    assert student.seed == seed


def test_members_are_listed_by_number_and_arms_by_seed(tmp_path: Path) -> None:
    given = parameters("sample")
    who = identity(tmp_path)
    teacher = TeacherParams.model_validate(given["train_teacher"])
    asked = ComparisonParams.model_validate(given["comparison"] | {"supervised_seeds": [0, 1]})
    trainings = list_trainings(run_of(who), asked, teacher)
    found = [(seed, folder.name) for arm, seed, folder in trainings if arm == "supervised"]
    assert [name for _, name in found] == [
        "member=0", "member=1", "supervised,seed=0", "supervised,seed=1"
    ]  # fmt: skip
    assert len({seed for seed, _ in found}) == 4


@pytest.mark.parametrize(
    ("strict", "left"), [(True, ["kept", "ok"]), (False, ["doubt", "kept", "ok"])]
)
def test_the_whole_pool_unmined_lacks_what_may_not_be_mined(
    tmp_path: Path, strict: bool, left: list[str]
) -> None:
    run = run_of(identity(tmp_path))
    lists, mined = run.folder("lists"), run.folder("mining")
    lists.mkdir(parents=True)
    mined.mkdir(parents=True)
    (lists / "class_map.txt").write_text("0 ant\n1 bee\n")
    for name, keys in {"train": ["a"], "pool": ["copy", "doubt", "gone", "kept", "ok"]}.items():
        rows = [(key, key, -1, -1, 0, 8, 8, "PNG", "") for key in keys]
        index.write_index(lists / f"index_{name}.parquet", index.samples_frame(rows))
    pairs = pd.DataFrame({"key": ["copy", "doubt", "gone", "kept"], "channel": "phash"})
    pairs["decision"] = ["remove", "review", "review", "review"]
    pairs.to_parquet(mined / "dedup.parquet")
    # What a person decided, as mining obeys it.
    run.folder("raw").mkdir(parents=True)
    (run.folder("raw") / "review.csv").write_text("key,decision\ngone,remove\nkept,keep\n")
    given = parameters("sample")["mining"]
    strictly = given["deduplicate"] | {"strict": strict}
    params = MiningParams.model_validate(given | {"deduplicate": strictly})
    made = index.read_index(make_unmined_list(run, params, mined))
    assert made["key"].tolist() == ["a", *left]


class Arms:
    """Trainings that nobody trained, each with a recipe and whether it gives answers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = run_of(identity(folder))
        lists = self.run.folder("lists")
        lists.mkdir(parents=True)
        (lists / "class_map.txt").write_text("0 ant\n1 bee\n")
        pd.DataFrame({"key": ["a", "b"], "label": [0, 1]}).to_parquet(lists / "index_test.parquet")
        self.silent: set[str] = set()
        monkeypatch.setattr(evaluation, "write_evaluation", self.answer)

    def answer(self, aside: Path, run: Any, params: Any, split: str, lists: Lists) -> None:
        if run.identity.model in self.silent:
            raise WeightsError("it gives NaN or infinite logits")
        write_json(aside / "test-torch-fp32.json", {"top1_count": 1})
        rows = pd.DataFrame({"key": ["a", "b"], "correct": [True, False]})
        rows.to_parquet(aside / "test-torch-fp32.parquet", index=False)

    def train(self, arm: str, seed: int, name: str, **config: Any) -> tuple[str, int, Path]:
        folder = self.run.folder("models") / name
        spec = ResultSpec(
            folder=folder, pipeline="train", inputs={}, params={"config": config},
            outputs=["student.safetensors"],
        )  # fmt: skip
        self.run.produce(spec, lambda aside: (aside / "student.safetensors").write_text(name))
        return arm, seed, folder

    def measured(self, *trainings: tuple[str, int, Path]) -> list[tuple[str, int]]:
        params = EvaluationParams.model_validate(parameters()["evaluation"])
        lists = Lists(self.run.folder("lists"))
        found = measure_arms(self.run, params, trainings, "test", lists)
        return [(each.arm, each.seed) for each in found]


def test_members_of_another_recipe_are_not_counted_as_supervised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Arms(tmp_path, monkeypatch)
    member = "train_teacher/mixed/member=0"
    longer = made.train("supervised", 0, member, epochs=90, workers=2)
    arm = made.train("supervised", 2, "comparison/b0/seed=0/supervised,seed=2", epochs=30)
    stage = made.train("stage1", 0, "ssld_stage1/b0/seed=0", epochs=60)
    assert made.measured(longer, arm, stage) == [("supervised", 2), ("stage1", 0)]
    # Alone it is what there is of supervised training; of the same recipe it is one of several.
    assert made.measured(longer, stage) == [("supervised", 0), ("stage1", 0)]
    same = made.train("supervised", 3, "comparison/b0/seed=0/supervised,seed=3", epochs=90)
    assert made.measured(longer, same) == [("supervised", 0), ("supervised", 3)]


def test_each_seed_of_an_arm_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Arms(tmp_path, monkeypatch)
    member = made.train("supervised", 1, "train_teacher/mixed/member=1", epochs=30)
    again = made.train("supervised", 1, "comparison/b0/seed=0/supervised,seed=1", epochs=30)
    other = made.train("supervised", 2, "comparison/b0/seed=0/supervised,seed=2", epochs=30)
    assert made.measured(member, again, other) == [("supervised", 1), ("supervised", 2)]


@pytest.mark.parametrize(
    ("segments", "known"),
    [
        ([{"processor": "CPU", "processor_seconds": 10.0}, {"processor": "CPU",
          "processor_seconds": 5.5}], (15.5, "CPU")),
        ([{"processor": "GPU", "processor_seconds": 10.0}, {"training": 3.0}], (None, None)),
        ([], (None, None)),
        (None, (None, None)),
    ],
)  # fmt: skip
def test_a_training_says_what_its_processor_spent_where_all_its_segments_do(
    tmp_path: Path, segments: Any, known: tuple[float | None, str | None]
) -> None:
    write_json(tmp_path / "result.json", {"steps": 30, "images_seen": 1920})
    if segments is not None:
        write_json(tmp_path / "timing.json", {"segments": segments})
    found = training_cost(tmp_path)
    assert (found["steps"], found["seconds"], found["processor"]) == (30, *known)


def test_equal_steps_are_evaluated_as_often_as_the_shorter_training(tmp_path: Path) -> None:
    given = parameters("sample")
    run = run_of(identity(tmp_path))
    run.folder("lists").mkdir(parents=True)
    pd.DataFrame({"key": range(40)}).to_parquet(run.folder("lists") / "index_train.parquet")
    for name in ("ssld_stage1", "ssld_stage2"):
        write_json(run.folder(name) / "result.json", {"steps": 165})
    train, first, second = (
        TrainConfig.model_validate(given[name]) for name in ("train", "ssld_stage1", "ssld_stage2")
    )
    asked = ComparisonParams.model_validate(
        given["comparison"]
        | {"supervised_seeds": [0], "stage1_seeds": [], "equal_steps_seeds": [0]}
    )
    teacher = TeacherParams.model_validate(
        given["train_teacher"] | {"source": ["hgnet_small.ssld"], "members": 0}
    )
    logits = TeacherLogitsParams.model_validate(given["teacher_logits"])
    arms = list_arms(run, Recipes(asked, teacher, train, first, second, logits), None)
    counts = {
        arm.name: plan_schedule(arm.config, images=40, world_size=1).evaluations for arm in arms
    }
    assert counts == {"supervised": 8, "supervised_equal_steps": 8}
    [longer] = [arm.config.steps for arm in arms if arm.name == "supervised_equal_steps"]
    assert longer == 330
    assert plan_schedule(first, images=640, world_size=1).evaluations == 8
    assert plan_schedule(second, images=40, world_size=1).evaluations == 8


def test_the_evaluation_that_gave_the_weights_is_measured_against_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: dict[str, str] = {}
    monkeypatch.setattr(arms_table, "_recipe", lambda folder: recipe)
    rows = {"step": [1, 2, 3], "val_top1": [0.5, 0.9, 0.8], "val_top1_ema": [None, 0.7, 0.85]}
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    found = kept_weights(tmp_path)
    assert found["evaluations"] == 3 and found["above_last"] == pytest.approx(0.05)
    assert found["kept"] == "best", "as it was before one could choose"
    recipe["keep"] = "last"
    assert kept_weights(tmp_path) == {"kept": "last", "evaluations": 3, "above_last": 0.0}
    # Rows between evaluations have no score.
    pd.DataFrame({"step": [1, 2], "val_top1": [None, 0.5]}).to_csv(
        tmp_path / "history.csv", index=False
    )
    assert kept_weights(tmp_path) == {"kept": "last", "evaluations": 1, "above_last": 0.0}


def test_a_training_that_gives_no_answers_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Arms(tmp_path, monkeypatch)
    stage1 = made.train("stage1", 0, "ssld_stage1/b0/seed=0")
    stage2 = made.train("stage2", 0, "ssld_stage2/b0/seed=0")
    made.silent.add("ssld_stage2/b0/seed=0")
    assert made.measured(stage1, stage2) == [("stage1", 0)]
    assert "ssld_stage2/b0/seed=0 is not in the comparison: it gives NaN" in caplog.text
