"""A request to stop (SIGTERM, SIGINT), noticed between two batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """True once the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def watch_for_stop() -> Iterator[StopRequest]:
    """Inside, SIGTERM and SIGINT only raise a flag; afterwards the former handlers are back.

    Signals reach Python in the main thread alone; elsewhere the flag simply stays down.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
