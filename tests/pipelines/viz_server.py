"""``kedro viz run`` as a user starts it, on a free port of this machine."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from hang_guard import wait_until
from project_copies import NETWORK_LOG, quiet_environment


def _free_port() -> int:
    """Kedro-Viz takes none of those that a system gives to whoever asks for any."""
    while True:
        port = random.randrange(20_000, 40_000)
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port


@contextmanager
def viz_server(project: Path, log: Path) -> Iterator[str]:
    """The address of a server that is up; what it printed is in ``log``."""
    port = _free_port()
    words = ["viz", "run", "--no-browser", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "kedro", *words], cwd=project, env=quiet_environment(),
            stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: "Kedro Viz is running" in log.read_text() or process.poll() is not None,
            "kedro viz run is up",
        )
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    assert not NETWORK_LOG.exists(), NETWORK_LOG.read_text(encoding="utf-8")


def asked(address: str) -> Any:
    """What the server answers to ``GET address``, as JSON."""
    with urlopen(address) as answer:  # noqa: S310
        return json.load(answer)
