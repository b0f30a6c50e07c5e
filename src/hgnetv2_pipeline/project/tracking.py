"""The MLflow client, started by the first new number: a run for the command, a child for each part.

What is recorded: ``mlflow_hooks``. Where: a sqlite file in the project and no server, unless
``mlflow.uri`` or ``MLFLOW_TRACKING_URI`` names another place.

A run in which every result was reused starts nothing and does not pay MLflow's import (seconds).
MLflow records what happens and never ends it: whoever calls the tracker does so within ``guarded``.
"""

from __future__ import annotations

import csv
import logging
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, write_json

_log = logging.getLogger(__name__)

EXPERIMENT = "hgnetv2_pipeline"
# In the folder of resumable work: the MLflow run that it was begun in, and its own below that.
RUN_FILE = ".mlflow_run.json"
_OWNER = "owner"
_LOCK_SECONDS = 10.0
# What an experiment's page opens on where MLflow goes by this: runs, no language models.
_KIND = ("mlflow.experimentKind", "custom_model_development")
# The page of an experiment's runs; without it MLflow 3.17 opens on language models all the same.
_RUNS = "runs?workflowType=machine_learning"
_PARENT = "mlflow.parentRunId"
_URI = "MLFLOW_TRACKING_URI"
# A server that does not answer costs a run these, and not the 7 and 120 s of MLflow.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_MOST_AT_ONCE = {"metrics": 1000, "params": 100, "tags": 100}


@dataclass(frozen=True)
class TrackedCommand:
    """What goes to MLflow of one command, and where it keeps that.

    ``params`` is asked for once the run starts.
    """

    project: Path
    name: str
    params: Callable[[], Mapping[str, Any]] = dict
    tags: Mapping[str, str] = field(default_factory=dict)
    uri: str | None = None
    experiment: str | None = None


