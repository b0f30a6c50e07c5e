"""What a person at a terminal sees of long work: a bar with rate and ETA, few lines, in colour;
where there is no terminal, plain lines at sensible intervals."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")
_log = logging.getLogger(__name__)

SHOWN = 25
"""Level of records that are shown without ``--verbose``: above INFO, which is for details."""
TICK = "✓"
_MOST_SECONDS = 300.0  # between two lines of the same work
_COLOURS = {TICK: "\x1b[32m", "warning:": "\x1b[33m", "error:": "\x1b[31m"}

logging.addLevelName(SHOWN, "NOTICE")


def columns() -> int:
    """The width of the terminal; 80 where there is none and COLUMNS is not set."""
    return shutil.get_terminal_size((80, 24)).columns


def in_colour(stream: Any) -> bool:
    """Whether ``stream`` is a terminal that shows colours, and NO_COLOR is not set."""
    dumb = os.environ.get("TERM") == "dumb"
    return bool(stream.isatty()) and not dumb and not os.environ.get("NO_COLOR")


def duration(seconds: float) -> str:
    """For people: ``3 h 20 min``, ``4 min 5 s``, ``41 s`` or ``0.3 s``.

    >>> duration(12000), duration(245), duration(41.2), duration(0.31)
    ('3 h 20 min', '4 min 5 s', '41 s', '0.3 s')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rate(count: float, seconds: float, unit: str) -> str:
    """How fast: units per second, and of what takes longer than that seconds per unit.

    >>> rate(30, 10, "img"), rate(2, 174, "run")
    ('3.0 img/s', '87 s per run')
    """
    if not count or not seconds:
        return f"0 {unit} so far"
    if count >= seconds:
        return f"{count / seconds:,.1f} {unit}/s"
    return f"{duration(seconds / count)} per {unit}"


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Log records for a person: above the bar, on a terminal wrapped to its width and in colour,
    elsewhere with the time; with ``verbose`` as the formatter of ``logging.yml`` writes them."""

    verbose = False
    dated = True
    """Whether lines have the time where there is no terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record where no bar is."""
        bars = sys.modules.get("tqdm")
        with bars.tqdm.external_write_mode(self.stream) if bars else nullcontext():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record; see the class."""
        if self.verbose:
            return super().format(record)
        label = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = label + logging.Formatter().format(record)
        if not self.stream.isatty():
            if not self.dated:
                return text
            return time.strftime("%H:%M:%S ", time.localtime(record.created)) + text
        text = fitted(text, columns())
        if "utf" not in (self.stream.encoding or "").lower():
            return text.replace(TICK, "+")
        for sign, colour in _COLOURS.items() if in_colour(self.stream) else ():
            if text.startswith(sign):
                text = f"{colour}{sign}\x1b[0m{text.removeprefix(sign)}"
        return text


def fitted(text: str, width: int) -> str:
    """``text`` with lines that are wider than ``width`` broken between words.

    What is indented by four spaces is a command to be copied, and stays whole.
    """
    return "\n".join(
        line
        if len(line) <= width or line.startswith("    ")
        else textwrap.fill(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in text.split("\n")
    )


class Progress:
    """Counts work done; use ``track`` for plain loops.

    On a terminal it is a tqdm bar, of many processes of one run (RANK) the first one's. Elsewhere,
    and where tqdm is not installed, it logs a line after ``log_seconds``, then at intervals that
    grow with the time so far, five minutes at most, and nothing for work that ends sooner.
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
        if now - self._logged >= self._log_seconds and self.done < self.total:
            self._logged, new = now, self.done - self._first
            passed = now - self._began
            self._log_seconds = max(self._log_seconds, min(passed / 10, _MOST_SECONDS))
            _log.log(
                SHOWN,
                "%s: %s of %s, %s, about %s left%s",
                self.what, f"{self.done:,}", f"{self.total:,}",
                rate(new, passed, self.unit),
                duration((self.total - self.done) * passed / new) if new else "?",
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
