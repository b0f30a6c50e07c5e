"""docs/first_hour.md: every command as it is written, in its order, in a copy of the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from doc_pages import blocks
from project_copies import ROOT, copy_project, quiet_environment

pytestmark = pytest.mark.slow

# These answer on a port of this machine until they are ended.
SERVERS = {
    "mlflow ui --backend-store-uri sqlite:///mlflow.db": "http://127.0.0.1:5000/",
    "hgnetv2 review": None,
    "hgnetv2 serve data/07_model_output/sample/best/b0/seed=0": "http://127.0.0.1:8000/v2/health/ready",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("first_hour") / "project")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder)]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    return folder


def environment(project: Path) -> dict[str, str]:
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**quiet_environment(), "PATH": path, "PYTHONPATH": str(project / "src")}


def split(block: str) -> tuple[str, list[str]]:
    """The lines of a block that end by themselves, and the servers among them."""
    lines = block.splitlines()
    return "\n".join(line for line in lines if line not in SERVERS), [
        line for line in lines if line in SERVERS
    ]


def test_every_step_works_as_it_is_written(project: Path) -> None:
    first, *steps = blocks(ROOT / "docs" / "first_hour.md", "sh", "python")
    assert first.startswith("make install")
    assert len(steps) == 14
    for step in steps:
        if step.startswith("from "):
            subprocess.run([sys.executable, "-c", step], cwd=project, check=True)
            continue
        commands, servers = split(step)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=project, env=environment(project), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        for command in servers:
            answers(command, project)


def answers(command: str, project: Path) -> None:
    """Start a server, see it answer, and end it."""
    log = project / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command.split(), cwd=project, env=environment(project), stdout=out, stderr=out
        )
        try:
            address = SERVERS[command]
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                address = address or next(iter(re.findall(r"http://\S+", log.read_text())), None)
                if address and is_there(address):
                    return
                time.sleep(0.2)
            pytest.fail(f"{command} does not answer at {address}: {log.read_text()[-2000:]}")
        finally:
            server.terminate()
            server.wait(60)


def is_there(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def test_what_the_page_names_is_there(project: Path) -> None:
    """After the steps: the files that the page says to open."""
    named = re.findall(r"`(data/08_reporting/\S+?)`", (ROOT / "docs/first_hour.md").read_text())
    assert len(named) >= 2
    for name in named:
        assert (project / name).exists(), name
