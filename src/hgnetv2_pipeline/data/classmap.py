"""Class maps: the names of the classes, ``id name`` a line, or one name a line in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hgnetv2_pipeline.data.regular import open_or_refuse
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import DataError

_ID_AND_NAME = re.compile(r"([0-9]{1,9})[ \t](\S(?:.*\S)?)\s*")


def read_class_map(path: Path) -> list[str]:
    """Class names by number from ``id name`` lines, or from one name per line (``labels.txt``).

    Names may contain spaces. A file whose lines begin with numbers in part is neither.

    Raises:
        DataError: not 0..n-1 each once, a line without a name, not UTF-8, empty.
    """
    lines = list(_lines(path))
    numbered = [_ID_AND_NAME.fullmatch(line) for _, line in lines]
    if lines and not any(numbered):
        return [_name(path, number, line.strip()) for number, line in lines]
    names: dict[int, str] = {}
    for (number, line), found in zip(lines, numbered, strict=True):
        if found is None:
            raise DataError(
                f"{path}:{number}: {line[:80]!r} is not 'id name', as other lines are; number all "
                "lines from 0, or none"
            )
        if int(found[1]) in names:
            raise DataError(f"{path}:{number}: class {found[1]} is named twice; keep one line")
        names[int(found[1])] = _name(path, number, found[2])
    gaps = sorted(set(range(len(names))) - set(names))
    if not names or gaps:
        what = f"class {gaps[0]} is missing" if gaps else "0 classes"
        raise DataError(f"{path}: {what}; number the classes from 0 without a gap, one per line")
    return [names[label] for label in range(len(names))]


def _name(path: Path, number: int, name: str) -> str:
    if not name.isprintable():
        raise DataError(f"{path}:{number}: class name {name[:80]!r} has a control character")
    return name


def read_synset_map(path: Path) -> dict[str, str]:
    """Class name by synset from ``n01440764 tench, Tinca tinca`` lines (LOC_synset_mapping.txt).

    Raises:
        DataError: a line of another form, a synset twice, not UTF-8, empty.
    """
    names: dict[str, str] = {}
    for number, line in _lines(path):
        found = re.fullmatch(r"(n[0-9]{8}) (\S(?:.*\S)?)\s*", line)
        if found is None or not found[2].isprintable():
            raise DataError(f"{path}:{number}: {line[:80]!r} is not 'n01440764 name'")
        if found[1] in names:
            raise DataError(f"{path}:{number}: {found[1]} is named twice; keep one line")
        names[found[1]] = found[2]
    if not names:
        raise DataError(f"{path}: 0 classes; one 'n01440764 name' a line is needed")
    return names


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    try:
        with open_or_refuse(Path(path), "class map") as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line


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
                f"{path}: class name {name!r} cannot be in a class map: it is empty, starts or "
                "ends with a space, or has a control character; rename the class"
            )
    return write_text(path, "".join(f"{label} {name}\n" for label, name in enumerate(classes)))
