"""SIGTERM and SIGINT as a request: the step ends, the state is saved, the run can be resumed."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hgnetv2_pipeline.errors import Interrupted

_log = logging.getLogger(__name__)


class StopRequest:
    """Whether someone asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is noted, the second ends the process at once."""
        if self.requested:
            # The newest checkpoint on disk is whole, so the code that says "resume me" is true.
            os._exit(Interrupted.exit_code)
        self.requested = True
        name = signal.Signals(number).name
        _log.warning("%s: saving after this step; a second signal stops at once", name)


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Listen for SIGTERM and SIGINT while the body runs; earlier handlers come back after it.

    Python lets only the main thread listen; in any other the request is never made.
    """
    stop = StopRequest()
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
