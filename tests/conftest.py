"""What several test files share: a copy of the project, and the one run of the embedded sample.

The sample run is started in a process of its own as soon as it is known that a test needs it, so
that it works on one core while the other tests use the other; tests marked ``sample`` come last.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE_LIMIT = 900.0

os.environ.setdefault("OMP_NUM_THREADS", "1")


def copy_project(target: Path) -> Path:
    """A copy of the project without data and environment, to run pipelines in."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("conf", "src", ".dvc"):
        shutil.copytree(
            ROOT / name,
            target / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp", "local.*"),
        )
    for name in ("pyproject.toml", "dvc.yaml", "dvc.lock", ".dvcignore", ".telemetry"):
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, target / name)
    return target


def kedro(
    project: Path, *arguments: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``kedro ARGUMENTS`` in ``project`` and return what it printed (both streams)."""
    done = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project,
        env=quiet_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"kedro {' '.join(arguments)}:\n{done.stdout[-4000:]}"
    return done


def quiet_environment(**more: str) -> dict[str, str]:
    """The environment for a process of a user who has set nothing."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEDRO_", "MLFLOW_"))}
    return {**kept, "DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true", **more}


@dataclass
class SampleRun:
    """The embedded sample after one ``kedro run``: its project, what was printed, how long."""

    project: Path
    output: str
    seconds: float

    def data(self, *parts: str) -> Path:
        """A path below ``data/``."""
        return self.project.joinpath("data", *parts)


_running: dict[str, tuple[subprocess.Popen[bytes], Path, float]] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("sample")]
    items[:] = [item for item in items if item not in marked] + marked


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(item.get_closest_marker("sample") for item in session.items)
    if wanted and not session.config.option.collectonly:
        import tempfile

        project = copy_project(Path(tempfile.mkdtemp(prefix="hgnetv2-sample-")) / "project")
        log = (project / "run.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "kedro", "run"],
            cwd=project,
            env=quiet_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        _running["sample"] = (process, project, time.monotonic())


def pytest_sessionfinish() -> None:
    if "sample" in _running:
        process, project, _ = _running.pop("sample")
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        shutil.rmtree(project.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def sample_run() -> SampleRun:
    """The finished run of the embedded sample."""
    process, project, began = _running["sample"]
    process.wait(SAMPLE_LIMIT)
    output = (project / "run.log").read_text(encoding="utf-8")
    assert process.returncode == 0, output[-6000:]
    return SampleRun(project, output, time.monotonic() - began)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A fresh copy of the project."""
    yield copy_project(tmp_path / "project")
