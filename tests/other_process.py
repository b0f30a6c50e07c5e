"""A process beside that of the test, and what is in a folder apart from locks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def tree(root: Path) -> dict[str, bytes]:
    """All files below ``root`` but the locks."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


@contextmanager
def other(body: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has run ``body`` and now waits for its end; killed at the end."""
    program = (
        "import os, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from hgnetv2_pipeline import ownership\n"
        f"{textwrap.dedent(body)}\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()
