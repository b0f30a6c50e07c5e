"""What a list is, told by all of its lines: what separates path and label, one label or several.

One number per line is one label per image, whatever comes before it; a 0 or 1 for every class is
several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.data.formats import claims_picture
from hgnetv2_pipeline.data.lists.syntax import DELIMITERS, NAMES_OF_DELIMITERS
from hgnetv2_pipeline.data.regular import open_or_refuse
from hgnetv2_pipeline.errors import DataError, ParameterError
from hgnetv2_pipeline.printable import printable

_ONE = re.compile(rb" *[0-9]{1,9} *")
_SEVERAL = re.compile(rb"[01](,[01])+")
_MARKS = (b"\t", b" ", b"|", b",")


@dataclass(frozen=True)
class ListKind:
    """What is between path and label of a list, and whether an image may have several labels."""

    delimiter: bytes
    several: bool

    def __str__(self) -> str:
        between = NAMES_OF_DELIMITERS.get(self.delimiter, repr(self.delimiter.decode()))
        what = "a 0 or 1 for every class" if self.several else "one number"
        return f"{what} behind a {between}"


def delimiter_of(value: str) -> bytes | None:
    """The bytes that a value of ``data.delimiter`` stands for; None: auto.

    Raises:
        ParameterError: neither a name nor one character.
    """
    if value == "auto":
        return None
    mark = DELIMITERS.get(value, value.encode())
    if len(value) != 1 and value not in DELIMITERS or mark in (b"\n", b"\r", b"#") or not mark:
        raise ParameterError(
            f"delimiter {value!r}: auto, {', '.join(DELIMITERS)}, or one character (data.delimiter)"
        )
    return mark


def kind_of_list(path: Path, delimiter: bytes | None = None) -> ListKind | None:
    """The one kind that fits every line; None if no kind does, and the parser says what is wrong.

    Args:
        delimiter: what is between path and label, if that is known.

    Raises:
        DataError: the list is missing, has lines of both kinds, or two kinds fit every line.
    """
    marks = (delimiter,) if delimiter else _MARKS
    fits = {ListKind(mark, several) for mark in marks for several in (False, True)}
    first: tuple[int, bytes] | None = None
    with open_or_refuse(path, "list") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            line = line.rstrip(b"\r\n")
            if not line.strip(b" \t") or line.startswith(b"#"):
                continue
            here = {kind for kind in fits if _fits(kind, line)}
            first = first or (number, line)
            if not here:
                _refuse_mixed(path, number, line, fits)
                return None
            fits = here
    if first is None:
        return None
    # What comes before the labels of a line is the name of a picture.
    fits = {kind for kind in fits if _names_a_picture(kind, first[1])} or fits
    if len(fits) == 1:
        return next(iter(fits))
    names = " or ".join(sorted(map(str, fits)))
    shown = printable(first[1][:80].decode("utf-8", "replace"))
    raise DataError(
        f"{path}:{first[0]}: {shown!r} is {names}, and so is every line; say which: "
        "data.delimiter (hgnetv2 init --delimiter): space, tab, comma, pipe or one character"
    )


def _names_a_picture(kind: ListKind, line: bytes) -> bool:
    name = line.rpartition(kind.delimiter)[0].decode("utf-8", "replace")
    return claims_picture(name.rstrip(), lambda: b"")


def delimiter_of_several(path: Path) -> bytes:
    """What is before the labels in the first line of a list of several labels; a tab where that
    line is no such line, and the parser says what is wrong.
    """
    with open_or_refuse(path, "list") as file:
        for line in file:
            if line.strip() and not line.startswith(b"#"):
                fits = (
                    mark for mark in _MARKS if _fits(ListKind(mark, True), line.rstrip(b"\r\n"))
                )
                return next(fits, b"\t")
    return b"\t"


def _fits(kind: ListKind, line: bytes) -> bool:
    if b"\t" in line and kind.delimiter != b"\t":
        return False  # no path has one
    name, found, last = line.rpartition(kind.delimiter)
    return bool(found and name and (_SEVERAL if kind.several else _ONE).fullmatch(last))


def _refuse_mixed(path: Path, number: int, line: bytes, fits: set[ListKind]) -> None:
    """Say so where a line is of the other kind than all before it, with the same delimiter."""
    for kind in sorted(fits, key=str):
        other = ListKind(kind.delimiter, not kind.several)
        if other not in fits and _fits(other, line):
            shown = printable(line[:80].decode("utf-8", "replace"))
            raise DataError(
                f"{path}:{number}: {shown!r} has {other}, the lines before it have {kind}; give "
                "every image the same kind of label"
            )
