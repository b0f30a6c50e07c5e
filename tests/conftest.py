"""What several test files share: a copy of the project, and the one run of the embedded sample.

The sample run is started in a process of its own as soon as it is known that a test needs it, so
that it works beside the other tests. Where none of these is marked ``slow`` it has fewer further
trainings and timed calls (``shorten``): they are most of its time. ``make test`` deals the test
files to two workers (xdist); all tests marked ``sample`` go to one of them, when the run is about
to be finished.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from project_copies import SampleRun, copy_project, quiet_environment, shorten

SAMPLE_LIMIT = 3600.0  # which only a hang reaches
# Workers inherit the environment of the process that starts them.
SHARED = "HGNETV2_TEST_SAMPLE"

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes are started: none but the first need compile the sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# hypothesis takes the time as well, and fails tests on a busy machine.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    if not _is_worker(config):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="hgnetv2-sample-")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays with one worker, since its tests share what was costly to make.

    The files of the sample run stay together. xdist's own groups do not work with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "sample" if Path(file).name.startswith("test_sample_run") else file

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("sample")]
    others = [item for item in items if item not in set(marked)]
    # Alone, they come last; with workers, so that the other has enough left to do meanwhile.
    place = len(others) * 11 // 20 if _is_worker(config) else len(others)
    while 0 < place < len(others) and others[place].path == others[place - 1].path:
        place += 1
    items[:] = others[:place] + marked + others[place:]


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = [item for item in session.items if item.get_closest_marker("sample")]
    worker = getattr(session.config, "workerinput", {"workerid": "gw0"})["workerid"]
    if wanted and worker == "gw0" and not session.config.option.collectonly:
        shared = Path(os.environ[SHARED])
        project = copy_project(shared / "project")
        if not any(item.get_closest_marker("slow") for item in wanted):
            shorten(project)
        done = 'echo $? > "$1/code.new" && mv "$1/code.new" "$1/code"'
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'"$0" -m kedro run -v > run.log 2>&1; {done}',
                sys.executable,
                str(shared),
            ],
            cwd=project,
            env=quiet_environment(),
            start_new_session=True,
        )
        (shared / "group").write_text(str(process.pid))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _is_worker(config):
        shared = Path(os.environ[SHARED])
        group = shared / "group"
        if group.is_file() and not (shared / "code").is_file():
            with suppress(ProcessLookupError):
                os.killpg(int(group.read_text()), signal.SIGTERM)
            for _ in range(600):
                if (shared / "code").is_file():
                    break
                time.sleep(0.1)
        shutil.rmtree(shared, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Tensors drawn without a seed are the same in every run; moments of kills are not."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def sample_run() -> SampleRun:
    """The finished run of the embedded sample."""
    shared = Path(os.environ[SHARED])
    until = time.monotonic() + SAMPLE_LIMIT
    while not (shared / "code").is_file() and time.monotonic() < until:
        time.sleep(0.2)
    output = (shared / "project" / "run.log").read_text(encoding="utf-8")
    assert (shared / "code").is_file(), f"not finished in {SAMPLE_LIMIT} s:\n{output[-6000:]}"
    assert (shared / "code").read_text().strip() == "0", output[-6000:]
    return SampleRun(shared / "project", output)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A fresh copy of the project."""
    yield copy_project(tmp_path / "project")
