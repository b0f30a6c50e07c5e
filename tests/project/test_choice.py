"""The best model as a result: its candidates, its record, and when it is chosen again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import DataError, WeightsError
from hgnetv2_pipeline.pipelines.best.nodes import choose_best
from hgnetv2_pipeline.project import evaluation
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import (
    BestParams,
    ComparisonParams,
    EvaluationParams,
    TeacherParams,
)
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.training import choice
from run_params import parameters
from tiny_project import identity, run_of

IMAGES = 100
STAGE1, STAGE2 = "ssld_stage1/b0/seed=0", "ssld_stage2/b0/seed=0"
TRAIN, ARM = "train/b0/seed=0", "comparison/b0/seed=0/supervised,seed=2"
MEMBER = "train_teacher/mixed/member=0"
Answers = dict[str, Any]


class Project:
    """A project of trainings that nobody trained; ``answers`` says what each answers on val."""

    def __init__(self, folder: Path, answers: Answers) -> None:
        self.run = run_of(identity(folder))
        self.answers = answers
        lists = self.run.folder("lists")
        lists.mkdir(parents=True)
        (lists / "class_map.txt").write_text("0 ant\n1 bee\n")
        mining = self.run.folder("mining")
        mining.mkdir(parents=True)
        for name in (lists / "index_train", lists / "index_val", mining / "train_mined"):
            pd.DataFrame({"key": [name.name], "label": [0]}).to_parquet(f"{name}.parquet")
        values = parameters()
        self.params = BestParams(standard_errors=1.0)
        self.evaluation = EvaluationParams.model_validate(values["evaluation"])
        self.comparison = ComparisonParams.model_validate(values["comparison"])
        self.teacher = TeacherParams.model_validate(values["train_teacher"])

    def train(self, name: str, weights: str = "raw", arms_list: str = "index_train") -> Path:
        """Write the finished training ``name``; its weight file says which weights it holds."""
        folder, lists = self.run.folder("models") / name, self.run.folder("lists")
        mined = self.run.folder("mining") / "train_mined.parquet"
        stage1 = "stage1" in name

        def make(aside: Path) -> None:
            (aside / "student.safetensors").write_text(f"{weights} of {name}")
            write_json(aside / "result.json", {"weights": weights})

        spec = ResultSpec(
            folder=folder, pipeline="train", outputs=["student.safetensors", "result.json"],
            inputs={
                "train": mined if stage1 else lists / f"{arms_list}.parquet",
                "val": lists / "index_val.parquet",
            },
            params={"weights": weights},
        )  # fmt: skip
        self.run.produce(spec, make)
        return folder

    def choose(self, run: Run | None = None, **given: Any) -> dict[str, Any]:
        params = self.params.model_copy(update=given)
        folder = choose_best(
            run or self.run, params, self.evaluation, self.comparison, self.teacher,
            self.run.folder("lists"),
        )  # fmt: skip
        assert folder == self.run.folder("best")
        found: dict[str, Any] = read_json(folder / "choice.json")
        return found

    @property
    def weights(self) -> str:
        return (self.run.folder("best") / "student.safetensors").read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project(tmp_path, {})

    def write(aside: Path, run: Run, params: Any, split: str, lists: Lists) -> None:
        assert split == "val" and (params.engine, params.precision) == ("torch", "fp32")
        if run.identity.model not in made.answers:
            raise WeightsError("it gives NaN or infinite logits")
        counts, rows = made.answers[run.identity.model]
        write_json(aside / "val-torch-fp32.json", counts)
        rows.to_parquet(aside / "val-torch-fp32.parquet", index=False)

    monkeypatch.setattr(evaluation, "write_evaluation", write)
    return made


def single(right: Sequence[bool]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Answers to images of one label each."""
    count, n = int(sum(right)), len(right)
    keys = [f"{number:03}" for number in range(n)]
    return (
        {"top1": count / n, "top1_count": count, "n_listed": n, "classes": ["ant", "bee"]},
        pd.DataFrame({"key": keys, "correct": list(right)}),
    )


def first(count: int, *, wrong: int = 0) -> list[bool]:
    """The first ``count`` images right, but for the very first ``wrong``."""
    return [wrong <= number < count for number in range(IMAGES)]


