"""The MLflow client, started by the first new number: a sqlite file in the project, no server.

What is recorded: ``mlflow_hooks``.

A run in which every result was reused starts nothing and does not pay MLflow's import (seconds).
MLflow records what happens and never ends it: whoever calls the tracker does so within ``guarded``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.differences import flatten
from hgnetv2_pipeline.durable import read_json, write_json

_log = logging.getLogger(__name__)

EXPERIMENT = "hgnetv2_pipeline"
# In the folder of resumable work: the MLflow run that it was begun in.
RUN_FILE = ".mlflow_run.json"
_OWNER = "owner"
_LOCK_SECONDS = 10.0


class Tracker:
    """One MLflow run for one Kedro run; does nothing while ``enabled`` is false."""

    def __init__(self) -> None:
        self.enabled = False
        self._project = Path()
        self._name = ""
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._run_id: str | None = None
        self._resumed: str | None = None
        self._failed = False
        self.reported_live: set[str] = set()

    def prepare(
        self,
        project: Path,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        enabled: bool,
    ) -> None:
        """Say what the run is; nothing is started yet."""
        self.enabled, self._project, self._name = enabled, project, name
        self._params, self._tags = dict(params), dict(tags)
        self._run_id = self._resumed = None
        self._failed = False
        self.reported_live = set()

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

    def begin(self, folder: Path) -> None:
        """Before long work in ``folder``: open MLflow, so that trouble is reported before the work.

        Work that an earlier process began there goes on in the MLflow run it was begun in.
        """
        with self.guarded():
            if not self.enabled:
                return
            file = folder / RUN_FILE
            if self._run_id is None and file.is_file():
                self._resumed = str(read_json(file)["run_id"])
            self._mlflow()
            if self._run_id is not None and not file.is_file():
                write_json(file, {"run_id": self._run_id})

    def _mlflow(self) -> Any:
        """MLflow with this run active; imported and started at the first call."""
        import mlflow

        if self._run_id is None:
            # MLflow announces every table of a new database.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            _check_store(self._project / "mlflow.db")
            mlflow.set_tracking_uri(f"sqlite:///{self._project / 'mlflow.db'}")
            experiment = mlflow.get_experiment_by_name(EXPERIMENT)
            identifier = (
                experiment.experiment_id
                if experiment
                else mlflow.create_experiment(EXPERIMENT, (self._project / "mlartifacts").as_uri())
            )
            _close_orphans(mlflow, identifier, but=self._resumed)
            tags = {**self._tags, "git": git_revision(self._project), _OWNER: _this_process()}
            if self._resumed is not None and _stands(mlflow, self._resumed):
                run = mlflow.start_run(run_id=self._resumed)
                mlflow.set_tags(tags)
            else:
                run = mlflow.start_run(experiment_id=identifier, run_name=self._name, tags=tags)
            self._run_id = run.info.run_id
            # What a run was begun with stays; MLflow changes no parameter.
            known = run.data.params
            flat = {key: str(value)[:6000] for key, value in flatten(self._params).items()}
            # MLflow takes at most 100 parameters per call and 6,000 characters per value.
            items = [(key, value) for key, value in flat.items() if key not in known]
            for start in range(0, len(items), 100):
                mlflow.log_params(dict(items[start : start + 100]))
            changed = [f"{k}={v}" for k, v in flat.items() if known.get(k, v) != v]
            if changed:
                mlflow.set_tag("resumed_with", ", ".join(changed)[:5000])
            _log.info("MLflow run %s%s (see it: mlflow ui --backend-store-uri sqlite:///mlflow.db)",
                      self._run_id[:8], " goes on" if known else "")  # fmt: skip
        return mlflow

    def reporter(self, name: str) -> Callable[[dict[str, Any]], None]:
        """A callable for the training loop: metrics of one evaluation, with their ``step``."""

        def report(row: dict[str, Any]) -> None:
            with self.guarded():
                if not self.enabled:
                    return
                self.reported_live.add(name)
                step = int(row.get("step", 0))
                self.metrics({f"{name}.{key}": v for key, v in row.items() if key != "step"}, step)

        return report

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log the numbers among ``values``."""
        numbers = {
            _plain(key): float(value)
            for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        }
        if self.enabled and numbers:
            self._mlflow().log_metrics(numbers, step=step)

    def history(self, name: str, file: Path, x: str = "step") -> None:
        """Log the columns of a CSV over its column ``x``, which counts as MLflow's step."""
        if not self.enabled or name in self.reported_live:
            return
        import csv

        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                numbers = {
                    f"{name}.{key}": float(value)
                    for key, value in row.items()
                    if key != x and value not in ("", None)
                }
                self.metrics(numbers, int(row[x]))

    def artifact(self, name: str, file: Path) -> None:
        """Keep a file with the run."""
        if self.enabled:
            self._mlflow().log_artifact(str(file), name)

    def model(self, folder: Path) -> None:
        """Keep the exported model in ``folder`` as one that ``mlflow.pyfunc.load_model`` loads."""
        if self.enabled:
            from hgnetv2_pipeline.project.deployment.logged_model import log_exported_model

            self._mlflow()
            _log.info("MLflow model %s", log_exported_model(folder))

    def hashes(self, name: str, manifest: Path) -> None:
        """Log what went into a result and what came out, by SHA-256."""
        if not self.enabled:
            return
        record = json.loads(manifest.read_text(encoding="utf-8"))
        tags = {f"{name}.in.{role}": digest for role, digest in record["inputs"].items()}
        tags |= {f"{name}.out.{file}": digest for file, digest in record["outputs"].items()}
        # A run folder can have thousands of outputs.
        self._mlflow().set_tags({_plain(key): value for key, value in list(tags.items())[:100]})

    def tag(self, name: str, value: str) -> None:
        """Say something of the run; MLflow takes at most 5,000 characters."""
        if self.enabled:
            self._mlflow().set_tag(_plain(name), value[:5000])

    def end(self, status: str) -> None:
        """Close the run with FINISHED, FAILED or KILLED, if one was started."""
        if self._run_id is not None:
            import mlflow

            self._run_id = None
            mlflow.end_run(status)


def _check_store(database: Path) -> None:
    """Raise what is wrong with the store: MLflow would try again and again for an hour."""
    with closing(sqlite3.connect(database, timeout=_LOCK_SECONDS)) as store:
        store.execute("select count(*) from sqlite_master").fetchone()
        store.execute("begin immediate")  # neither locked nor read-only
        store.rollback()


def _stands(mlflow: Any, run_id: str) -> bool:
    """Whether a run is there to be gone on with: its store may be another one than it was."""
    try:
        return bool(mlflow.get_run(run_id).info.lifecycle_stage == "active")
    except mlflow.exceptions.MlflowException:
        return False


def _close_orphans(mlflow: Any, experiment: str, *, but: str | None) -> None:
    """Close as KILLED what processes of this machine left RUNNING when they were killed."""
    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        owner = run.data.tags.get(_OWNER, "")
        if run.info.run_id != but and _is_gone(owner):
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
