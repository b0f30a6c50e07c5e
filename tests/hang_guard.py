"""Waiting in tests. The limit is reached by a hang alone, never by a slow machine: no speed is
judged by it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

HANG = 600.0
"""Seconds: ten times and more what any single wait takes on a busy machine with two slow cores."""


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Return as soon as ``happened()``; fail, naming ``what``, when it hangs."""
    deadline = time.monotonic() + HANG
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"after {HANG:g} s still not so: {what}")
        time.sleep(0.02)


@contextmanager
def ends(what: str) -> Iterator[None]:
    """Break off with a failure, naming ``what``, where the block hangs.

    pytest's failure is no ``Exception``, so the code under test cannot take it for an error of its
    own.
    """

    def late(*_: object) -> None:
        pytest.fail(f"after {HANG:g} s not at an end: {what}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
