"""SIGTERM and SIGINT as a request: what is in work ends whole, the state is saved, all resumes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hgnetv2_pipeline.errors import Interrupted

_log = logging.getLogger(__name__)


class StopRequest:
    """Whether someone asked the work to stop."""

    def __init__(self, first: Callable[[], None] | None = None) -> None:
        self._first = first
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is noted, the second ends the process at once."""
        if self.requested:
            # What is on disk is whole at any moment, so the code that says "resume me" is true.
            os._exit(Interrupted.exit_code)
        self.requested = True
        name = signal.Signals(number).name
        _log.warning("%s: saving and stopping; a second signal stops at once", name)
        if self._first is not None:
            self._first()


@contextmanager
def stop_on_signal(first: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Listen for SIGTERM and SIGINT while the body runs; earlier handlers come back after it.

    ``first`` is called at the first signal. Python lets only the main thread listen; in any other
    the request is never made.
    """
    stop = StopRequest(first)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop.receive) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
