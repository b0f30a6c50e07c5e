"""What goes wrong, as exceptions: each names what was given, what is allowed and where to set it.

Every exception carries the exit code with which ``kedro run`` and ``hgnetv2`` end:
0 ok, 2 bad parameters, 3 bad data, 4 bad weights, 28 disk full, 75 stopped and resumable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_MOST_OF_IT = 0.75  # of the letters of a name, one after another


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


MOST_LISTED = 20  # names in one message; of more the nearest are enough


def unknown_name(
    kind: str, given: object, allowed: Iterable[str], where: str, *, meant: str | None = None
) -> ParameterError:
    """The error for a name outside a closed set: names it, the nearest, what is allowed, and where.

    All names, or of more than ``MOST_LISTED`` the three nearest; ``where`` is to say then how to
    see them all. ``meant``: the nearest by meaning, where the caller knows it.

    >>> str(unknown_name("variant", "b9", ["b0", "b4"], "--params variant=..."))
    "unknown variant 'b9'; choose one of b0, b4 (--params variant=...)"
    """
    names = list(allowed)
    if len(names) > MOST_LISTED:
        near = [meant] if meant else similar(given, names, most=3)
        words = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        return ParameterError(f"unknown {kind} {given!r}{words}; {len(names)} are known ({where})")
    words = f" (did you mean {meant!r}?)" if meant else nearest(given, names)
    return ParameterError(
        f"unknown {kind} {given!r}{words}; choose one of {', '.join(names)} ({where})"
    )


def nearest(given: object, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the name most like ``given``; empty where none is like it."""
    near = similar(given, list(names))
    # For two-letter names such as b9 the nearest is no help: every one is near.
    return f" (did you mean {near[0]!r}?)" if near and len(str(given)) > 2 else ""


def similar(given: object, names: Sequence[str], most: int = 1) -> list[str]:
    """At most ``most`` of ``names`` that are like ``given``, or hold most of it, the best first.

    >>> similar("sssld", ["mining", "ssld_stage1"]), similar("b0", ["b1.ssld", "scratch:b0"])
    (['ssld_stage1'], ['scratch:b0'])
    """
    text = str(given).lower()
    found = difflib.get_close_matches(text, names, n=most)

    def held(name: str) -> float:
        matcher = difflib.SequenceMatcher(a=text, b=name.lower(), autojunk=False)
        return matcher.find_longest_match().size / max(len(text), 1)

    rest = [(-held(name), number) for number, name in enumerate(names) if name not in found]
    found += [names[number] for share, number in sorted(rest) if share <= -_MOST_OF_IT]
    return found[:most]


class PlanPrinted(Exception):  # noqa: N818 - what was asked for, not an error
    """``plan_only=true``: the plan was printed and nothing was done."""

    exit_code = 0
