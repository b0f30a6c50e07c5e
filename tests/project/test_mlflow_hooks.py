"""What MLflow shows of a run of the whole chain, and by which rule a version is the champion."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from finished_chain import IMAGES, ONNX, RIGHT, FinishedChain, write_evaluation

from hgnetv2_pipeline.project import results
from hgnetv2_pipeline.project.deployment import logged_model
from hgnetv2_pipeline.project.experiment import mlflow_hooks
from hgnetv2_pipeline.project.experiment.registry import (
    Export,
    read_evaluation,
    register,
    write_answers,
)
from hgnetv2_pipeline.project.tracking import RUN_FILE, TrackedCommand, Tracker

EVALUATED = "evaluation of best/b0/seed=0 on val"
CHILDREN = {
    "teacher member 0, seed 0", "teacher member 1, seed 1", "SSLD stage 1, mined, seed 0",
    "SSLD stage 2, seed 0", "supervised only, seed 2",
    EVALUATED, "export of best/b0/seed=0",
    "latency of best/b0/seed=0",
}  # fmt: skip


def log_nothing(folder: Path, run_id: str) -> str:
    """A logged model of MLflow's in place of the export, which takes seconds to pack."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    return str(client.create_logged_model(experiment, "model", run_id).model_uri)


@pytest.fixture(autouse=True)
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A tracker of this test's own."""
    return own_tracker(monkeypatch)


def own_tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    mine = Tracker()
    monkeypatch.setattr(mlflow_hooks, "tracker", mine)
    monkeypatch.setattr(logged_model, "log_exported_model", log_nothing)
    return mine


