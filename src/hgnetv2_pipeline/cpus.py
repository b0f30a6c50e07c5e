"""How many processors this process may use: a batch system, a container or ``taskset`` may leave it
a few of a big machine's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

MOST_THREADS = 1024
"""More threads of one process, or processes side by side, are a slip of the finger."""


def available_cpus(root: Path = Path("/")) -> int:
    """The processors of this process: those of its affinity (``taskset``, a cpuset, ``srun -c``),
    and no more than its cgroup's share of time (``docker --cpus``, a Kubernetes limit), rounded up.

    At least 1. ``root`` is where ``proc`` and ``sys`` are.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(share) for share in _shares(root))]))


def restricted_cpus() -> int | None:
    """``available_cpus`` where they are fewer than the machine has, else None.

    For libraries that count the machine's by themselves, and rightly where it is all ours.
    """
    count = available_cpus()
    return count if count < (os.cpu_count() or 1) else None


def _shares(root: Path) -> Iterator[float]:
    """CPU seconds per second that the cgroups of this process, and those around them, may use."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _limits(root / "sys/fs/cgroup", path, _quota_v2)
            elif "cpu" in controllers.split(","):
                for name in {controllers, "cpu"}:
                    yield from _limits(root / "sys/fs/cgroup" / name, path, _quota_v1)


def _limits(mount: Path, path: str, quota: Callable[[Path], tuple[int, int]]) -> Iterator[float]:
    # A container may see its own group as the root of the mount, whatever its path says.
    inner = mount / path.strip("/")
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(mount) and ".." not in folder.parts:
            with suppress(OSError, ValueError):
                allowed, period = quota(folder)
                if allowed > 0 and period > 0:
                    yield allowed / period


def _quota_v2(folder: Path) -> tuple[int, int]:
    """Microseconds allowed of microseconds; ValueError for ``max``."""
    allowed, period = (folder / "cpu.max").read_text().split()
    return int(allowed), int(period)


def _quota_v1(folder: Path) -> tuple[int, int]:
    """The same; -1 allowed is no limit."""
    allowed = int((folder / "cpu.cfs_quota_us").read_text())
    return allowed, int((folder / "cpu.cfs_period_us").read_text())
