"""The DAG for Airflow: what it says; and, marked ``airflow``, what a real Airflow makes of it.

``pytest -m airflow`` makes an environment of its own in build/environments (294 MB) and runs the
embedded sample there.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline, node
from kedro_airflow.plugin import create

from airflow_server import PACKAGES, Airflow, airflow
from hang_guard import wait_until
from hgnetv2_pipeline.cli import run as kedro_run
from hgnetv2_pipeline.pipeline_registry import register_pipelines
from hgnetv2_pipeline.project.node_selection import check_names
from killed_chain import left, processes_of
from project_copies import ROOT, copy_project, environment_python, kedro, save_often, shorten

TEMPLATE = ROOT / "deploy" / "airflow" / "dag.py.j2"
SAMPLE = "hgnetv2_pipeline_sample"
_log = logging.getLogger(__name__)


class Operator:
    """Of Airflow's ``BashOperator`` what the DAG gives it."""

    def __init__(self, **given: Any) -> None:
        self.given, self.upstream = given, list[str]()

    def set_upstream(self, others: list[Operator]) -> None:
        self.upstream += [other.given["task_id"] for other in others]


class Dag:
    """Of Airflow's ``DAG`` and ``Param`` what the DAG gives them."""

    def __init__(self, *names: str, **given: Any) -> None:
        self.names, self.given = names, given

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def write_dag(folder: Path, *arguments: str) -> Path:
    """The file that ``kedro airflow create`` writes from our template."""
    words = ["--group-by", "namespace", "--jinja-file", str(TEMPLATE), "--target-dir", str(folder)]
    project = bootstrap_project(ROOT)
    done = CliRunner().invoke(create, [*words, "--env", "sample", *arguments], obj=project)
    assert done.exit_code == 0, done.output
    (path,) = folder.glob("*.py")
    return path


def read_dag(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the file after it has run, with classes in Airflow's place that only note."""
    bash, sdk = ModuleType("bash"), ModuleType("sdk")
    bash.BashOperator = Operator  # type: ignore[attr-defined]
    sdk.DAG = sdk.Param = Dag  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators.bash", bash)
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    names: dict[str, Any] = {"__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), names)  # noqa: S102 - our own
    return names


def needs(pipeline: Pipeline) -> dict[str, set[str]]:
    """The parts of a pipeline, and which of them make what another one takes."""
    makers = {name: each.namespace for each in pipeline.nodes for name in each.outputs}
    found: dict[str, set[str]] = {str(each.namespace): set() for each in pipeline.nodes}
    for each in pipeline.nodes:
        found[str(each.namespace)] |= {str(makers[name]) for name in each.inputs if name in makers}
    return {part: others - {part} for part, others in found.items()}


@pytest.mark.parametrize("name", ["__default__", "__supervised__", "sweep", "longer"])
def test_the_dag_is_the_graph_a_task_per_part(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = register_pipelines()
    further = node(lambda page: page, "reporting.html", "told", name="tell", namespace="telling")
    pipelines["longer"] = pipelines["__default__"] + Pipeline([further])
    monkeypatch.setattr("kedro_airflow.plugin.pipelines", pipelines)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-secret")
    path = write_dag(tmp_path / "dags", "--pipelines", name, "--params", "schedule=0 3 * * *")
    text = path.read_text(encoding="utf-8")
    assert "a-secret" not in text and str(Path.home()) not in text and str(ROOT) not in text
    names = read_dag(path, monkeypatch)
    tasks = names["tasks"]
    assert {part: set(task.upstream) for part, task in tasks.items()} == needs(pipelines[name])
    for part, task in tasks.items():
        assert (task.given["task_id"], task.given["cwd"]) == (part, str(tmp_path))
        start, command, *words = shlex.split(task.given["bash_command"])
        assert (start, command, words[0]) == ("exec", ".venv/bin/kedro", "run")
        options = kedro_run.make_context("run", words[1:]).params
        check_names(options, pipelines)
        assert (options["env"], options["pipelines"]) == ("sample", [name])
        assert (options["namespaces"], options["params"]) == ([part], "$PARAMS")
        assert task.given["env"] == {"PARAMS": "{{ params.params }}"}


def finished(project: Path) -> dict[str, tuple[int, str]]:
    """When and as what every finished result was written, by its manifest."""
    return {
        path.relative_to(project).as_posix(): (path.stat().st_mtime_ns, path.read_text())
        for path in sorted((project / "data").rglob("*manifest.json"))
    }


def kill_in_training(project: Path) -> None:
    """Kill all that works in the project, as the system does without memory, in a training that
    has saved something."""
    members = project / "data" / "06_models" / "sample" / "train_teacher"
    wait_until(lambda: any(members.rglob("checkpoints/step=*")), "a member has a checkpoint")
    for process in processes_of(project):
        os.kill(process, signal.SIGKILL)


def show(running: Airflow, run: str) -> dict[str, list[str]]:
    """The states of all tries by task, logged with their seconds."""
    found = running.tries(run)
    for task, tries in found.items():
        ended = ", ".join(f"{each['state']} after {each['duration']:.0f} s" for each in tries)
        _log.info("%s %s: %s", run, task, ended)
    return {task: [each["state"] for each in tries] for task, tries in found.items()}


@pytest.mark.airflow
def test_airflow_runs_every_part_once_retries_a_killed_one_and_reuses_results(
    tmp_path: Path,
) -> None:
    project = copy_project(tmp_path / "project")
    shorten(project)
    settings = project / "conf" / "sample" / "parameters.yml"
    as_set = settings.read_text(encoding="utf-8")
    save_often(project)
    (project / ".venv").symlink_to(Path(sys.executable).parents[1])
    write_dag(project / "dags", "--params", "retry_delay=0.05")
    parts = sorted(needs(register_pipelines()["__default__"]))
    python = environment_python(*PACKAGES)
    with airflow(python, project / "dags", tmp_path / "airflow", SAMPLE) as running:
        running.trigger("first")
        kill_in_training(project)
        settings.write_text(as_set, encoding="utf-8")
        assert running.wait("first") == "success"
        states = show(running, "first")
        assert states.pop("train_teacher") == ["failed", "success"]
        assert sorted([*states, "train_teacher"]) == parts
        assert set(map(tuple, states.values())) == {("success",)}
        again = running.log("first", "train_teacher", 2)
        assert "resume" in again
        made = finished(project)
        assert len(made) > len(parts) and not left(project)

        running.trigger("second", "seed=0")
        assert running.wait("second") == "success"
        assert set(map(tuple, show(running, "second").values())) == {("success",)}
        assert finished(project) == made
        # What the person gave who triggers a run is no shell's to read.
        running.trigger("third", "run=$(touch found);touch found")
        assert running.wait("third") == "failed"
        assert not list(project.rglob("found"))
    # Airflow's tasks made what kedro run makes: nothing is left to do.
    said = kedro(project, "run").stdout
    assert "parameter groups" not in said and finished(project) == made
