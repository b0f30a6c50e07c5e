"""Disks of a test's own: small, without room for names, or read-only.

They are in a mount namespace of one process. That needs the right to mount (root, or user
namespaces): without it the tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PRIVATE = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
_READ_ONLY, _REMOUNT = 1, 1 << 5
_REFUSED = 77


def own_mounts() -> str | None:
    """Give this process mounts of its own; why it cannot, or None."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = 0x00020000 | (0x10000000 if os.geteuid() else 0)  # of mounts, of users
    if libc.unshare(namespaces) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        return os.strerror(ctypes.get_errno())
    return None


def mount(folder: Path, options: str) -> str | None:
    """An empty disk in memory on ``folder``, such as ``size=1m`` or ``nr_inodes=8``; or why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(parents=True, exist_ok=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options.encode()):
        return os.strerror(ctypes.get_errno())
    return None


def read_only(folder: Path) -> None:
    """The disk on ``folder`` takes nothing from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _REMOUNT | _READ_ONLY, None):
        raise OSError(ctypes.get_errno(), "remount")


def fill(folder: Path, leave: int) -> Path:
    """A file beside ``folder``'s others that leaves ``leave`` bytes free."""
    filler = folder / ".filler"
    filler.unlink(missing_ok=True)
    block = b"\0" * 4096
    with filler.open("wb", buffering=0) as file:
        for _ in range((os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave) // 4096):
            file.write(block)
    return filler


def on_own_disk(program: str, *arguments: object, timeout: float = 300) -> str:
    """What ``program`` prints, run as a process of its own that may mount; skips where none may.

    The program finds this module's functions, ``Path`` and ``sys`` imported.
    """
    start = (
        "import sys; from pathlib import Path; from small_disk import *; from small_disk import "
        "_REFUSED\nif why := own_mounts():\n    print(why)\n    sys.exit(_REFUSED)\n"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", start + program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode == _REFUSED:
        pytest.skip(f"this system lets tests mount nothing: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
