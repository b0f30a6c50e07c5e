"""MLflow records what happens; its trouble costs its record, one warning, and nothing else."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hgnetv2_pipeline.datasets import CurveFile, JsonFile, PageFile
from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.project import mlflow_hooks, tracking
from hgnetv2_pipeline.project import results as reuse
from hgnetv2_pipeline.project.deployment import logged_model
from hgnetv2_pipeline.project.mlflow_hooks import MLflowHooks
from hgnetv2_pipeline.project.tracking import RUN_FILE, Tracker
from own_tree import write_classes
from project_copies import copy_project

METHODS = ("metrics", "artifact", "hashes", "history", "tag", "model", "end", "_mlflow")


def prepared(project: Path, **params: Any) -> Tracker:
    tracker = Tracker()
    tracker.prepare(project, name="a run", params={"lr": 0.1, **params}, tags={}, enabled=True)
    return tracker


def results(project: Path) -> dict[str, Any]:
    """Newly made results of every kind that the hook records, by name: dataset and path."""
    run = project / "run"
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "manifest.json", {"inputs": {"train": "1"}, "outputs": {"a": "2"}})
    forced = [{"step": 3, "changed": ["lr"]}]
    write_json(run / "result.json", {"n_listed": 5, "forced_resumes": forced})
    (run / "history.csv").write_text("step,val\n1,0.5\n")
    (run / "report.html").write_text("<p>")
    return {
        "train.run": (CurveFile(filepath=str(run), shows="history.csv", x="step"), run),
        "report.html": (PageFile(filepath=str(run / "report.html")), run / "report.html"),
        "result": (JsonFile(filepath=str(run / "result.json")), run / "result.json"),
        "export.bundle": (JsonFile(filepath=str(run), shows="result.json"), run),
    }  # fmt: skip


def work(tracker: Tracker, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run does with the tracker: before, during and after a training, and at its end."""
    made = results(project)
    monkeypatch.setattr(mlflow_hooks, "tracker", tracker)
    monkeypatch.setattr(logged_model, "log_exported_model", lambda folder: f"models:/{folder.name}")
    monkeypatch.setattr(reuse, "_made", {path for _, path in made.values()})
    told = MLflowHooks()
    told._catalog = SimpleNamespace(get=lambda name: made[name][0])
    tracker.begin(project / "run")
    report = tracker.reporter("train")
    for step in (1, 2):
        report({"step": step, "loss": 0.5})
    told.after_node_run({name: path for name, (_, path) in made.items()})
    told.after_pipeline_run()


@pytest.fixture
def server() -> SimpleNamespace:
    """In place of the module ``mlflow`` with a run active."""
    calls: list[str] = []
    names = ("set_tag", "set_tags", "log_metrics", "log_artifact", "end_run")
    note = {name: (lambda *_, _name=name, **__: calls.append(_name)) for name in names}
    return SimpleNamespace(calls=calls, **note)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), sqlite3.OperationalError("locked\nat a")],
    ids=["full disk", "locked"],
)  # fmt: skip
def test_c04_every_method_of_the_tracker_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    server: SimpleNamespace, method: str, error: Exception,
) -> None:  # fmt: skip
    tracker = prepared(tmp_path)
    monkeypatch.setattr(Tracker, "_mlflow", lambda self: server)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Tracker, method, fail)
    work(tracker, tmp_path, monkeypatch)
    [told] = warnings_of(caplog)
    assert "--params mlflow=false" in told and "\n" not in told
    assert type(error).__name__ in told
    assert not tracker.enabled
    before = len(server.calls)
    with tracker.guarded():
        tracker.tag("more", "of it")
    assert len(server.calls) == before, "it is off from then on"


def test_without_trouble_everything_is_recorded_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    server: SimpleNamespace,
) -> None:  # fmt: skip
    monkeypatch.setattr(Tracker, "_mlflow", lambda self: server)
    work(prepared(tmp_path), tmp_path, monkeypatch)
    assert set(server.calls) == {"set_tag", "set_tags", "log_metrics", "log_artifact"}
    assert warnings_of(caplog) == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a database of MLflow's."""
    import mlflow

    project = tmp_path_factory.mktemp("project")
    tracker = prepared(project)
    tracker.begin(project)
    assert tracker.enabled
    tracker.end("FINISHED")
    (project / RUN_FILE).unlink()
    yield project
    mlflow.set_tracking_uri(None)


def runs(project: Path) -> dict[str, str]:
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        return dict(database.execute("select run_uuid, status from runs"))


def killed(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if the process of the tracker's run had been killed: its run stays RUNNING."""
    import mlflow

    run = str(tracker._run_id)
    owner = tracking._this_process().rpartition(":")[0]
    mlflow.set_tag("owner", f"{owner}:1")  # its number is taken again by a later process
    mlflow.tracking.fluent._active_run_stack.set([])
    return run


def test_resumed_training_continues_its_mlflow_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    first = prepared(store)
    first.begin(tmp_path)
    first.reporter("train")({"step": 1, "loss": 0.5})
    run = killed(first, monkeypatch)
    assert runs(store)[run] == "RUNNING"
    second = prepared(store, lr=0.2)
    second.begin(tmp_path)
    second.reporter("train")({"step": 2, "loss": 0.4})
    second.end("FINISHED")
    assert runs(store)[run] == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(run, "train.loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.4)]
    found = mlflow.get_run(run).data
    assert found.params["lr"] == "0.1"
    assert found.tags["resumed_with"] == "lr=0.2"


def test_a_run_left_running_by_a_kill_is_closed_by_the_next_and_a_living_one_is_not(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    left = prepared(store)
    left.begin(tmp_path / "one")
    dead = killed(left, monkeypatch)
    living = prepared(store)
    living.begin(tmp_path / "two")
    mlflow.tracking.fluent._active_run_stack.set([])
    another = prepared(store)
    another.begin(tmp_path / "three")
    another.end("KILLED")
    states = runs(store)
    assert states[dead] == "KILLED"
    assert states[str(living._run_id)] == "RUNNING"
    assert len({dead, living._run_id, *states}) == len(states)


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
    tracker.reporter("train")({"step": 1, "loss": 0.5})
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
@pytest.mark.parametrize("method", [*METHODS, "begin", "reporter"])
def test_c04_a_whole_training_ends_well_whichever_method_fails(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Train and evaluate, by the command: exit code 0, weights and figures there."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from hgnetv2_pipeline.cli import run as command

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("trouble")

    inner = {"begin": "_mlflow", "reporter": "metrics"}.get(method, method)
    monkeypatch.setattr(Tracker, inner, fail)
    monkeypatch.chdir(tiny)
    bootstrap_project(tiny)
    short = (
        f"run={method},train.epochs=1,train.warmup_epochs=0,train.threads=1,train.workers=0,"
        f"model=train/b0/{method}"
    )
    for pipeline in ("train", "evaluation"):
        words = ["--env", "tiny", "--pipeline", pipeline, "--params", short]
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0, done.output
    assert (tiny / "data/06_models/tiny/train/b0" / method / "student.safetensors").is_file()
    assert list((tiny / "data/08_reporting/tiny/evaluation").rglob(f"*{method}*/*.json"))