class MLflowRun:
    """One run of MLflow's: the command's, or that of a part of it."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers among ``values``."""
        self._metrics([(name, value, step) for name, value in values.items()])

    def history(self, file: Path, x: str = "step") -> None:
        """Log the columns of a CSV over its column ``x``, which counts as MLflow's step.

        What was logged of it before, while it was trained, is not logged again.
        """
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        values = [
            (name, float(value), int(float(row[x])))
            for row in rows
            for name, value in row.items()
            if name != x and value not in ("", None)
        ]
        first = values[0][0] if values else ""
        known = {point.step for point in self.client.get_metric_history(self.run_id, first)}
        self._metrics([value for value in values if value[2] not in known])

    def _metrics(self, values: list[tuple[str, Any, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._send(
            "metrics",
            [
                Metric(_plain(name), float(value), now, step)
                for name, value, step in values
                if isinstance(value, int | float) and not isinstance(value, bool) and value == value
            ],
        )

    def params(self, values: Mapping[str, Any]) -> None:
        """Log what the run was made by; MLflow takes 6,000 characters a value, and no change."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        flat = {_plain(key): str(value)[:6000] for key, value in values.items()}
        self._send("params", [Param(k, v) for k, v in flat.items() if k not in known])
        changed = [f"{k}={v}" for k, v in flat.items() if known.get(k, v) != v]
        if changed:
            self.tags({"resumed_with": ", ".join(changed)})

    def tags(self, values: Mapping[str, str]) -> None:
        """Say something of the run; MLflow takes at most 5,000 characters."""
        from mlflow.entities import RunTag

        self._send("tags", [RunTag(_plain(k), str(v)[:5000]) for k, v in values.items()])

    def _send(self, kind: str, items: list[Any]) -> None:
        most = _MOST_AT_ONCE[kind]
        for start in range(0, len(items), most):
            self.client.log_batch(self.run_id, **{kind: items[start : start + most]})

    def artifact(self, file: Path, folder: str | None = None) -> None:
        """Keep a file with the run."""
        self.client.log_artifact(self.run_id, str(file), folder)

    def inputs(self, lists: list[Any]) -> None:
        """Name the lists of images that were used (``experiment.images``)."""
        self.client.log_inputs(self.run_id, lists)

    def text(self, text: str, name: str) -> None:
        """Keep a text as a file with the run."""
        self.client.log_text(self.run_id, text, name)

    def end(self, status: str) -> None:
        """Close the run with FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)


class Tracker:
    """One MLflow run for one Kedro run; does nothing while ``enabled`` is false."""

    def __init__(self) -> None:
        self.enabled = False
        self._failed = False
        self._forget()

    def _forget(self) -> None:
        self._run: MLflowRun | None = None
        self._experiment_id = ""
        self._children: dict[str, MLflowRun] = {}

    def prepare(self, command: TrackedCommand, *, enabled: bool) -> None:
        """Say what the run is; nothing is started yet."""
        self._command, self.enabled, self._failed = command, enabled, False
        self._forget()

    @property
    def started(self) -> bool:
        """Whether there was anything new to record so far."""
        return self._run is not None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around all that is done for MLflow alone: its first error is a warning, and its last.

        The tracker is off from then on; what the run makes is not touched by it.
        """
        try:
            yield
        except Exception as error:
            self.enabled = False
            if self._failed:
                return
            self._failed = True
            _log.warning(
                "MLflow is off for the rest of this run, which goes on without it (%s: %s); to run "
                "without it from the start: --params mlflow=false",
                type(error).__name__, (str(error).strip().splitlines() or ["no message"])[0],
            )  # fmt: skip

    def begin(self, *folders: Path) -> None:
        """Before long work in ``folders``: open MLflow, so that trouble is reported before the
        work. Work that an earlier process began there goes on in the MLflow run it was begun in.
        """
        with self.guarded():
            if not self.enabled:
                return
            if self._run is None:
                left = [found["run_id"] for folder in folders if (found := _begun(folder))]
                self._start(left[0] if left else None)
            for folder in folders:
                if not _begun(folder):
                    self._note(folder, recorded=False)

    def reporter(self, folder: Path, name: str) -> Callable[[dict[str, Any]], None]:
        """A callable for the training loop in ``folder``: metrics of one evaluation, with their
        ``step``, in the child run ``name``."""

        def report(row: dict[str, Any]) -> None:
            with self.guarded():
                if self.enabled:
                    values = {key: value for key, value in row.items() if key != "step"}
                    self.child(name, folder).metrics(values, int(row.get("step", 0)))

        return report

    def is_unrecorded(self, folder: Path) -> bool:
        """Whether an earlier process made it for a run of MLflow's and died before it said so."""
        return _begun(folder).get("recorded") is False

    def run(self) -> MLflowRun:
        """The command's own run; imported and started at the first call."""
        return self._run or self._start(None)

    def child(
        self, name: str, folder: Path | None = None, *, seconds: float | None = None
    ) -> MLflowRun:
        """The run of one part, by its name; the one that was begun in ``folder`` goes on.

        ``seconds``: what it took, where it has ended already.
        """
        if name in self._children:
            return self._children[name]
        parent = self.run()
        known = _begun(folder).get("child") if folder else None
        if known and _stands(parent.client, known, parent=parent.run_id):
            parent.client.update_run(known, status="RUNNING")
            child = MLflowRun(parent.client, known)
        else:
            begun = None if seconds is None else int(1000 * (time.time() - seconds))
            tags = {_PARENT: parent.run_id, **_source(self._command.project)}
            made = parent.client.create_run(self._experiment_id, begun, tags, name)
            child = MLflowRun(parent.client, made.info.run_id)
        self._children[name] = child
        if folder:
            self._note(folder, child=child.run_id, recorded=False)
        return child

    def close(self, child: MLflowRun, folder: Path | None = None) -> None:
        """Close the run of a part that is whole."""
        child.end("FINISHED")
        if folder:
            self._note(folder, child=child.run_id, recorded=True)
        self._children = {k: v for k, v in self._children.items() if v is not child}

    def _note(self, folder: Path, **known: Any) -> None:
        write_json(folder / RUN_FILE, {"run_id": self.run().run_id, **known})

    def _start(self, resumed: str | None) -> MLflowRun:
        command = self._command
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # MLflow announces every table of a new database.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = tracking_uri(command)
        if uri.startswith("sqlite:///"):
            _check_store(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(uri)
        self._experiment_id = _experiment(client, command, uri)
        resumed = resumed or os.environ.get("MLFLOW_RUN_ID")
        _close_orphans(client, self._experiment_id, but=resumed)
        tags = {**command.tags, **_source(command.project), _OWNER: _this_process()}
        if resumed is not None and _stands(client, resumed):
            goes_on = client.get_run(resumed)
            self._experiment_id = goes_on.info.experiment_id
            client.update_run(resumed, status="RUNNING")
            self._run = MLflowRun(client, resumed)
            self._run.tags(tags)
        else:
            resumed = None
            made = client.create_run(self._experiment_id, tags=tags, run_name=command.name)
            self._run = MLflowRun(client, made.info.run_id)
        self._run.params(command.params())
        page = f"http://127.0.0.1:5000/#/experiments/{self._experiment_id}/{_RUNS}"
        see = f" (see it: mlflow ui --backend-store-uri sqlite:///mlflow.db, then {page})"
        see = see if uri == _own_store(command) else ""
        _log.info("MLflow run %s%s%s", self._run.run_id[:8], " goes on" if resumed else "", see)
        return self._run

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Make the store MLflow's own, for what takes no client. It puts that into the environment,
        where a later command of this process would take it for the user's wish.
        """
        import mlflow

        before = os.environ.get(_URI)
        mlflow.set_tracking_uri(tracking_uri(self._command))
        try:
            yield
        finally:
            mlflow.set_tracking_uri(None)
            os.environ.pop(_URI, None)
            if before is not None:
                os.environ[_URI] = before

    def end(self, status: str) -> None:
        """Close the run, and what is left of its parts, with FINISHED, FAILED or KILLED."""
        if self._run is not None:
            left = [*self._children.values(), self._run]
            self._forget()
            for run in left:
                run.end(status)


def tracking_uri(command: TrackedCommand) -> str:
    """Where MLflow keeps its runs: what the environment says comes first."""
    return os.environ.get(_URI) or command.uri or _own_store(command)


def _own_store(command: TrackedCommand) -> str:
    return f"sqlite:///{command.project / 'mlflow.db'}"


def _experiment(client: Any, command: TrackedCommand, uri: str) -> str:
    """The experiment's id; it is made, and its page made to open on runs, where it is new."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or command.experiment or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server has a place of its own for artifacts.
        local = uri.startswith("sqlite:///")
        place = (command.project / "mlartifacts").as_uri() if local else None
        return str(client.create_experiment(name, place, dict([_KIND])))
    if _KIND[0] not in found.tags:
        client.set_experiment_tag(found.experiment_id, *_KIND)
    return str(found.experiment_id)


def _begun(folder: Path | None) -> dict[str, Any]:
    """What is noted in a folder of work of the MLflow run that it was begun in."""
    file = (folder or Path()) / RUN_FILE
    return dict(read_json(file)) if file.is_file() else {}


@cache
def _source(project: Path) -> Mapping[str, str]:
    """Which command, and which code, as MLflow's own pages name them."""
    import getpass

    words, revision = [Path(sys.argv[0]).name, *sys.argv[1:]], git_revision(project)
    return {
        "mlflow.source.name": shlex.join(words)[:500],
        "mlflow.source.type": "LOCAL",
        "mlflow.user": getpass.getuser(),
        **({} if revision == "none" else {"mlflow.source.git.commit": revision}),
    }


def _check_store(database: Path) -> None:
    """Raise what is wrong with the store: MLflow would try again and again for an hour."""
    with closing(sqlite3.connect(database, timeout=_LOCK_SECONDS)) as store:
        store.execute("select count(*) from sqlite_master").fetchone()
        store.execute("begin immediate")  # neither locked nor read-only
        store.rollback()


def _stands(client: Any, run_id: str, *, parent: str | None = None) -> bool:
    """Whether a run is there to be gone on with: its store may be another one than it was."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return False
    ours = parent is None or run.data.tags.get(_PARENT) == parent
    return bool(run.info.lifecycle_stage == "active" and ours)


def _close_orphans(client: Any, experiment: str, *, but: str | None) -> None:
    """Close as KILLED what processes of this machine left RUNNING when they were killed."""
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    gone = {run.info.run_id for run in running if _is_gone(run.data.tags.get(_OWNER, ""))} - {but}
    for run in running:
        if {run.info.run_id, run.data.tags.get(_PARENT)} & gone:
            client.set_terminated(run.info.run_id, "KILLED")


def _this_process() -> str:
    """Host, process id and start of this process: no later process is called the same."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def _is_gone(owner: str) -> bool:
    """Whether the process of a run was one of this machine and has ended."""
    host, _, place = owner.partition(":")
    pid, _, started = place.partition(":")
    if host != socket.gethostname() or not pid.isdecimal() or not started:
        return False
    return _started(int(pid)) != started


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; '' where there is none (or no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _plain(name: str) -> str:
    """The name with what MLflow allows in names of tags and metrics."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)[:250]


tracker = Tracker()


def git_revision(project: Path) -> str:
    """The commit the code is at, ``-dirty`` when files differ from it; ``none`` outside git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "none"
