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
from pathlib import Path

import pytest

from project_copies import SampleRun, copy_project, quiet_environment

SAMPLE_LIMIT = 900.0

os.environ.setdefault("OMP_NUM_THREADS", "1")

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
