"""Lists of images (``path label`` a line) and class maps (``id name`` a line), read strictly.

The format is PaddleClas's. A line is split once at its last space, so paths may contain spaces.
CRLF line ends and a byte order mark are accepted; blank lines and lines that start with ``#`` are
skipped (write ``./#name`` for a file whose name starts so). Everything doubtful is refused with the
line's number and a remedy: nothing is guessed, relabelled or dropped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.listing import Problem, check_files
from hgnetv2_pipeline.data.quarantine import printable
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

LONGEST_LINE = 8192
_CHUNK = 4 << 20
_LABEL = re.compile(rb"[0-9]{1,9}")
_EXTRA_COLUMN = re.compile(rb"\.(jpe?g|png|webp|bmp|tiff?|gif) +-?[0-9][0-9.]*$", re.IGNORECASE)
# Path parts that are empty, . or .., and drive letters.
_DOUBTFUL_MARKS = (b"//", b"/.", b"/ ", b"/\n", b"/\r", b":/", b":\\")
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class ParsedList:
    """The samples of a list file.

    Attributes:
        paths: Arrow string array [N].
        labels: int64 [N], -1 throughout if the list has no labels.
        lines: int64 [N], the line numbers, from 1.
        skipped: number of blank and comment lines.
    """

    paths: pa.ChunkedArray
    labels: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]
    skipped: int


def read_list(
    path: Path,
    root: Path | None = None,
    num_classes: int | None = None,
    *,
    labelled: bool = True,
    duplicates: str = "refuse",
    every_class: bool = False,
    trusted_roots: Sequence[Path] = (),
    missing_to: Path | None = None,
) -> pd.DataFrame:
    """Read a list of images.

    Args:
        path: the list file.
        root: if given, every file must exist there, be a regular file (or a member of a tar,
            ``archive.tar!member``) and lie inside it.
        num_classes: if given, labels must be below it.
        labelled: False for a list of paths alone (a pool); labels are then NA.
        duplicates: what to do with a path listed twice with one label: ``refuse`` or ``drop``.
            Two labels for one path are always refused.
        every_class: refuse a list in which a class 0..num_classes-1 has no image (without
            ``num_classes``: 0..highest label).
        trusted_roots: folders outside ``root`` into which symbolic links may lead.
        missing_to: where to write all unusable files (CSV: key, reason, line) before raising.

    Returns:
        DataFrame [path (str), label (Int64)], in the order of the list.

    Raises:
        DataError: with file, line number and remedy.
    """
    parsed = checked_list(
        path,
        root,
        num_classes,
        labelled=labelled,
        duplicates=duplicates,
        every_class=every_class,
        trusted_roots=trusted_roots,
        missing_to=missing_to,
    )
    return _frame(parsed, labelled)[["path", "label"]]


def checked_list(
    path: Path,
    root: Path | None,
    num_classes: int | None,
    *,
    labelled: bool,
    duplicates: str,
    every_class: bool,
    trusted_roots: Sequence[Path],
    missing_to: Path | None,
) -> ParsedList:
    """As ``read_list``, with the line numbers."""
    if duplicates not in ("refuse", "drop"):
        raise ParameterError(f"duplicates {duplicates!r}: 'refuse' or 'drop' (data.duplicates)")
    path = Path(path)
    parsed = parse_list(path, labelled=labelled)
    if len(parsed.labels) == 0:
        form = "'path label'" if labelled else "'path'"
        raise DataError(f"{path}: 0 samples; write one {form} a line")
    if labelled:
        _check_labels(path, parsed, num_classes, every_class)
    parsed = _without_duplicates(path, parsed, duplicates)
    if root is not None:
        frame = _frame(parsed, labelled)
        problems = check_files(frame["path"], Path(root), trusted_roots)
        if problems:
            _raise_unusable(path, parsed, problems, missing_to)
    return parsed


def parse_list(path: Path, *, labelled: bool = True) -> ParsedList:
    """The lines of a list, syntax checked, nothing else.

    Streams the file: memory grows with the samples (about 90 bytes each), not with the line length.

    Raises:
        DataError: file missing; a line malformed, too long or not UTF-8.
    """
    import pyarrow as pa

    chunks: list[Any] = []
    labels: list[npt.NDArray[np.int64]] = []
    lines: list[npt.NDArray[np.int64]] = []
    done, skipped = 0, 0
    try:
        with Path(path).open("rb") as file:
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
                    part = _parse_block(path, block, done, place, labelled)
                    chunks.append(part.paths)
                    labels.append(part.labels)
                    lines.append(part.lines)
                    skipped += part.skipped
                    done += block.count(b"\n")
                    place += len(block)
                if not read:
                    break
    except FileNotFoundError as error:
        raise DataError(f"{path}: the list is missing") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: a directory, not a list") from error
    if skipped:
        _log.info("%s: %d blank or comment lines skipped", path, skipped)
    empty = np.zeros(0, np.int64)
    return ParsedList(
        pa.chunked_array(chunks, type=pa.large_string()),
        np.concatenate(labels) if labels else empty,
        np.concatenate(lines) if lines else empty,
        skipped,
    )


def _parse_block(path: Path, block: bytes, done: int, place: int, labelled: bool) -> ParsedList:
    """Parse whole lines. The plain ones by array arithmetic, the doubtful ones one by one."""
    import pyarrow as pa

    if not block.endswith(b"\n"):
        block += b"\n"
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == 10)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > LONGEST_LINE:
        raise _too_long(path, done + int((ends - starts).argmax()) + 1)
    _check_utf8(path, block, starts, done, place)

    stops = ends - ((ends > starts) & (data[ends - 1] == 13))  # without CRLF's carriage return
    doubtful = _doubtful(block, data, starts, stops)
    if labelled:
        splits, values, good = _split_labels(data, starts, stops)
        doubtful |= ~good
    else:
        splits, values = stops.copy(), np.full(len(starts), -1, np.int64)
    keep = np.ones(len(starts), bool)
    renamed: dict[int, str] = {}
    for number in map(int, np.flatnonzero(doubtful)):
        line = block[starts[number] : stops[number]]
        try:
            found = parse_line(line, labelled=labelled)
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
    numbers = np.flatnonzero(keep) + done + 1
    return ParsedList(texts, values[keep], numbers, int((~keep).sum()))


def parse_line(line: bytes, *, labelled: bool = True) -> tuple[str, int] | None:
    """Path and label of a line without its line end; None if it is blank or a comment.

    Without labels the label is -1. The whole grammar is here; ``parse_list`` gives the same.

    Raises:
        DataError: what is wrong, and the remedy, without the place.
    """
    if not line.strip(b" ") or line.startswith(b"#"):
        return None
    shown = printable(line[:80].decode("utf-8", "replace"))
    if b"\t" in line:
        raise DataError(f"a tab in {shown!r}; put one space between path and label")
    for byte in line:
        if byte < 32 or byte == 127:
            raise DataError(f"control character 0x{byte:02x} in {shown!r}; remove it")
    name, label = line, -1
    if labelled:
        name, space, last = line.rpartition(b" ")
        if not space:
            raise DataError(f"no label in {shown!r}; write 'path label'")
        if not last:
            raise DataError(f"a space at the end of {shown!r}; remove it")
        if not _LABEL.fullmatch(last):
            raise DataError(
                f"label {printable(last.decode('utf-8', 'replace'))!r} is not a class number; "
                "write a whole number from 0 on in plain digits, at most nine"
            )
        label = int(last)
    if name.startswith(b" ") or name.endswith(b" "):
        raise DataError(
            f"more than one space around the path in {shown!r}; put exactly one space between "
            "path and label"
        )
    if labelled and _EXTRA_COLUMN.search(name):
        raise DataError(f"more than one number after the path in {shown!r}; keep the label alone")
    return _inside(name.decode("utf-8"), shown), label


def _inside(name: str, shown: str) -> str:
    """The path in its one spelling (``./a//b`` is ``a/b``); refused if it leads out of the root."""
    if name.startswith("/") or re.match(r"[A-Za-z]:[\\/]", name):
        raise DataError(f"absolute path in {shown!r}; write it relative to the root")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(f"'..' in {shown!r} leads out of the root; write the path from the root")
    if not parts:
        raise DataError(f"no file name in {shown!r}")
    return "/".join(parts)


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


def _check_utf8(path: Path, block: bytes, starts: Any, done: int, place: int) -> None:
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


def _check_labels(
    path: Path, parsed: ParsedList, num_classes: int | None, every_class: bool
) -> None:
    if num_classes is not None:
        above = np.flatnonzero(parsed.labels >= num_classes)
        if len(above):
            line, label = parsed.lines[above[0]], parsed.labels[above[0]]
            raise DataError(
                f"{path}:{line}: label {label} is outside the {num_classes} classes "
                f"0-{num_classes - 1} ({len(above):,} such lines); correct it or set num_classes"
            )
    if every_class:
        wanted = num_classes if num_classes is not None else int(parsed.labels.max()) + 1
        absent = np.setdiff1d(np.arange(wanted), parsed.labels)
        if len(absent):
            some = ", ".join(str(label) for label in absent[:5])
            raise DataError(
                f"{path}: {len(absent):,} of {wanted:,} classes have no image: "
                f"{some}{' ...' if len(absent) > 5 else ''}; number the classes from 0 without a "
                "gap, or correct num_classes"
            )


def _without_duplicates(path: Path, parsed: ParsedList, duplicates: str) -> ParsedList:
    frame = _frame(parsed, True)
    twice = frame["path"].duplicated(keep="first").to_numpy()
    if twice.any():
        _refuse_conflicts(path, frame, parsed)
        count = int(twice.sum())
        if duplicates == "refuse":
            later = int(np.flatnonzero(twice)[0])
            name = frame["path"].iloc[later]
            earlier = int(np.flatnonzero((frame["path"] == name).to_numpy())[0])
            raise DataError(
                f"{path}:{parsed.lines[later]}: {name!r} is listed already in line "
                f"{parsed.lines[earlier]} ({count:,} such lines); remove it, or set "
                "data.duplicates: drop"
            )
        _log.warning("%s: %d lines that repeat an earlier one are left out", path, count)
        mask = ~twice
        parsed = ParsedList(
            parsed.paths.filter(mask), parsed.labels[mask], parsed.lines[mask], parsed.skipped
        )
        frame = _frame(parsed, True)
    collisions = int(frame["path"].str.lower().duplicated().sum())
    if collisions:
        _log.warning(
            "%s: %d paths differ from another only in upper and lower case; they are different "
            "images here and one image on a file system that ignores case",
            path,
            collisions,
        )
    return parsed


def _refuse_conflicts(path: Path, frame: pd.DataFrame, parsed: ParsedList) -> None:
    again = frame[frame["path"].duplicated(keep=False)]
    kinds = again.groupby("path", sort=False)["label"].nunique()
    conflicts = kinds[kinds > 1]
    if len(conflicts):
        name = conflicts.index[0]
        rows = again[again["path"] == name]
        first = rows.iloc[0]
        other = rows[rows["label"] != first["label"]].iloc[0]
        lines = parsed.lines[[first.name, other.name]]
        raise DataError(
            f"{path}:{lines[1]}: {name!r} has label {other['label']} here and {first['label']} in "
            f"line {lines[0]} ({len(conflicts):,} such paths); keep the right one"
        )


def _raise_unusable(
    path: Path, parsed: ParsedList, problems: list[Problem], missing_to: Path | None
) -> None:
    from hgnetv2_pipeline.data.quarantine import quarantine_frame, write_quarantine

    rows: list[tuple[str, str, int | None]] = [
        (problem.path, problem.reason, int(parsed.lines[problem.position])) for problem in problems
    ]
    where = ""
    if missing_to is not None:
        write_quarantine(missing_to, quarantine_frame(rows))
        where = f"; all of them are in {missing_to}"
    some = "; ".join(f"line {line}: {printable(key)}: {reason}" for key, reason, line in rows[:3])
    raise DataError(
        f"{path}:{rows[0][2]}: {len(rows):,} of {len(parsed.labels):,} files cannot be used: "
        f"{some}{' ...' if len(rows) > 3 else ''}{where}; restore the files or remove the lines"
    )


def _frame(parsed: ParsedList, labelled: bool) -> pd.DataFrame:
    labels = pd.Series(parsed.labels, dtype="Int64")
    if not labelled:
        labels = pd.Series(pd.array([pd.NA] * len(labels), dtype="Int64"))
    return pd.DataFrame({"path": parsed.paths.to_pandas().astype("str"), "label": labels})


def write_list(path: Path, frame: pd.DataFrame) -> Path:
    """Write ``path label`` a line (``path`` alone if no image has a label), whole or not at all.

    Args:
        frame: columns ``key`` or ``path`` (the key wins: it names members of archives), ``label``.

    Raises:
        DataError: a path cannot stand in a list, or only some images have a label.
    """
    names = frame["key"] if "key" in frame.columns else frame["path"]
    unknown = frame["label"].isna()
    if unknown.any() and not unknown.all():
        raise DataError(
            f"{path}: {int(unknown.sum()):,} of {len(frame):,} images have no label; a list has "
            "labels for all of them or for none"
        )
    labelled = not unknown.any()
    lines = []
    for name, label in zip(names, frame["label"], strict=True):
        written = f"./{name}" if name.startswith("#") else name
        line = f"{written} {label}" if labelled else written
        reason = why_unlistable(name)
        if reason is not None:
            raise DataError(f"{path}: {printable(name)!r} cannot stand in a list: {reason}")
        lines.append(line)
    return write_text(path, "".join(f"{line}\n" for line in lines))


def why_unlistable(name: str) -> str | None:
    """Why a path cannot stand in a list; None if it can."""
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


def read_class_map(path: Path) -> list[str]:
    """Class names by number from a file of ``id name`` lines; names may contain spaces.

    Raises:
        DataError: not 0..n-1 each once, a line without a name, not UTF-8, empty.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: the class map is missing") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    names: dict[int, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r"([0-9]{1,9}) (\S(?:.*\S)?)\s*", line)
        if found is None or not found[2].isprintable():
            raise DataError(f"{path}:{number}: {line[:80]!r} is not 'id name'")
        if int(found[1]) in names:
            raise DataError(f"{path}:{number}: class {found[1]} is named twice; keep one line")
        names[int(found[1])] = found[2]
    gaps = sorted(set(range(len(names))) - set(names))
    if not names or gaps:
        what = f"class {gaps[0]} is missing" if gaps else "0 classes"
        raise DataError(f"{path}: {what}; number the classes from 0 without a gap, one a line")
    return [names[label] for label in range(len(names))]


def write_class_map(path: Path, classes: Sequence[str]) -> Path:
    """Write ``id name`` a line.

    Raises:
        DataError: there is no class, or a name is empty, ends in a space or is not printable.
    """
    if not classes:
        raise DataError(f"{path}: 0 classes; a class map needs at least one")
    for name in classes:
        if not name or name != name.strip() or not name.isprintable():
            raise DataError(
                f"{path}: class name {name!r} cannot stand in a class map: it is empty, starts or "
                "ends with a space, or has a control character; rename the class"
            )
    return write_text(path, "".join(f"{label} {name}\n" for label, name in enumerate(classes)))
