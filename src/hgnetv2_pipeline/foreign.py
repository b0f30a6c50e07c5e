"""Files that others made: one boundary round reading them, and JSON of theirs read within limits.

Whoever reads a weight file, a model, a card, an archive or an image knows some of what can be wrong
with it, and says so. For the rest there is ``foreign_file``: damage that nobody foresaw, want of
memory and nesting without end included, is one line with the file's name and the right exit code.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hgnetv2_pipeline.errors import DataError, WeightsError

MAX_JSON = 8 << 20
"""Characters; the names of 20,000 classes are half a million."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_DEPTH = 64
_LONGEST = 300
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


@contextmanager
def foreign_file(
    name: object, kind: type[WeightsError] | type[DataError], what: str = "cannot be read"
) -> Iterator[None]:
    """Round the reading of a file from outside: whatever is raised becomes one line of ``kind``.

    The line is ``name``, ``what`` and the reason. Errors of ours (they carry an exit code) pass
    unchanged, as do a full disk, which is not the file's fault, and interrupts.
    """
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "exit_code", None), int):
            raise
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise kind(f"{name} {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What a library's error says, in one short line without control characters."""
    if isinstance(error, MemoryError):
        return "there is not memory enough for it"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    # Libraries quote the file, and a file may hold what steers a terminal.
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return text or type(error).__name__


def parse_json(text: str, longest: int = MAX_JSON) -> Any:
    """The value of a JSON text from outside. Raises ``ValueError`` for what is no plain JSON.

    Nesting and length are bounded, a key appears once in its object, and there is no NaN, no
    infinity and no half of a surrogate pair, which Python would read and other readers refuse.
    """
    if len(text) > longest:
        raise ValueError(f"{len(text):,} characters of JSON; {longest:,} are allowed")
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > _MAX_DEPTH:
            raise ValueError(f"JSON nested deeper than {_MAX_DEPTH}")
    value = json.loads(
        text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
    )
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("JSON with half of a surrogate pair, which is no character") from None
    return value


def _no_constant(constant: str) -> None:
    raise ValueError(f"the number {constant}")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):  # 1e400
        raise ValueError(f"the number {text[:20]}")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice in one object")
    return found