@pytest.fixture(scope="module")
def recorded(
    empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FinishedChain]:
    """A chain that was all new, and recorded; to look at."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        own_tracker(patch)
        yield run_chain(folder, patch, mlflow={"tags": {"team": "birds"}})


def run_chain(
    project: Path, monkeypatch: pytest.MonkeyPatch, *names: str, **params: Any
) -> FinishedChain:
    """A command that made all its results, or those of the names, and recorded them."""
    chain = FinishedChain(project, **params)
    if not chain.identity.folder("ssld_stage1").is_dir():
        chain.write()
    made = {chain.catalog[name].path for name in names} if names else chain.paths()
    monkeypatch.setattr(results, "_made", made)
    told = chain.hooks()
    chain.work(told)
    told.after_pipeline_run()
    assert mlflow_hooks.tracker.enabled, "an error would have switched it off"
    return chain


def runs_of(project: Path, experiment: str = "hgnetv2_pipeline") -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], max_results=1000)
    return {run.info.run_name: run for run in runs}


def client_of(project: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def test_a_command_is_a_run_with_a_child_for_each_part_named_as_in_the_report(
    recorded: FinishedChain,
) -> None:
    runs = runs_of(recorded.project)
    parent = runs.pop("sample b0 seed=0")
    assert runs.keys() == CHILDREN
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *runs.values()]} == {"FINISHED"}
    experiment = client_of(recorded.project).get_experiment(parent.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_parent_has_the_headline_the_lists_the_pages_and_little_else(
    recorded: FinishedChain,
) -> None:
    parent = runs_of(recorded.project)["sample b0 seed=0"]
    figures = parent.data.metrics
    n = IMAGES["val"]
    assert {name: figures[f"val_top1.{name}"] * n for name in RIGHT} == pytest.approx(RIGHT)
    assert figures["gain.stage2_over_supervised_equal_steps"] == pytest.approx(30 / n)
    assert figures["val_top1"] == 160 / n and figures["val_ece"] == 0.03
    assert figures["latency_p50_ms.ort-fp32-bs1"] == 1.5 and figures["images_per_second"] == 20
    assert len(figures) <= 15
    assert parent.data.params["variant"] == "b0" and len(parent.data.params) < 60
    assert parent.data.tags["team"] == "birds"
    assert not [value for value in parent.data.tags.values() if len(value) == 64]
    assert "| SSLD stage 2 |" in parent.data.tags["mlflow.note.content"]
    inputs = parent.inputs.dataset_inputs
    rows = {each.dataset.name: json.loads(each.dataset.profile)["num_rows"] for each in inputs}
    assert rows == {f"sample {name}": n for name, n in {**IMAGES, "mined": 7}.items()}
    files = {file.path for file in client_of(recorded.project).list_artifacts(parent.info.run_id)}
    assert files == {"report.html", "MODEL_CARD.md", "configuration.yaml", "hashes.json",
                     "images.json"}  # fmt: skip
    folder = recorded.project / "mlartifacts" / parent.info.run_id / "artifacts"
    counts = json.loads((folder / "images.json").read_text())
    assert counts["ssld_stage1.run"]["n_quarantined"] == 1
    hashes = json.loads((folder / "hashes.json").read_text())
    assert any(name.endswith("ssld_stage1/b0/seed=0/manifest.json") for name in hashes)


def test_a_training_has_its_curves_and_what_sets_its_recipe_off(recorded: FinishedChain) -> None:
    run = runs_of(recorded.project)["SSLD stage 1, mined, seed 0"]
    with (recorded.identity.folder("ssld_stage1") / "history.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for name in ("lr", "val_top1", "loss"):
        points = client_of(recorded.project).get_metric_history(run.info.run_id, name)
        assert [(p.step, p.value) for p in points] == [
            (int(row["step"]), float(row[name])) for row in rows
        ]
    assert run.data.params == {
        "variant": "b0", "seed": "0", "device": "auto", "lr": "0.3", "image_size": "32"
    }  # fmt: skip
    assert run.data.tags["forced_at_step_3"] == "training.lr: 0.5 there, 0.25 now; seed: 0, 1 now"
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {
        "sample train", "sample val"
    }  # fmt: skip


def test_a_run_in_which_all_was_reused_starts_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    chain = FinishedChain(project)
    chain.write()
    monkeypatch.setattr(results, "_made", set())
    told = chain.hooks()
    chain.work(told)
    assert not tracker.started
    told.after_pipeline_run()
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs").fetchone() == (0,)


def test_a_plan_and_mlflow_false_record_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    for params in ({"plan_only": True}, {"mlflow": False}):
        FinishedChain(project, **params).hooks()
        assert not tracker.enabled


def test_trainings_that_a_dead_process_left_unrecorded_go_on_in_its_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    chain = FinishedChain(project)
    chain.write()
    arm = chain.identity.folder("comparison") / "supervised,seed=2"
    chain.hooks()
    tracker.begin(arm)
    first = tracker.run().run_id
    monkeypatch.setattr(results, "_made", set())  # a new process: all of it is reused
    told = chain.hooks()
    chain.work(told)
    told.after_pipeline_run()
    runs = runs_of(project)
    assert runs.keys() == {"sample b0 seed=0", "supervised only, seed 2"}
    assert runs["supervised only, seed 2"].data.tags["mlflow.parentRunId"] == first
    assert json.loads((arm / RUN_FILE).read_text())["recorded"] is True


def test_a_live_curve_is_not_logged_twice(
    project: Path, monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    chain = FinishedChain(project)
    chain.write()
    folder = chain.identity.folder("ssld_stage1")
    monkeypatch.setattr(results, "_made", {folder})
    told = chain.hooks()
    tracker.begin(folder)
    report = tracker.reporter(folder, "SSLD stage 1, mined, seed 0")
    report({"step": 10, "epoch": 1.0, "loss": 0.9, "lr": 0.1, "val_top1": 0.5})
    chain.work(told, "ssld_stage1.run")
    told.after_pipeline_run()
    run = runs_of(project)["SSLD stage 1, mined, seed 0"]
    points = client_of(project).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(10, 0.9), (20, 0.8)]


@pytest.mark.parametrize("variable", [True, False])
def test_uri_and_experiment_are_those_of_the_environment_then_of_the_parameter(
    project: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path, variable: bool
) -> None:
    there = project / "team"
    there.mkdir()
    shutil.copy(empty_database, there / "mlflow.db")
    uri = f"sqlite:///{there / 'mlflow.db'}"
    given = {"uri": "sqlite:////nowhere/else.db", "experiment": "another"} if variable else {
        "uri": uri, "experiment": "birds"
    }  # fmt: skip
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "birds")
    run_chain(project, monkeypatch, "evaluation.metrics", mlflow=given)
    assert runs_of(there, "birds").keys() == {EVALUATED, "sample b0 seed=0"}


def test_a_run_named_by_the_environment_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(project)
    experiment = client.create_experiment("mine", (project / "kept").as_uri())
    mine = client.create_run(experiment, run_name="a job").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    run_chain(project, monkeypatch, "evaluation.metrics")
    run = client.get_run(mine)
    assert run.info.run_name == "a job" and run.data.metrics["val_top1"] == 0.8
    assert runs_of(project, "mine").keys() == {"a job", EVALUATED}


class Registry:
    """A registered model that versions are added to, each with so many right answers."""

    def __init__(self, project: Path) -> None:
        self.tracker = Tracker()
        self.tracker.prepare(TrackedCommand(project, "any"), enabled=True)
        self.project, self.client = project, client_of(project)
        self.experiment = self.client.create_experiment("exports", (project / "kept").as_uri())

    def add(self, number: int, right: int | None, images: str = "val", new: bool = True) -> str:
        """Register export ``number``, which was logged in this command if ``new``."""
        run = self.client.create_run(self.experiment).info.run_id
        uri = None
        if new:
            uri = self.client.create_logged_model(self.experiment, "model", run).model_uri
        evaluation = None
        if right is not None:
            file = write_evaluation(FinishedChain(self.project).identity, right, images)
            answers = write_answers(file.with_suffix(".parquet"), self.project)
            assert answers is not None
            self.client.log_artifact(run, str(answers))
            evaluation = read_evaluation(file, run)
        export = Export(f"{number:064}", run, uri)
        with self.tracker.as_default():
            said = register(self.client, "sample-b0", export, evaluation)
        assert said is not None
        return said

    @property
    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model("sample-b0").aliases
        return {name: str(version) for name, version in found.items()}


def test_the_first_version_is_the_champion_and_one_export_is_one_version(project: Path) -> None:
    registry = Registry(project)
    assert registry.add(1, 160) == "sample-b0 version 1 is @champion: there was no champion"
    assert registry.add(1, 160) == "sample-b0 version 1 is the champion already"
    assert len(registry.client.search_model_versions("name='sample-b0'")) == 1


@pytest.mark.parametrize(
    ("right", "images", "aliases"),
    [
        (175, "val", {"champion": "2"}),
        (161, "val", {"champion": "1", "challenger": "2"}),
        (150, "val", {"champion": "1", "challenger": "2"}),
        (190, "others", {"champion": "1", "challenger": "2"}),
    ],
    ids=["beyond the noise", "within it", "worse", "on other images"],
)
def test_a_version_is_promoted_only_if_better_beyond_the_noise_of_the_same_images(
    project: Path, right: int, images: str, aliases: dict[str, str]
) -> None:
    registry = Registry(project)
    registry.add(1, 160)
    said = registry.add(2, right, images)
    assert registry.aliases == aliases, said


def test_a_version_without_evaluation_is_judged_once_it_has_one(project: Path) -> None:
    registry = Registry(project)
    registry.add(1, 160)
    assert "has not been evaluated" in registry.add(2, None)
    assert registry.aliases == {"champion": "1", "challenger": "2"}
    assert "190 of 200 right on val" in registry.add(2, 190, new=False)
    assert registry.aliases == {"champion": "2"}


def test_a_new_export_of_a_command_becomes_a_version(recorded: FinishedChain) -> None:
    version = client_of(recorded.project).get_model_version_by_alias("sample-b0", "champion")
    assert version.tags["sha256"] == ONNX


def test_register_false_registers_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_chain(project, monkeypatch, "export.bundle", mlflow={"register": False})
    assert client_of(project).search_registered_models() == []
