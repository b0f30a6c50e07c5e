"""A limit of time for calls of a runtime that knows how to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

A_CALL, AN_IMAGE = 60.0, 10.0
"""Seconds that a call may take, and more for each image: a hundred times what the largest network
needs on one slow core, and an end all the same."""
_TICK = 0.5


class Stoppable(Protocol):
    """``onnxruntime.RunOptions``: the run ends at its next operator once ``terminate`` is set."""

    terminate: bool


@dataclass
class Limit:
    """A call under way; ``passed`` once it was asked to stop."""

    options: Stoppable
    until: float
    passed: bool = False


_watched: dict[int, Limit] = {}
_lock = threading.Lock()
_thread: threading.Thread | None = None


@contextmanager
def time_limit(options: Stoppable, seconds: float) -> Iterator[Limit]:
    """Set ``options.terminate`` if the body takes longer than ``seconds``, give or take a tick."""
    global _thread
    limit = Limit(options, time.monotonic() + seconds)
    with _lock:
        _watched[id(limit)] = limit
        if _thread is None or not _thread.is_alive():  # nor does it outlive a fork
            _thread = threading.Thread(target=_watch, name="time limit", daemon=True)
            _thread.start()
    try:
        yield limit
    finally:
        with _lock:
            del _watched[id(limit)]


def _watch() -> None:
    """Look at the calls under way; end when there is none: an idle process needs no thread."""
    global _thread
    while True:
        time.sleep(_TICK)
        now = time.monotonic()
        with _lock:
            for limit in _watched.values():
                if now > limit.until:
                    limit.options.terminate = limit.passed = True
            if not _watched:
                _thread = None
                return
