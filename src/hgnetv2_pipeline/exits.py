"""How an error ends a command: its exit code and its words, the same at every door - ``kedro run``,
``hgnetv2`` and the processes that they start.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hgnetv2_pipeline.errors import DiskFullError, ParameterError
from hgnetv2_pipeline.printable import Lines, lines, printable

FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk quota used up"}
"""Numbers of the errors that say so."""

# What libraries say of a full disk in errors without a number.
_FULL_WORDS = {
    "no space left on device": FULL[errno.ENOSPC],
    "(os error 28)": FULL[errno.ENOSPC],  # Rust: safetensors
    "database or disk is full": FULL[errno.ENOSPC],  # SQLite
    "disk quota exceeded": FULL[errno.EDQUOT],
    "(os error 122)": FULL[errno.EDQUOT],
}
# What a short write is called by those that do not ask why: numpy, and torch's zip writer.
_SHORT_WRITE = ("requested and", "inline_container", "failed writing file")
_NEARLY_NOTHING = 1 << 20  # bytes: less than this left, and a short write needs no other reason

# What only the one who called can mend, and how.
REMEDIES = {
    errno.EROFS: "make it writable, or let the folder lead to a disk that is",
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.ENAMETOOLONG: "give the project, the run or the file a shorter name",
    errno.ENOENT: "",
    errno.ENOTDIR: "",
    errno.EISDIR: "",
    errno.ENOTEMPTY: "",
    errno.EEXIST: "",
    errno.ELOOP: "",
    errno.ENXIO: "",
    errno.EBUSY: "",
    errno.ETXTBSY: "",
}
# How a note begins that is the traceback of another process: like any, it is for --debug alone.
OTHER_TRACEBACK = "in another process:\n"
_LONGEST = 4000  # characters of a message: what is named in it may be of any length


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the last first."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def full_disk(error: BaseException, place: Path | None = None) -> str | None:
    """The words *disk full* or *disk quota used up* if that is why ``error`` was raised, else None.

    By the number of the error, by the words of libraries that lose it, and where those tell of a
    short write alone, by what is free at ``place`` (else at the file named, else here).
    """
    short = False
    for cause in causes(error):
        number = getattr(cause, "errno", None)
        if number in FULL:
            return FULL[number]
        if number is not None:
            continue
        words = str(cause).lower()
        for sign, meaning in _FULL_WORDS.items():
            if sign in words:
                return meaning
        short = short or any(sign in words for sign in _SHORT_WRITE)
        place = place or _named(cause)
    if short:
        with suppress(OSError):
            if free_bytes(place or Path.cwd()) < _NEARLY_NOTHING:
                return FULL[errno.ENOSPC]
    return None


def _named(error: BaseException) -> Path | None:
    name = getattr(error, "filename", None)
    return Path(name) if isinstance(name, str) else None


def free_bytes(place: Path) -> int:
    """Bytes free where ``place`` is, or would be."""
    place = place.absolute()
    folder = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    return shutil.disk_usage(folder).free


def explain(error: BaseException, *, debug: str, place: Path | None = None) -> tuple[int, Lines]:
    """The exit code and the words for an error, looking through what was wrapped around it.

    One line, and below it the notes of the error, such as the end of a log. ``debug`` is the
    command that shows more, ``place`` the folder that work was written to.
    """
    for cause in causes(error):
        code = getattr(cause, "exit_code", None)
        # click's errors carry a code too, which says nothing of what they came from.
        if isinstance(code, int) and not hasattr(cause, "format_message"):
            return code, _with_notes(cause, str(cause))
    for cause in causes(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            needed = cause.name.partition(".")[0]
            missing = (
                f"{needed} is not installed here, which this needs: pip install {needed}, or "
                "hgnetv2-pipeline with all that it depends on"
            )
            return ParameterError.exit_code, _with_notes(error, missing)
    meaning = full_disk(error, place)
    if meaning is not None:
        named = next(filter(None, (getattr(c, "filename", None) for c in causes(error))), None)
        what = _flat(error) if named is None else named
        return DiskFullError.exit_code, _with_notes(
            error, f"{meaning}: {what}; free some and go on"
        )
    for cause in causes(error):
        remedy = REMEDIES.get(cause.errno or 0) if isinstance(cause, OSError) else None
        if remedy is not None and isinstance(cause, OSError) and cause.filename is not None:
            message = f"{cause.strerror}: {cause.filename}" + (f"; {remedy}" if remedy else "")
            return ParameterError.exit_code, _with_notes(error, message)
    name = type(error).__name__
    return 1, _with_notes(error, f"{name}: {_flat(error) or 'no message'} ({debug} shows where)")


def _flat(error: BaseException) -> str:
    """A message of a library, which may take many lines, on one."""
    return " ".join(str(error).split())


def _with_notes(error: BaseException, text: str) -> Lines:
    short = [n for n in getattr(error, "__notes__", ()) if not n.startswith(OTHER_TRACEBACK)]
    notes = [f"  {printable(note)}" for note in short]
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text):,} characters)"
    return lines(printable(text), *notes)


def leave_standard_output() -> None:
    """After a failed write to it: what still waits to be written goes nowhere.

    Python writes it when it ends, fails again, and would end with a code of its own.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
