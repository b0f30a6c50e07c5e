"""docs/first_hour.md: every command as it is written, in its order, in a copy of the project."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from doc_pages import blocks
from project_copies import ROOT, copy_project, quiet_environment

pytestmark = pytest.mark.slow

# Ctrl-C is pressed once this shows its progress; then it is given again.
STOPPED = "kedro run --pipeline ssld_stage1 --params run=again,ssld_stage1.steps=400"
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
        if step == STOPPED:
            stop(step, project)
        commands, servers = split(step)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=project, env=environment(project), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if step == STOPPED:
            assert "resumed after step" in done.stderr
        for command in servers:
            answers(command, project)
    assert "✓ ingestion" in done.stderr, "the images that were added are not seen"


def stop(command: str, project: Path) -> None:
    """Start a training, press Ctrl-C while it runs, and see it save its state."""
    said = ""
    with subprocess.Popen(
        command.split(), cwd=project, env=environment(project), stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            said += line
            if "training: " in line and running.poll() is None and "SIGINT" not in said:
                running.send_signal(signal.SIGINT)
    assert (running.returncode, "the same command resumes it" in said) == (75, True), said


def answers(command: str, project: Path) -> None:
    """Start a server, see it answer, and end it."""
    log = project / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command.split(), cwd=project, env=environment(project), stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
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
            end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started: MLflow's page is a process of its own."""
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_there(address: str) -> bool:
    # hgnetv2 review hands out a cookie for the token of its address.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    try:
        with browser.open(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def test_what_the_page_names_is_there(project: Path) -> None:
    """After the steps: the files that the page says to open."""
    named = re.findall(r"`(data/08_reporting/\S+?)`", (ROOT / "docs/first_hour.md").read_text())
    assert len(named) >= 2
    for name in named:
        assert (project / name).exists(), name
    (pictures,) = [project / name for name in named if name.endswith("mistakes.csv")]
    kinds = ("picture", "map", "nearest")
    assert all((pictures.parent / "mistakes" / f"01-{kind}.jpg").exists() for kind in kinds)
