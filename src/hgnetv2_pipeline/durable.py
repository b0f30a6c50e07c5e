"""Files that are either whole or absent: write aside, fsync, rename; and SHA-256 of contents."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.errors import DiskFullError, ParameterError
from hgnetv2_pipeline.exits import REMEDIES, free_bytes, full_disk
from hgnetv2_pipeline.ownership import mark, sweep_dead

_CHUNK = 1 << 20
_LONGEST_BELOW = 200  # what our own folders and files add to a path at most


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form: the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_sha256(value: object) -> bool:
    """Whether a value is a SHA-256 as these functions tell it."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def fsync_directory(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_umask() -> int:
    """The umask of this process, read without changing it: another thread may make a file now."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def never_for_everyone() -> None:
    """From here on this process makes nothing that everyone may change, whatever its umask was."""
    os.umask(current_umask() | 0o002)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    If the body raises, ``path`` is untouched and the temporary file is gone; what a killed process
    left of its own attempt goes too. A full disk becomes ``DiskFullError`` with the place and what
    is free there.
    """
    path = Path(path)
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_dead(path)
        named = path.with_name(f".{path.name}.{mark()}.tmp")
        # Not by tempfile, which makes private files: a result is as readable as the umask allows,
        # and nobody but its owner and their group may ever change it.
        os.close(os.open(named, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o664))
        aside = named
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        fsync_directory(path.parent)
    except Exception as error:
        meaning = full_disk(error, path.parent)
        if meaning is not None and not isinstance(error, DiskFullError):
            raise DiskFullError(
                f"{meaning} while writing {path}: {free_bytes(path):,} bytes free there; "
                "an earlier version of it, if any, is kept"
            ) from error
        raise
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def require_writable(path: Path, setting: str) -> None:
    """Raise ParameterError if no file can be made where ``path`` is, or would be, DiskFullError if
    there is no room for one; ``setting`` is what names the place.
    """
    path = Path(path)
    folder = next(place for place in path.absolute().parents if place.exists())
    try:
        if len(os.fsencode(path.absolute())) + _LONGEST_BELOW > os.pathconf(folder, "PC_PATH_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        # A name as long as those that follow; a file with a byte needs an inode and a block.
        handle, name = tempfile.mkstemp(prefix=".writable.", suffix=".tmp", dir=folder)
        try:
            os.write(handle, b"?")
            os.fsync(handle)
        finally:
            os.close(handle)
            Path(name).unlink()
    except OSError as error:
        if meaning := full_disk(error, folder):
            raise DiskFullError(f"{setting}: {meaning}: nothing can be written to {folder}") from (
                error
            )
        remedy = REMEDIES.get(error.errno or 0) or "name another place"
        raise ParameterError(
            f"{setting}: nothing can be written to {folder} ({error.strerror}); {remedy}"
        ) from error


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path``, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> Path:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    return write_text(path, _as_json(value))


def update_json(path: Path, value: Mapping[str, Any] | list[Any]) -> Path:
    """``write_json``, unless the file holds just that; what else it holds does not matter."""
    if not path.is_file() or path.read_bytes() != _as_json(value).encode():
        write_json(path, value)
    return path


def _as_json(value: Mapping[str, Any] | list[Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