CASES: Mapping[str, tuple[dict[str, list[bool]], str, str]] = {
    "stage 2 leads": (
        {STAGE1: first(80), STAGE2: first(90), MEMBER: first(70)},
        STAGE2, "No other candidate is more accurate there.",
    ),
    "a tie goes to stage 2": (
        {STAGE1: first(90), STAGE2: first(90)}, STAGE2, "No other candidate is more accurate",
    ),
    "noise goes to stage 2": (
        {STAGE1: first(91, wrong=2), STAGE2: first(88)},
        STAGE2, "The most accurate there is SSLD stage 1, mined, by 1.0 ± 2.2 points; that is "
        "within one standard error",
    ),
    "stage 2 made it worse": (
        {STAGE1: first(90), STAGE2: first(60)},
        STAGE1, "SSLD stage 2 lowered top-1 on val by 30.0 ± 4.6 points against SSLD stage 1, "
        "mined, and is not used.",
    ),
    "SSLD made it worse": (
        {STAGE1: first(80), STAGE2: first(70), TRAIN: first(95)},
        TRAIN, "SSLD stage 1, mined is 15.0 ± 3.6 points of top-1 below supervised "
        "training on val, and is not used.",
    ),
    "alone": ({STAGE2: first(10)}, STAGE2, "There is no other candidate."),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_weights_that_are_used_become_the_best_model_with_the_reason(
    project: Project, case: str
) -> None:
    right, used, words = CASES[case]
    for name, answers in right.items():
        project.train(name, "ema" if name == STAGE1 else "raw")
        project.answers[name] = single(answers)
    found = project.choose()
    assert found["used"] == used and found["model"] == "best/b0/seed=0"
    assert project.weights == f"{'ema' if used == STAGE1 else 'raw'} of {used}"
    assert words in " ".join(found["reasons"])
    assert {each["run"]: each["right"] for each in found["candidates"]} == {
        name: sum(answers) for name, answers in right.items()
    }
    for each in found["candidates"]:
        assert each["command"].endswith(f"--params model={each['run']}")
    passed = [each["run"] for each in found["candidates"]].index(used)
    assert sum("not used" in said for said in found["reasons"]) == passed


def test_zero_standard_errors_use_the_most_accurate(project: Project) -> None:
    for name, right in {STAGE1: first(91), STAGE2: first(90)}.items():
        project.train(name)
        project.answers[name] = single(right)
    assert project.choose()["used"] == STAGE2
    assert project.choose(standard_errors=0.0)["used"] == STAGE1


def test_the_better_of_several_labels_is_used_by_map(project: Project) -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((IMAGES, 2)) < 0.4).astype(int)
    labels = [np.flatnonzero(row).tolist() for row in truth]
    for name, noise, value in (("finetune/b0/seed=0", 2.0, 0.6), (TRAIN, 0.1, 0.9)):
        project.train(name)
        scores = truth + noise * generator.standard_normal(truth.shape)
        rows = pd.DataFrame({
            "key": [f"{number:03}" for number in range(IMAGES)], "labels": labels,
            "probs": list(scores),
        })  # fmt: skip
        counts = {"task": "multi_label", "map": value, "n_listed": IMAGES, "classes": ["a", "b"]}
        project.answers[name] = counts, rows
    found = project.choose()
    assert (found["metric"], found["used"]) == ("map", TRAIN)
    assert "fine-tuning is" in found["reasons"][1] and "points of mAP below" in found["reasons"][1]


def test_a_way_of_training_stands_for_the_runs_own_seed_or_else_the_lowest(
    project: Project,
) -> None:
    project.comparison = project.comparison.model_copy(
        update={"supervised_seeds": [2, 1, 0], "stage1_seeds": [1]}
    )
    others = [ARM, f"{ARM[:-1]}1", "comparison/b0/seed=0/stage1,seed=1"]
    for name in (STAGE2, *others):
        project.train(name)
        project.answers[name] = single(first(50))
    runs = {each["arm"]: each["run"] for each in project.choose()["candidates"]}
    assert runs == {"stage2": STAGE2, "stage1": others[2], "supervised": others[1]}
    for name in (STAGE1, f"{MEMBER[:-1]}1", MEMBER):
        project.train(name)
        project.answers[name] = single(first(50))
    runs = {each["arm"]: each["run"] for each in project.choose()["candidates"]}
    assert runs == {"stage2": STAGE2, "stage1": STAGE1, "supervised": others[1]}
    # A member of the teacher has a seed of its own, far above those that are asked for.
    project.comparison = project.comparison.model_copy(update={"supervised_seeds": []})
    runs = {each["arm"]: each["run"] for each in project.choose()["candidates"]}
    assert runs == {"stage2": STAGE2, "stage1": STAGE1, "supervised": MEMBER}


