"""What goes wrong, as exceptions: each names what was given, what is allowed and where to set it.

Every exception carries the exit code with which ``kedro run`` and ``hgnetv2`` end:
0 ok, 2 bad parameters, 3 bad data, 4 bad weights, 28 disk full, 75 stopped and resumable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(ValueError):
    """A list, an image or a folder of images cannot be used."""

    exit_code = 3


class WeightsError(ValueError):
    """A weight file is missing, damaged, hostile or belongs to another network."""

    exit_code = 4


class DiskFullError(OSError):
    """The disk filled up while a result was being written; the earlier result is kept."""

    exit_code = 28


class Interrupted(Exception):  # noqa: N818 - a request that was obeyed, not an error
    """The run was asked to stop (SIGTERM, SIGINT, SIGUSR1), saved its state and can be resumed."""

    exit_code = 75


def unknown_name(kind: str, given: object, allowed: Iterable[str], where: str) -> ParameterError:
    """The error for a name outside a closed set: names it, the nearest, all allowed, and the place.

    >>> str(unknown_name("variant", "b9", ["b0", "b4"], "--params variant=..."))
    "unknown variant 'b9'; choose one of b0, b4 (--params variant=...)"
    """
    names = list(allowed)
    return ParameterError(
        f"unknown {kind} {given!r}{nearest(given, names)}; choose one of {', '.join(names)} "
        f"({where})"
    )


def nearest(given: object, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the name most like ``given``; empty where none is like it."""
    near = difflib.get_close_matches(str(given), list(names), n=1)
    # For two-letter names such as b9 the nearest is no help: every one is near.
    return f" (did you mean '{near[0]}'?)" if near and len(str(given)) > 2 else ""


class PlanPrinted(Exception):  # noqa: N818 - what was asked for, not an error
    """``plan_only=true``: the plan was printed and nothing was done."""

    exit_code = 0
