"""Commands that are killed, what they leave, and what a chain that was killed comes to."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hang_guard import wait_until
from other_process import tree
from project_copies import quiet_environment

# Clock times, logs, places, remembered hashes, and which code it was, which is no part of a result.
NOT_COMPARED = (
    "timing.json", ".log", ".sqlite", "spec.json", "specs/", "processes/", ".png",
    "made_by.json",
    # What is measured in time, dated, or names files where they are.
    "/latency/", "/history/", "/prediction/", "/report/", "/checkpoints/",
)  # fmt: skip


def results(project: Path) -> dict[str, bytes]:
    """What a run made, byte for byte, apart from times and places."""
    return {
        name: content
        for name, content in tree(project / "data").items()
        if not any(part in name for part in NOT_COMPARED)
    }


def started(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--verbose", *arguments],
        cwd=project, env=quiet_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def held(project: Path) -> list[Path]:
    return sorted((project / "data").resolve().rglob(".*.lock"))


def left(project: Path) -> list[str]:
    """What no finished run leaves: locks, temporary files, partial folders, marks."""
    return [
        path.name
        for path in sorted((project / "data").resolve().rglob("*"))
        if path.name.endswith((".lock", ".tmp"))
        or path.name.startswith(".partial-")
        or path.name == "in_progress.json"
    ]


def processes_of(project: Path) -> list[int]:
    """Processes that were started in the project and live."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            there = entry.name.isdecimal() and (entry / "cwd").readlink() == project.resolve()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if there else "Z"
        except OSError:
            continue
        if state not in "ZX":
            found.append(int(entry.name))
    return found


def kill_again_and_again(
    project: Path, *arguments: str, seconds: Mapping[str, float], kills: int, seed: int
) -> list[str]:
    """``kedro run ARGUMENTS``, killed at random moments of nodes that take ``seconds``.

    With at least as many kills as nodes there is one inside each. Returns the nodes in which one
    met the command at work.
    """
    rng = random.Random(seed)  # noqa: S311
    nodes = list(seconds)
    stages = sorted(rng.choices(nodes, k=max(0, kills - len(nodes))) + nodes, key=nodes.index)
    if kills < len(nodes):
        # Those that take longest are where a kill finds most to spoil.
        longest = sorted(nodes, key=lambda node: -seconds[node])[: 2 * kills]
        stages = sorted(rng.sample(longest, k=kills), key=nodes.index)
    inside = []
    for stage in stages:
        process = started(project, *arguments)
        assert process.stdout is not None
        before = nodes[nodes.index(stage) - 1] if stage != nodes[0] else None
        said = []
        for line in process.stdout:
            said.append(line)
            if before is None or f"Completed node: {before}" in line:
                break
        time.sleep(rng.uniform(0, 0.7 * seconds[stage]))
        process.kill()
        said += list(process.stdout)
        process.wait()
        if process.returncode == -signal.SIGKILL:
            inside.append(stage)
        assert process.returncode in (-signal.SIGKILL, 0), "".join(said)
        wait_until(lambda: not processes_of(project), "what it had started has ended without it")
    return inside
