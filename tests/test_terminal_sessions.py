"""What ``kedro run`` shows on a terminal of 80 columns, and elsewhere: how many lines, how wide."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from hgnetv2_pipeline.commands.init import write_environment
from own_tree import write_classes
from project_copies import copy_project, quiet_environment

RUN = (
    "--env", "tiny", "--pipeline", "train", "--params",
    "mlflow=false,train.epochs=2,train.warmup_epochs=0,train.threads=1,train.workers=1",
)  # fmt: skip
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Session:
    """A command on a terminal: what came out, and the lines that are left to be read."""

    raw: str

    @property
    def lines(self) -> list[str]:
        """Without colours, and of a line that was written over (a bar) the last."""
        shown = (ESCAPE.sub("", line).rstrip("\r") for line in self.raw.split("\n"))
        return [line.rpartition("\r")[2].rstrip() for line in shown]


def on_terminal(command: list[str], folder: Path, **environment: str) -> Session:
    """Run ``command`` on a terminal of 80 columns and 24 lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {k: v for k, v in quiet_environment(**environment).items() if k != "COLUMNS"}
    found = b""
    with subprocess.Popen(
        command, cwd=folder, env=kept, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        while True:
            try:
                found += os.read(ours, 65536)
            except OSError:  # Linux says so that the other side is closed
                break
    os.close(ours)
    session = Session(found.decode())
    assert process.returncode == 0, session.raw
    return session


@dataclass(frozen=True)
class Sessions:
    project: Path
    first: Session
    again: list[str]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    """A short training on a terminal; then again, from a folder below and without a terminal."""
    base = tmp_path_factory.mktemp("terminal")
    write_classes(base / "labelled", ("ab", "cd"), per_class=10)
    project = copy_project(base / "project")
    write_environment(
        project, "tiny", labelled=base / "labelled", pool=None, test=None, variant=None
    )
    command = [sys.executable, "-m", "kedro", "run", *RUN]
    first = on_terminal(command, project, TERM="xterm")
    done = subprocess.run(
        command, cwd=project / "src" / "hgnetv2_pipeline", env=quiet_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    return Sessions(project, first, done.stdout.splitlines())


def test_a_run_shows_a_line_per_stage_and_where_its_details_are(sessions: Sessions) -> None:
    said = [line for line in sessions.first.lines if line]
    stages = [line.split() for line in said if line.startswith("✓")]
    assert [words[1] for words in stages] == ["ingestion", "train"]
    assert re.search(r" +\d[\d.]* (s|min).*   val \d+\.\d %, \d+ steps .*what next", " ".join(said))
    assert len([line for line in said if "details: " in line]) == 1
    assert len(said) <= 10, said
    assert max(map(len, said)) <= 80, said


def test_the_log_has_what_the_terminal_left_out(sessions: Sessions) -> None:
    (log,) = sorted(sessions.project.glob("data/08_reporting/tiny/logs/*.log"))[:1]
    text = log.read_text(encoding="utf-8")
    assert f"details: {log.relative_to(sessions.project)}" in sessions.first.raw
    for detail in ("Completed node: train.train", "parameter groups", "✓ train"):
        assert detail in text
    assert "parameter groups" not in sessions.first.raw


def test_ticks_are_coloured_and_bars_are_gone_at_the_end(sessions: Sessions) -> None:
    assert "\x1b[32m✓\x1b[0m" in sessions.first.raw
    assert "%|" in sessions.first.raw
    assert not [line for line in sessions.first.lines if "%|" in line]


def test_a_reused_run_is_a_line_from_any_folder_and_leaves_no_log(sessions: Sessions) -> None:
    # What Kedro says of its own logging before it reads anything of the project has no such time.
    (line,) = (line for line in sessions.again if re.match(r"\d\d:\d\d:\d\d ✓", line))
    assert re.fullmatch(r"\d\d:\d\d:\d\d ✓ reused: ingestion, train", line)
    assert len(sessions.again) <= 10, sessions.again
    assert len(list(sessions.project.glob("data/08_reporting/tiny/logs/*.log"))) == 1


def test_help_of_kedro_run_names_our_parameters_pipelines_and_environment(
    sessions: Sessions,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--help"], cwd=sessions.project,
        env=quiet_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "ssld_stage1, ssld_stage2, train" in " ".join(done.stdout.split())
    for told in ("\n  variant ", "\n  plan_only ", "latency.*", "sample unless"):
        assert told in done.stdout
    for hidden in ("ParallelRunner", "Defaults to `local`", "__supervised__"):
        assert hidden not in done.stdout
