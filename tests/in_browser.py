"""The one way in which tests drive a browser: a script of ``tests/browser`` in its own process.

Debian's Chromium, since Playwright's own builds are not in any registry of packages.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from project_copies import environment_python

SCRIPTS = Path(__file__).with_name("browser")


def run_in_browser(script: str, *words: object) -> list[Any]:
    """What ``tests/browser/<script>.py CHROMIUM WORDS...`` prints: one JSON value per line."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian's package chromium)")
    python = environment_python("playwright==1.64.*", "pypdfium2==5.*", "pillow==12.*")
    done = subprocess.run(
        [python, SCRIPTS / f"{script}.py", chromium, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
