"""Progress of long work: a bar with rate and ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")
_log = logging.getLogger(__name__)


class Progress:
    """Counts work done; use ``track`` for plain loops.

    On a terminal it is a tqdm bar, of many processes of one run (RANK) the first one's. Elsewhere,
    and where tqdm is not installed, it logs one line at most every ``log_seconds``, and nothing
    for work that ends sooner.
    """

    def __init__(
        self, total: int, what: str, unit: str = "it", done: int = 0, log_seconds: float = 15.0
    ) -> None:
        self.total, self.what, self.unit = total, what, unit
        self.done, self._first = done, done
        self._log_seconds = log_seconds
        self._began = self._logged = time.monotonic()
        self._bar = None
        first = os.environ.get("RANK", "0") == "0"
        if sys.stderr.isatty() and first and find_spec("tqdm"):
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=total, desc=what, unit=unit, initial=done, dynamic_ncols=True, leave=False
            )

    def advance(self, count: int = 1, note: str = "") -> None:
        """Record ``count`` more units done; ``note`` is shown beside (a loss, a file name)."""
        self.done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._logged >= self._log_seconds:
            self._logged = now
            rate = (self.done - self._first) / (now - self._began)
            left = (self.total - self.done) / rate if rate else 0.0
            _log.info(
                "%s: %d/%d %s, %.1f %s/s, about %d s left%s",
                self.what, self.done, self.total, self.unit, rate, self.unit, left,
                f", {note}" if note else "",
            )  # fmt: skip

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def track(items: Iterable[Item], total: int, what: str, unit: str = "it") -> Iterator[Item]:
    """Iterate over ``items``, showing progress."""
    with Progress(total, what, unit) as progress:
        for item in items:
            yield item
            progress.advance()
