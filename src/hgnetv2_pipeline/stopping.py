"""A signal as a request to stop: what is in work ends whole and is saved, and all resumes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hgnetv2_pipeline.errors import Interrupted

_log = logging.getLogger(__name__)

# A scheduler signals every process of a job, and those that started others pass theirs on: what
# comes so soon after the first is the same request.
ECHO_SECONDS = 3.0


class StopRequest:
    """Whether someone asked the work to stop."""

    def __init__(self, first: Callable[[], None] | None = None) -> None:
        self._first = first
        self.requested = False
        self._since = 0.0

    def __bool__(self) -> bool:
        return self.requested

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is noted, a second one ends the process at once."""
        if self.requested:
            if time.monotonic() - self._since < ECHO_SECONDS:
                return
            # What is on disk is whole at any moment, so the code that says "resume me" is true.
            os._exit(Interrupted.exit_code)
        self.requested, self._since = True, time.monotonic()
        name = signal.Signals(number).name
        _log.warning(
            "%s: saving and stopping; a second signal, %g s from now or later, stops at once",
            name, ECHO_SECONDS,
        )  # fmt: skip
        if self._first is not None:
            self._first()


def signals() -> list[signal.Signals]:
    """What asks for a stop: SIGTERM, SIGINT; unless this process was started to ignore them, as
    ``nohup`` does, also SIGUSR1, by which a batch system says that the time is nearly up, and
    SIGHUP, the end of a terminal.
    """
    perhaps = (signal.SIGUSR1, signal.SIGHUP)
    heard = [number for number in perhaps if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGTERM, signal.SIGINT, *heard]


@contextmanager
def stop_on_signal(first: Callable[[], None] | None = None) -> Iterator[StopRequest]:
    """Listen for ``signals()`` while the body runs; earlier handlers come back after it.

    ``first`` is called at the first signal. Python lets only the main thread listen; in any other
    the request is never made.
    """
    stop = StopRequest(first)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = signals()
    before = [signal.signal(number, stop.receive) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _AskedToStopError(BaseException):
    """As ``KeyboardInterrupt``: not an error of the image or the library that is just at work."""


@contextmanager
def interrupted_by_signal() -> Iterator[None]:
    """Raise ``Interrupted`` at the first of ``signals()``, wherever in the body it comes.

    For work that keeps nothing but what is whole on disk; what saves something first listens by
    ``stop_on_signal``, in the body. Only the main thread can listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise _AskedToStopError(signal.Signals(number).name)
        # A forked process, such as a loader's, ends as it would have without us.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.signal(number, stop) for number in signals()}
    try:
        yield
    except _AskedToStopError as asked:
        raise Interrupted(f"stopped by {asked}; the same command goes on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def when_starter_dies(act: Callable[[], object]) -> None:
    """Call ``act`` in a thread of this process, one of ``multiprocessing``, once the process that
    started it is gone.

    Of processes that a server forks, the parent that the kernel knows is the server, which lives as
    long as any of them: asked about that parent, they would outlive their starter for ever.
    """
    starter = multiprocessing.parent_process()
    if starter is None:
        return

    def wait() -> None:
        starter.join()
        act()

    threading.Thread(target=wait, name="starter", daemon=True).start()
