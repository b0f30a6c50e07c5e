"""Regular expressions of a user on the keys of images: checked, and never at work for ever."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from hgnetv2_pipeline.errors import ParameterError

LONGEST_PATTERN = 1000
SECONDS_A_KEY = 5.0
"""A key takes microseconds; an expression such as ``(a+)+$`` can take years on a long one."""


def compile_pattern(pattern: str, setting: str) -> re.Pattern[str]:
    """The expression; ParameterError naming ``setting`` if it is none, or too long."""
    if len(pattern) > LONGEST_PATTERN:
        raise ParameterError(
            f"{setting}: {len(pattern):,} characters; {LONGEST_PATTERN:,} are allowed"
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ParameterError(f"{setting}: {pattern!r} is no regular expression: {error}") from error


def find_matches(pattern: str, keys: Sequence[str], setting: str) -> list[re.Match[str] | None]:
    """Where ``pattern`` is found in each key; None where it is not.

    ParameterError if one key takes longer than ``SECONDS_A_KEY`` (twice that at most). Only the
    main thread can watch the time; elsewhere there is no limit.
    """
    compiled = compile_pattern(pattern, setting)
    found: list[re.Match[str] | None] = []
    with _watched(found, keys, f"{setting}: {pattern!r}"):
        for key in keys:
            found.append(compiled.search(key))
    return found


@contextmanager
def _watched(found: list[re.Match[str] | None], keys: Sequence[str], what: str) -> Iterator[None]:
    """Interrupt the body where ``found`` has grown by nothing from one tick to the next."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = -1

    def look(_number: int, _frame: FrameType | None) -> None:
        nonlocal before
        if len(found) == before:
            raise ParameterError(
                f"{what} takes longer than {SECONDS_A_KEY:g} s on {keys[before]!r}; write it "
                "without a repetition inside a repetition"
            )
        before = len(found)

    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_A_KEY, SECONDS_A_KEY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
