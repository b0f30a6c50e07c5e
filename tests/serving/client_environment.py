"""Environments of their own for clients whose packages conflict with the locked ones.

python tests/serving/client_environment.py 'tritonclient[http,grpc]'     prints its python
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def client_python(*packages: str) -> Path:
    """The interpreter of an environment with ``packages``, made where it is not there yet.

    It is in ``build/environments`` of the project, which git ignores.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(packages)).strip("-")
    folder = ROOT / "build" / "environments" / name
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists():
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        whole.touch()
    return python


if __name__ == "__main__":
    print(client_python(*sys.argv[1:]))