def retrained(project: Project) -> None:
    project.train(STAGE2, "ema")
    project.answers[STAGE2] = single(first(50))


def another_beside(project: Project) -> None:
    project.train(TRAIN)
    project.answers[TRAIN] = single(first(99))


@pytest.mark.parametrize(
    ("change", "used"), [(lambda _: None, STAGE2), (retrained, STAGE1), (another_beside, TRAIN)]
)
def test_it_is_chosen_once_and_again_only_when_a_candidate_changes(
    project: Project, change: Callable[[Project], None], used: str
) -> None:
    for name, right in {STAGE1: first(80), STAGE2: first(90)}.items():
        project.train(name)
        project.answers[name] = single(right)
    before, folder = project.choose(), project.run.folder("best")
    made = (folder / "manifest.json").stat().st_mtime_ns
    change(project)
    found = project.choose()
    assert found["used"] == used
    if used == STAGE2:
        assert found == before and (folder / "manifest.json").stat().st_mtime_ns == made
        return
    (old,) = (folder.parent / "archive").rglob("choice.json")
    assert json.loads(old.read_text()) == before


@pytest.mark.parametrize("what", ["unfinished", "damaged", "other val", "other train"])
def test_a_training_that_cannot_be_compared_is_left_out_and_named(
    project: Project, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    folder = project.train(TRAIN)
    lists, why = project.run.folder("lists"), "is no candidate for the best model: "
    if what == "unfinished":
        (folder / "manifest.json").unlink()
        why += "it is not finished"
    elif what == "damaged":
        (folder / "manifest.json").write_text("{")
        why += "manifest.json is damaged"
    else:
        name = what.split()[1]
        pd.DataFrame({"key": ["new"], "label": [1]}).to_parquet(lists / f"index_{name}.parquet")
        why += f"it was trained with another list of {name} images than today's"
    project.train(STAGE2)
    project.answers[STAGE2] = single(first(10))
    assert [each["run"] for each in project.choose()["candidates"]] == [STAGE2]
    assert f"{TRAIN} {why}" in caplog.text


def test_a_training_that_diverged_is_not_used_and_is_named(project: Project) -> None:
    for name in (STAGE1, STAGE2):
        project.train(name)
    with pytest.raises(WeightsError, match="it gives NaN"):
        project.choose()
    project.answers[STAGE1] = single(first(10))
    found = project.choose()
    assert found["used"] == STAGE1 and found["left_out"] == {
        STAGE2: "it gives NaN or infinite logits"
    }
    assert found["reasons"][-1] == f"{STAGE2} is not used: it gives NaN or infinite logits."


def test_without_a_training_the_commands_are_named(project: Project) -> None:
    with pytest.raises(DataError, match=r"no finished training of b0, run seed=0.*--pipeline best"):
        project.choose()
    (project.train(STAGE2) / "manifest.json").unlink()
    with pytest.raises(DataError, match=f"; {STAGE2} is left out: it is not finished"):
        project.choose()


def test_answers_to_other_images_are_refused(project: Project) -> None:
    for name, images in {STAGE1: 90, STAGE2: 91}.items():
        project.train(name)
        project.answers[name] = single([True] * images)
    with pytest.raises(DataError, match=r"answered different val images.*redo=evaluation"):
        project.choose()


def test_the_run_that_was_chosen_is_known_to_whoever_exports_it(project: Project) -> None:
    project.train(STAGE2)
    project.answers[STAGE2] = single(first(10))
    project.choose()
    assert choice.chosen_run(project.run.folder("best")) == STAGE2
    assert choice.chosen_run(project.run.folder("ssld_stage2")) is None
    shutil.rmtree(project.run.folder("best"))
    assert choice.chosen_run(project.run.folder("best")) is None
