"""The lines of a list file, ``path label``: their grammar, and a parser for millions of them.

``parse_line`` is the whole grammar. ``parse_list`` gives the same for a file: it takes the plain
lines by array arithmetic and hands the doubtful ones to ``parse_line``; so it does with all lines
where path and label are not separated by a space.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hgnetv2_pipeline.data.regular import open_or_refuse
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

LONGEST_LINE = 8192
_CHUNK = 4 << 20
_WINDOW = 100_000
_LABEL = re.compile(rb"[0-9]{1,9}")
_EXTRA_COLUMN = re.compile(rb"\.(jpe?g|png|webp|bmp|tiff?|gif) +-?[0-9][0-9.]*$", re.IGNORECASE)
# Path parts that are empty, . or .., and drive letters.
_DOUBTFUL_MARKS = (b"//", b"/.", b"/ ", b"/\n", b"/\r", b":/", b":\\")
_DIGIT_VALUES = bytes.maketrans(b"01", b"\0\1")
DELIMITERS = {"space": b" ", "tab": b"\t", "comma": b",", "pipe": b"|"}
"""The names that ``data.delimiter`` knows."""
NAMES_OF_DELIMITERS = {mark: name for name, mark in DELIMITERS.items()}
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class ParsedList:
    """The samples of a list file.

    Attributes:
        paths: Arrow string array [N]; one array, so that rows anywhere in it are quick to take.
        labels: int32 [N], -1 throughout if the list has no labels.
        lines: int32 [N], the line numbers, from 1.
        skipped: number of blank and comment lines.
        dropped: path and line of what was left out because an earlier line names the same path.
    """

    paths: pa.LargeStringArray
    labels: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int32]
    skipped: int
    dropped: tuple[tuple[str, int], ...] = ()


def parse_list(
    path: Path, *, labelled: bool = True, delimiter: bytes = b" ", root: Path | None = None
) -> ParsedList:
    """The lines of a list, syntax checked, nothing else.

    ``delimiter`` is between path and label. Absolute paths below ``root`` become relative to it.
    Streams the file: memory grows with the samples (16 bytes each and the path), not with the
    length of a line.

    Raises:
        DataError: file missing; a line malformed, too long or not UTF-8.
    """
    import pyarrow as pa

    # Grown in place: chunks to be joined at the end would be a second copy, half a gigabyte.
    texts, ends = bytearray(), [np.zeros(1, np.int64)]
    labels: list[npt.NDArray[np.int32]] = []
    lines: list[npt.NDArray[np.int32]] = []
    done, skipped = 0, 0
    grammar = Grammar(labelled, delimiter, root)
    with open_or_refuse(Path(path), "list") as file:
        start = file.read(3)
        if start[:2] in _BOMS:
            raise DataError(f"{path}:1: {_BOMS[start[:2]]} text; save the list as UTF-8")
        rest = b"" if start == b"\xef\xbb\xbf" else start
        place = len(start) - len(rest)
        while True:
            read = file.read(_CHUNK)
            block = rest + read
            cut = block.rfind(b"\n") + 1 if read else len(block)
            block, rest = block[:cut], block[cut:]
            if len(rest) > LONGEST_LINE:
                raise _too_long(path, done + block.count(b"\n") + 1)
            if block:
                part = _parse_block(path, block, done, place, grammar)
                _, bounds, text = part.paths.buffers()
                bounds = np.frombuffer(bounds, np.int64, len(part.paths) + 1)
                ends.append(bounds[1:] + len(texts))
                texts += memoryview(text)[: bounds[-1]]
                labels.append(part.labels)
                lines.append(part.lines)
                skipped += part.skipped
                done += block.count(b"\n")
                place += len(block)
            if not read:
                break
    if skipped:
        _log.info("%s: %d blank or comment lines skipped", path, skipped)
    empty = np.zeros(0, np.int32)
    return ParsedList(
        pa.LargeStringArray.from_buffers(
            sum(map(len, labels)), pa.py_buffer(np.concatenate(ends)), pa.py_buffer(texts)
        ),
        np.concatenate(labels) if labels else empty,
        np.concatenate(lines) if lines else empty,
        skipped,
    )


def windows(paths: pa.LargeStringArray) -> Iterator[pa.LargeStringArray]:
    """``paths`` in parts, without copying: what is computed of each part stays small."""
    return (paths.slice(at, _WINDOW) for at in range(0, len(paths), _WINDOW))


def _parse_block(path: Path, block: bytes, done: int, place: int, grammar: Grammar) -> ParsedList:
    """Parse whole lines. The plain ones by array arithmetic, the doubtful ones one by one."""
    import pyarrow as pa

    if not block.endswith(b"\n"):
        block += b"\n"
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == 10)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > LONGEST_LINE:
        raise _too_long(path, done + int((ends - starts).argmax()) + 1)
    check_utf8(path, block, starts, done, place)

    stops = ends - ((ends > starts) & (data[ends - 1] == 13))  # without CRLF's carriage return
    doubtful = _doubtful(block, data, starts, stops)
    if grammar.labelled:
        splits, values, good = _split_labels(data, starts, stops)
        doubtful |= ~good | (grammar.delimiter != b" ")
    else:
        splits, values = stops.copy(), np.full(len(starts), -1, np.int64)
    keep = np.ones(len(starts), bool)
    renamed: dict[int, str] = {}
    for number in map(int, np.flatnonzero(doubtful)):
        line = block[starts[number] : stops[number]]
        try:
            found = parse_line(line, grammar)
        except DataError as error:
            raise DataError(f"{path}:{done + number + 1}: {error}") from None
        if found is None:
            keep[number] = False
        else:
            renamed[number], values[number] = found
    texts = _strings(data, starts, splits, keep)
    if renamed:
        positions = np.cumsum(keep) - 1
        names = texts.to_pylist()
        for number, name in renamed.items():
            names[positions[number]] = name
        texts = pa.array(names, pa.large_string())
    numbers = (np.flatnonzero(keep) + done + 1).astype(np.int32)
    return ParsedList(texts, values[keep].astype(np.int32), numbers, int((~keep).sum()))


@dataclass(frozen=True)
class Grammar:
    """What a line of a list is: with a label or without, and what is between path and label.

    Attributes:
        root: absolute paths below it become relative to it; None: absolute paths are refused.
    """

    labelled: bool = True
    delimiter: bytes = b" "
    root: Path | None = None

    @property
    def form(self) -> str:
        """A line in words."""
        between = NAMES_OF_DELIMITERS.get(self.delimiter, "")
        mark = f"<{between.upper()}>" if between == "tab" else self.delimiter.decode()
        return f"'path{mark}label'" if self.labelled else "'path'"


_PLAIN = Grammar()
_TABBED = Grammar(delimiter=b"\t")


def parse_line(line: bytes, grammar: Grammar = _PLAIN) -> tuple[str, int] | None:
    """Path and label of a line without its line end; None if it is blank or a comment.

    Without labels the label is -1. The whole grammar is here; ``parse_list`` gives the same.

    Raises:
        DataError: what is wrong, and the remedy, without the place.
    """
    if not line.strip(b" \t") or line.startswith(b"#"):
        return None
    shown = printable(line[:80].decode("utf-8", "replace"))
    if b"\t" in line and not (grammar.labelled and grammar.delimiter == b"\t"):
        raise DataError(
            f"a tab in {shown!r}; put one space between path and label, or the same data.delimiter "
            "in every line (lines of several labels, 'path<TAB>0,1,0', are read with data.layout: "
            "multi_label)"
        )
    name, label = line, -1
    if grammar.labelled:
        name, label = _split_line(line, shown, grammar)
    _refuse_control_characters(name, shown)
    if name.startswith(b" ") or name.endswith(b" "):
        raise DataError(
            f"more than one space around the path in {shown!r}; put exactly one space between "
            "path and label"
        )
    if grammar.labelled and _EXTRA_COLUMN.search(name):
        raise DataError(f"more than one number after the path in {shown!r}; keep the label alone")
    return _inside(name.decode("utf-8"), shown, grammar.root), label


def _split_line(line: bytes, shown: str, grammar: Grammar) -> tuple[bytes, int]:
    """The line at its last delimiter; spaces beside another delimiter are no part of either."""
    name, found, last = line.rpartition(grammar.delimiter)
    if grammar.delimiter != b" ":
        name, last = name.rstrip(b" "), last.strip(b" ")
    if not found:
        why = ""
        if b"\xc2\xa0" in line:
            why = " (what looks like a space before the label is a no-break space)"
        raise DataError(f"no label in {shown!r}{why}; write {grammar.form}")
    if not last:
        raise DataError(f"a space at the end of {shown!r}; remove it")
    if not _LABEL.fullmatch(last):
        raise DataError(
            f"label {printable(last.decode('utf-8', 'replace'))!r} is not a class number; "
            "write a whole number from 0 on in plain digits, at most nine, or names in a CSV with "
            "the columns path and label"
        )
    return name, int(last)


def parse_multi_label_line(line: bytes, grammar: Grammar = _TABBED) -> tuple[str, bytes] | None:
    """Path and labels (bytes, 0 or 1 per class) of ``path<TAB>0,1,0``; None if blank or comment.

    Raises:
        DataError: what is wrong, and the remedy, without the place.
    """
    if not line.strip(b" \t") or line.startswith(b"#"):
        return None
    shown = printable(line[:80].decode("utf-8", "replace"))
    name, found, last = line.rpartition(grammar.delimiter)
    if not found:
        between = NAMES_OF_DELIMITERS.get(grammar.delimiter, "delimiter")
        raise DataError(
            f"no {between} in {shown!r}; write 'path<TAB>0,1,0', a 0 or 1 for every class (lists "
            "of one label per image have another data.layout)"
        )
    _refuse_control_characters(name, shown)
    if name != name.strip(b" "):
        raise DataError(f"a space around the path in {shown!r}; put one tab after the path alone")
    labels = last[::2]
    if labels.strip(b"01") or last[1::2].strip(b",") or len(last) % 2 == 0:
        raise DataError(
            f"labels {printable(last[:40].decode('utf-8', 'replace'))!r} in {shown!r} are not 0 or "
            "1 for every class, joined by commas without spaces"
        )
    return _inside(name.decode("utf-8"), shown, grammar.root), labels.translate(_DIGIT_VALUES)


def _refuse_control_characters(text: bytes, shown: str) -> None:
    for byte in text:
        if byte < 32 or byte == 127:
            raise DataError(f"control character 0x{byte:02x} in {shown!r}; remove it")


def _inside(name: str, shown: str, root: Path | None) -> str:
    """The path in its one spelling (``./a//b`` is ``a/b``); refused if it leads out of the root."""
    if re.match(r"[A-Za-z]:[\\/]", name):
        raise DataError(f"absolute path in {shown!r}; write it relative to the root")
    if name.startswith("/"):
        name = _relative(name, shown, root)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(f"'..' in {shown!r} leads out of the root; write the path from the root")
    if not parts:
        raise DataError(f"no file name in {shown!r}")
    return "/".join(parts)


def _relative(name: str, shown: str, root: Path | None) -> str:
    """An absolute path from ``root`` on, links in it and in the root followed where need be."""
    if root is None:
        raise DataError(f"absolute path in {shown!r}; write it relative to the root")
    real = os.path.realpath(root)
    for below, place in ((os.path.abspath(root), name), (real, name), (real, None)):  # noqa: PTH100
        # The last file may itself be a link to elsewhere: only its folder is followed.
        given = place or os.path.join(os.path.realpath(os.path.dirname(name)), _base(name))  # noqa: PTH118, PTH120
        if given.startswith(below.rstrip("/") + "/"):
            return given[len(below.rstrip("/")) + 1 :]
    raise DataError(
        f"absolute path in {shown!r} that is not below the root {real}; set data.root to a folder "
        "above it, or write it relative to the root"
    )


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _doubtful(
    block: bytes, data: npt.NDArray[np.uint8], starts: Any, stops: Any
) -> npt.NDArray[np.bool_]:
    """Lines that ``parse_line`` has to look at: anything but a plain path and perhaps a label."""
    first = data[starts]
    doubtful = np.asarray((stops <= starts) | np.isin(first, np.frombuffer(b"#/ .", np.uint8)))
    odd = (data < 32) & (data != 10)
    odd |= data == 127
    # A carriage return at the end of a line is its line end; anywhere else it is odd.
    odd[stops[data[np.minimum(stops, len(data) - 1)] == 13]] = False
    places = [np.flatnonzero(odd)]
    places += [_find(block, mark) for mark in _DOUBTFUL_MARKS]
    # Two numbers at the end may be an extra column.
    digit = (data >= 48) & (data <= 57)
    spaces = np.flatnonzero(data == 32)
    places.append(spaces[(spaces > 0) & (digit[spaces - 1] | (data[spaces - 1] == 32))])
    # A space just before the line end.
    ending = stops > starts
    doubtful |= ending & (data[np.maximum(stops - 1, 0)] == 32)
    found = np.concatenate(places)
    if len(found):
        doubtful[np.unique(np.searchsorted(starts, found, side="right") - 1)] = True
    return doubtful


def _find(block: bytes, mark: bytes) -> npt.NDArray[np.int64]:
    found, at = [], block.find(mark)
    while at >= 0:
        found.append(at)
        at = block.find(mark, at + 1)
    return np.asarray(found, np.int64)


def _split_labels(data: npt.NDArray[np.uint8], starts: Any, stops: Any) -> tuple[Any, Any, Any]:
    """Where each path ends, the labels, and whether the label is one to nine digits."""
    spaces = np.flatnonzero(data == 32)
    last = np.searchsorted(spaces, stops, side="left") - 1
    splits = np.where(last >= 0, spaces[np.maximum(last, 0)] if len(spaces) else 0, -1)
    width = stops - splits - 1
    good = (splits > starts) & (width >= 1) & (width <= 9)
    values = np.zeros(len(starts), np.int64)
    for column in range(9):
        at = splits + 1 + column
        inside = good & (column < width)
        digits = data[np.where(inside, at, 0)].astype(np.int64) - 48
        good &= ~inside | ((digits >= 0) & (digits <= 9))
        values = np.where(inside, values * 10 + digits, values)
    return np.where(good, splits, starts), values, good


def _strings(data: npt.NDArray[np.uint8], starts: Any, splits: Any, keep: Any) -> Any:
    """Arrow strings of the bytes from each start to its split, for the lines to keep."""
    import pyarrow as pa

    starts, splits = starts[keep], splits[keep]
    lengths = splits - starts
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    # +1 at each start and -1 at each split, summed up: 1 inside the paths and 0 between them.
    inside = np.zeros(len(data) + 1, np.int8)
    inside[starts] += 1
    inside[splits] -= 1
    text = data[np.cumsum(inside[:-1], dtype=np.int8).astype(bool)]
    return pa.LargeStringArray.from_buffers(
        len(starts), pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(text)
    )


def check_utf8(path: Path, block: bytes, starts: Any, done: int, place: int) -> None:
    """Refuse bytes that are no text, with line and place.

    ``starts`` are the places of the lines in ``block``; ``done`` lines and ``place`` bytes of the
    file come before it.
    """
    at = block.find(b"\0")
    reason = "a NUL byte"
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        if at < 0 or error.start < at:
            at, reason = error.start, f"byte 0x{block[error.start]:02x} is not UTF-8"
    if at >= 0:
        line = done + int(np.searchsorted(starts, at, side="right"))
        raise DataError(f"{path}:{line}: {reason} at byte {place + at}; save the list as UTF-8")


def _too_long(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}:{line}: the line is longer than {LONGEST_LINE:,} bytes; write one 'path label' "
        "a line"
    )


def why_unlistable(name: str) -> str | None:
    """Why a path cannot be in a list; None if it can."""
    try:
        line = f"{'./' if name.startswith('#') else ''}{name} 0".encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if len(line) > LONGEST_LINE - 16:
        return "its path is too long"
    try:
        found = parse_line(line)
    except DataError:
        found = None
    return None if found == (name, 0) else "its name has a space at an end or a control character"


def spell_name(path: Path, name: str) -> str:
    """``name`` as it is written in the list ``path``; DataError if no list can hold it."""
    reason = why_unlistable(name)
    if reason is not None:
        raise DataError(f"{path}: {printable(name)!r} cannot be in a list: {reason}")
    return f"./{name}" if name.startswith("#") else name
