"""Shared memory, through which worker processes hand over their batches, and whether it suffices.

A container has 64 MB of it unless it is set otherwise: a few batches.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import DiskFullError

_log = logging.getLogger(__name__)

PLACE = Path("/dev/shm")  # noqa: S108 - asked about, not written to
# Batches of each worker that wait to be taken.
PREFETCH = 4
# Beside the batches: what the processes tell each other.
_MARGIN = 1.1
_warned: list[str] = []


@dataclass(frozen=True)
class Space:
    """Bytes of shared memory: in all, and free."""

    total: int
    free: int

    def __str__(self) -> str:
        return f"{PLACE} ({_text(self.total)}, {_text(self.free)} free)"


def space() -> Space | None:
    """The shared memory of this machine or container; None where the system does not say."""
    try:
        found = os.statvfs(PLACE)
    except (OSError, AttributeError):
        return None
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def needed(workers: int, nbytes: int) -> int:
    """Bytes that batches of ``nbytes`` each take at most, as they wait to be taken."""
    return int(_MARGIN * workers * PREFETCH * nbytes)


def shortage(workers: int, nbytes: int, found: Space | None) -> str:
    """What to do about the space ``found`` before the workers began, if their batches may not fit
    in; else ''.

    ``nbytes`` is the size of a batch, or of several where loaders work side by side.
    """
    if found is None or needed(workers, nbytes) <= found.free:
        return ""
    return (
        f"the batches of {workers} loader processes take up to {_text(needed(workers, nbytes))} "
        f"of shared memory, more than is free in {found}: {_remedies(workers, nbytes)}"
    )


def warn_if_short(workers: int, nbytes: int, found: Space | None) -> None:
    """Warn of a ``shortage``, once."""
    said = shortage(workers, nbytes, found)
    if said and not _warned:
        _warned.append(said)
        _log.warning("%s", said)


def full(workers: int, nbytes: int = 0) -> DiskFullError:
    """The error of a worker that could not hand over a batch of ``nbytes`` (0: not known)."""
    batch = f"a batch of {_text(nbytes)}" if nbytes else "the batches"
    return DiskFullError(
        f"shared memory is full: {space() or PLACE} has no room for {batch} of {workers} loader "
        f"processes: {_remedies(workers, nbytes)}"
    )


def _remedies(workers: int, nbytes: int) -> str:
    gigabytes = max(1, -(-2 * needed(workers, nbytes) // 10**9))
    return (
        f"start the container with --shm-size={gigabytes}g or --ipc=host, or lower the number of "
        f"workers (now {workers}; 0 needs none)"
    )


def _text(number: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number / 1000:.3g} kB"
