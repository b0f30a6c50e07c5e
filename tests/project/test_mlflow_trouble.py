"""MLflow records what happens; its trouble costs its record, one warning, and nothing else."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from finished_chain import FinishedChain

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.project import results as reuse
from hgnetv2_pipeline.project import tracking
from hgnetv2_pipeline.project.deployment import logged_model
from hgnetv2_pipeline.project.experiment import mlflow_hooks
from hgnetv2_pipeline.project.experiment.mlflow_hooks import MLflowHooks
from hgnetv2_pipeline.project.tracking import TrackedCommand, Tracker
from own_tree import write_classes
from project_copies import copy_project

# Of the tracker, and of the runs that it hands out.
METHODS = (
    "Tracker.run", "Tracker.child", "Tracker.close", "Tracker.end", "MLflowRun.metrics",
    "MLflowRun.history", "MLflowRun.params", "MLflowRun.tags", "MLflowRun.artifact",
    "MLflowRun.text", "MLflowRun.inputs",
)  # fmt: skip


def break_method(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    """Have the method raise."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    owner, name = method.split(".")
    monkeypatch.setattr(getattr(tracking, owner), name, fail)


def prepared(project: Path, **params: Any) -> Tracker:
    tracker = Tracker()
    tracker.prepare(TrackedCommand(project, "a run", lambda: {"lr": 0.1, **params}), enabled=True)
    return tracker


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (method, error)
        for number, method in enumerate(METHODS)
        for error in [
            [OSError(28, "No space left on device"), sqlite3.OperationalError("locked\nat a")][
                number % 2
            ]
        ]
    ],
)
def test_c04_every_method_of_the_tracker_may_fail(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    method: str, error: Exception,
) -> None:  # fmt: skip
    """A training that reports while it runs, a measurement, a page, and the end."""
    chain = FinishedChain(project)
    chain.write()
    tracker = Tracker()
    monkeypatch.setattr(mlflow_hooks, "tracker", tracker)
    monkeypatch.setattr(logged_model, "log_exported_model", lambda *_: None)
    monkeypatch.setattr(reuse, "_made", chain.paths())
    break_method(monkeypatch, method, error)
    told = chain.hooks()
    stage1 = chain.identity.folder("ssld_stage1")
    tracker.begin(stage1)
    tracker.reporter(stage1, "stage 1")({"step": 1, "loss": 0.5})
    chain.work(told, "ssld_stage1.run", "evaluation.metrics", "reporting.html")
    told.after_pipeline_run()
    [said] = warnings_of(caplog)
    assert "--params mlflow=false" in said and "\n" not in said
    assert type(error).__name__ in said
    assert not tracker.enabled


@pytest.fixture(scope="module")
def store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a database of MLflow's."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(empty_database, project / "mlflow.db")
    return project


def runs(project: Path) -> dict[str, str]:
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        return dict(database.execute("select run_uuid, status from runs"))


def killed(tracker: Tracker) -> str:
    """As if the process of the tracker's run had been killed: its run stays RUNNING."""
    owner = tracking._this_process().rpartition(":")[0]
    # Its number is taken again by a later process.
    tracker.run().tags({"owner": f"{owner}:1"})
    return tracker.run().run_id


def test_resumed_training_continues_its_mlflow_run_and_its_child(
    store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    first = prepared(store)
    first.begin(tmp_path)
    first.reporter(tmp_path, "train")({"step": 1, "loss": 0.5})
    run = killed(first)
    child = first.child("train").run_id
    assert runs(store)[run] == runs(store)[child] == "RUNNING"
    second = prepared(store, lr=0.2)
    second.begin(tmp_path)
    second.reporter(tmp_path, "train")({"step": 2, "loss": 0.4})
    assert second.run().run_id == run and second.child("train").run_id == child
    second.end("FINISHED")
    assert runs(store)[run] == runs(store)[child] == "FINISHED"
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    history = client.get_metric_history(child, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.4)]
    found = client.get_run(run).data
    assert found.params["lr"] == "0.1"
    assert found.tags["resumed_with"] == "lr=0.2"


def test_runs_left_by_a_kill_are_closed_by_the_next_and_living_ones_are_not(
    store: Path, tmp_path: Path
) -> None:
    left, living, another = prepared(store), prepared(store), prepared(store)
    for number, tracker in enumerate((left, living)):
        (tmp_path / str(number)).mkdir()
        tracker.begin(tmp_path / str(number))
        tracker.child("train")
    dead = killed(left)
    another.run()
    another.end("KILLED")
    states = runs(store)
    assert states[dead] == states[left.child("train").run_id] == "KILLED"
    assert states[living.run().run_id] == states[living.child("train").run_id] == "RUNNING"


def of_another_version(database: Path) -> None:
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("update alembic_version set version_num = 'fffffffffff1'")


def cut_short(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5000])


def no_database(database: Path) -> None:
    database.unlink()
    database.mkdir()


def locked(database: Path) -> None:
    store = sqlite3.connect(database)
    store.execute("begin immediate")
    _held.append(store)


_held: list[sqlite3.Connection] = []


@pytest.mark.parametrize("damage", [of_another_version, cut_short, no_database, locked])
def test_a_store_that_cannot_be_used_is_told_before_the_work(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None],
) -> None:  # fmt: skip
    monkeypatch.setattr(tracking, "_LOCK_SECONDS", 0.1)
    (tmp_path / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    damage(tmp_path / "mlflow.db")
    tracker = prepared(tmp_path)
    tracker.begin(tmp_path / "run")
    told = [text for text in warnings_of(caplog) if "mlflow=false" in text]
    assert len(told) == 1
    tracker.reporter(tmp_path / "run", "train")({"step": 1, "loss": 0.5})
    for error in (None, Interrupted("stopped")):
        hooks_of = MLflowHooks()
        hooks_of.on_pipeline_error(error or ValueError("x"))
    assert len([text for text in warnings_of(caplog) if "mlflow=false" in text]) == 1
    for held in _held:
        held.close()
    _held.clear()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an environment ``tiny`` of two classes."""
    from hgnetv2_pipeline.commands.init import write_environment

    project = copy_project(tmp_path_factory.mktemp("trouble") / "project")
    write_classes(project.parent / "labelled", ("ab", "cd"), per_class=8)
    write_environment(
        project, "tiny", labelled=project.parent / "labelled", pool=None, test=None, variant="b0"
    )
    return project


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_c04_a_whole_training_ends_well_whichever_method_fails(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Train and evaluate, by the command: exit code 0, weights and figures there."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from hgnetv2_pipeline.cli import run as command

    break_method(monkeypatch, method, RuntimeError("trouble"))
    monkeypatch.chdir(tiny)
    bootstrap_project(tiny)
    name = method.replace(".", "-")
    short = (
        f"run={name},train.epochs=1,train.warmup_epochs=0,train.threads=1,train.workers=0,"
        f"model=train/b0/{name}"
    )
    for pipeline in ("train", "evaluation"):
        words = ["--env", "tiny", "--pipeline", pipeline, "--params", short]
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0, done.output
    assert (tiny / "data/06_models/tiny/train/b0" / name / "student.safetensors").is_file()
    assert list((tiny / "data/08_reporting/tiny/evaluation").rglob(f"*{name}*/*.json"))
