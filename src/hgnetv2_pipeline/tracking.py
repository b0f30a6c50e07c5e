"""MLflow, lazily: a sqlite file in the project, no server, started by the first new number.

A run in which every result was reused starts nothing and does not pay MLflow's import (seconds).
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.pipelines.reuse import flatten

_log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run for one Kedro run; does nothing while ``enabled`` is false."""

    def __init__(self) -> None:
        self.enabled = False
        self._project = Path()
        self._name = ""
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._run_id: str | None = None
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
        self._run_id = None
        self.reported_live = set()

    def _mlflow(self) -> Any:
        """MLflow with this run active; imported and started at the first call."""
        import mlflow

        if self._run_id is None:
            # MLflow announces every table of a new database.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            mlflow.set_tracking_uri(f"sqlite:///{self._project / 'mlflow.db'}")
            experiment = mlflow.get_experiment_by_name("hgnetv2_pipeline")
            identifier = (
                experiment.experiment_id
                if experiment
                else mlflow.create_experiment(
                    "hgnetv2_pipeline", (self._project / "mlartifacts").as_uri()
                )
            )
            run = mlflow.start_run(
                experiment_id=identifier,
                run_name=self._name,
                tags={**self._tags, "git": git_revision(self._project)},
            )
            self._run_id = run.info.run_id
            flat = flatten(self._params)
            # MLflow takes at most 100 parameters a call and 6,000 characters a value.
            items = [(key, str(value)[:6000]) for key, value in flat.items()]
            for start in range(0, len(items), 100):
                mlflow.log_params(dict(items[start : start + 100]))
            _log.info("MLflow run %s (see it: mlflow ui --backend-store-uri sqlite:///mlflow.db)",
                      self._run_id[:8])  # fmt: skip
        return mlflow

    def reporter(self, name: str) -> Callable[[dict[str, Any]], None]:
        """A callable for the training loop: metrics of one evaluation, with their ``step``."""

        def report(row: dict[str, Any]) -> None:
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

            mlflow.end_run(status)
            self._run_id = None


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
