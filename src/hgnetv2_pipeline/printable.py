"""Text of others - names of files and classes, metadata, messages of libraries - as a person may
safely see it: on a terminal, in a log, in a CSV, on a page.

A file may be called anything, and a model's metadata may say anything: move the cursor, retitle the
window, end the line and forge the next one, swap the order of the letters, or start a formula in a
spreadsheet. What is not printable is shown as Python's escape of it (``\\x1b``, ``\\u202e``). Shown
twice is shown once, so that every door can ask for it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import numbers
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONGEST_SHOWN = 200
"""Characters that ``shorten`` leaves of one text."""

# Full-width signs start a formula too where the spreadsheet speaks Japanese or Chinese.
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_PERHAPS_HIDDEN = re.compile("[^ -~\n]")


def printable(text: object) -> str:
    """``text`` on one line, everything shown: control characters (C0, DEL, C1), line and paragraph
    separators, bidirectional and zero-width signs, broken UTF-8 become escapes.

    >>> printable("cat\\x1b[31m\\n.jpg")
    'cat\\\\x1b[31m\\\\n.jpg'
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(char if char.isprintable() else _escaped(char) for char in plain)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


class Lines(str):
    """Text whose line ends are ours, such as a table: kept by every door, all else is shown.

    Made of parts by ``lines``, so that no part can bring a line of its own.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Lines:
        return super().__new__(cls, "\n".join(map(printable, text.split("\n"))))


def lines(*parts: object) -> Lines:
    """The parts below one another: each one line, or ``Lines``."""
    return Lines("\n".join(map(printable_text, parts)))


def printable_text(text: object) -> str:
    """``printable``, except that ``Lines`` keep their line ends."""
    return str(text) if isinstance(text, Lines) else printable(text)


def shorten(text: object, limit: int = LONGEST_SHOWN) -> str:
    """``printable``, of a long text the first ``limit`` characters and how long it is."""
    whole = str(text)
    start = printable(whole[: limit + 1])
    return start if len(start) <= limit else f"{start[:limit]}... ({len(whole):,} characters)"


def json_text(value: Any, *, indent: int | None = None) -> Lines:
    """``value`` as JSON, exact, with what is not printable as JSON's own ``\\uXXXX``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return Lines(_PERHAPS_HIDDEN.sub(_json_escaped, text))


def _json_escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]


def csv_cell(value: object) -> object:
    """A cell of a CSV: text is ``printable``, and where a spreadsheet would take it for a formula
    (= + - @ at its start) an apostrophe is put before it, as spreadsheets write plain text.

    Text that starts with apostrophes and such a sign gets one more, so that ``csv_value`` can take
    it away again. Numbers stay as they are.

    >>> csv_cell("=1+2"), csv_cell("cat"), csv_cell(-1)
    ("'=1+2", 'cat', -1)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) else text


def csv_value(text: str) -> str:
    """The text of a cell that ``csv_cell`` made; escapes stay escapes.

    >>> csv_value("'=1+2")
    '=1+2'
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_line(cells: Iterable[object]) -> str:
    """One row of a CSV, without an end of line."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(map(csv_cell, cells))
    return buffer.getvalue()


def csv_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with its texts as ``csv_cell`` writes them, to be followed by ``to_csv``."""
    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    return frame.assign(**{name: frame[name].map(csv_cell) for name in texts})


def as_known(cells: Iterable[str], known: Iterable[str]) -> list[str]:
    """The texts that ``cells`` of a CSV stand for: exactly, where they are among ``known``."""
    odd = {cell: text for text in known if (cell := csv_cell(text)) != text}
    return [odd.get(cell, csv_value(cell)) for cell in cells]


def echo(text: object = "", *, err: bool = False, colour: str | None = None) -> None:
    """What a command prints: one line, or ``Lines``; in colour on a terminal, unless NO_COLOR."""
    import click

    shown = printable_text(text)
    if colour and not os.environ.get("NO_COLOR"):
        shown = click.style(shown, fg=colour)
    try:
        click.echo(shown, err=err)
    except OSError as error:
        error.filename = error.filename or ("standard error" if err else "standard output")
        raise


class _Argument(str):
    """An argument of a log record that was not printable, as it is shown by %s and by %r."""

    __slots__ = ("_repr",)
    _repr: str

    def __new__(cls, value: object) -> _Argument:
        made = super().__new__(cls, printable(value))
        made._repr = printable(repr(value))
        return made

    def __repr__(self) -> str:
        return self._repr


def _argument(value: Any) -> Any:
    if isinstance(value, (numbers.Number, Lines)) or value is None:
        return value
    return value if str(value).isprintable() and repr(value).isprintable() else _Argument(value)


def show_record(record: logging.LogRecord) -> logging.LogRecord:
    """Make a log record printable, in place.

    The line ends of a template stay, they are the code's own; those of its arguments and of a
    message without arguments, which may be made of anything, are shown. ``Lines`` stay lines.
    """
    arguments: Any = record.args
    if not arguments:
        record.msg = printable_text(record.msg)
    elif isinstance(arguments, Mapping):
        record.args = {name: _argument(value) for name, value in arguments.items()}
    else:
        record.args = tuple(map(_argument, arguments))
    if arguments:
        record.msg = Lines(str(record.msg))
    if record.exc_info and not record.exc_text:
        record.exc_text = traceback_lines(record.exc_info[1])
    return record


def traceback_lines(error: BaseException | None) -> Lines:
    """The traceback of an error, moved in, so that no line of it passes for one of the log."""
    import traceback

    if error is None:
        return Lines("")
    text = "".join(traceback.format_exception(error))
    return Lines("\n".join(f"  {line}" for line in text.rstrip("\n").split("\n")))


def show_tracebacks() -> None:
    """Make the traceback of an error that ends this process printable."""

    def hook(_kind: object, error: BaseException, _trace: object) -> None:
        print(traceback_lines(error), file=sys.stderr)  # noqa: T201 - Python's own would

    sys.excepthook = hook


def show_logs() -> None:
    """Make every log record of this process printable, whatever handler it goes to."""
    make = logging.getLogRecordFactory()
    if getattr(make, "shows", False):
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return show_record(make(*args, **kwargs))

    factory.shows = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)
