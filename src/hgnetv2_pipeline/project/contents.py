"""SHA-256 of files and folders, remembered for as long as a file is the same one."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from hgnetv2_pipeline.durable import is_sha256, sha256_file, sha256_json

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_Known = tuple[int, int, int, int]
_COLUMNS = {
    "path": "text primary key", "size": "integer", "mtime_ns": "integer", "ctime_ns": "integer",
    "inode": "integer", "sha256": "text",
}  # fmt: skip


class ContentHashes:
    """SHA-256 of files, remembered by size, times of change and inode, as git does it.

    A touched file is read again and found unchanged. A flipped byte is found because writing it
    touches the file, and another file in its place because its inode and the time of its change,
    which nobody can set, are others. Corruption below the file system needs ``fresh=True``.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        database.parent.mkdir(parents=True, exist_ok=True)
        self._mended(lambda connection: None)

    def _mended(self, act: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``act`` does with the database; a damaged one is set aside and begun afresh."""
        try:
            return self._with_table(act)
        except sqlite3.DatabaseError as error:
            # Its other kinds are about the disk, the lock or our own statements.
            if type(error) is not sqlite3.DatabaseError:
                raise
            damaged = self._database.with_name(f"{self._database.name}.damaged")
            for more in ("-journal", "-wal", "-shm", ""):  # of the damaged one, not of the next
                with suppress(FileNotFoundError):
                    Path(f"{self._database}{more}").replace(f"{damaged}{more}")
            _log.warning(
                "%s is damaged (%s) and is now %s: files are read again, once",
                self._database, error, damaged.name,
            )  # fmt: skip
            return self._with_table(act)

    def _with_table(self, act: Callable[[sqlite3.Connection], _T]) -> _T:
        with closing(sqlite3.connect(self._database, timeout=60)) as connection, connection:
            columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
            connection.execute(f"create table if not exists contents ({columns})")
            found = [row[1] for row in connection.execute("pragma table_info(contents)")]
            if found != list(_COLUMNS):
                raise sqlite3.DatabaseError("its table has other columns")
            connection.execute("drop table if exists hashes")  # of versions before inodes counted
            return act(connection)

    def file(self, path: Path, *, fresh: bool = False) -> str:
        """SHA-256 of one file."""
        return self.files([path], fresh=fresh)[0]

    def files(self, paths: Sequence[Path], *, fresh: bool = False) -> list[str]:
        """SHA-256 of many files, in order."""
        return self._mended(lambda connection: _hashed(connection, paths, fresh))

    def note(self, paths: Sequence[Path], digests: Sequence[str]) -> None:
        """Remember the SHA-256 of files that were hashed at another place and moved since."""
        rows = [
            (str(path), *_known(path), digest) for path, digest in zip(paths, digests, strict=True)
        ]
        self._mended(lambda connection: _remember(connection, rows))

    def tree(self, folder: Path) -> str:
        """SHA-256 over all files below ``folder``: their relative names and contents."""
        # os.walk rather than rglob: it follows symlinked folders (DVC makes them) and is faster.
        names: list[str] = []
        for where, folders, files in os.walk(folder, followlinks=True):
            folders[:] = [name for name in folders if not _leads_up(Path(where) / name)]
            base = Path(where).relative_to(folder)
            names += [(base / name).as_posix() for name in files if not name.startswith(".")]
        names.sort()
        hashes = self.of_any_kind([folder / name for name in names])
        return sha256_json(list(zip(names, hashes, strict=True)))

    def of_any_kind(self, paths: Sequence[Path]) -> list[str]:
        """As ``files``, with words for what is missing or no regular file (a pipe would block)."""
        hashes = ["no regular file" if path.exists() else "missing" for path in paths]
        regular = [place for place, path in enumerate(paths) if path.is_file()]
        for place, digest in zip(
            regular, self.files([paths[place] for place in regular]), strict=True
        ):
            hashes[place] = digest
        return hashes


def _known(path: Path) -> _Known:
    """By what a file is known to be the one that was hashed."""
    status = path.stat()
    # SQLite's numbers have a sign, inodes have none.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino % (1 << 63)


def _hashed(connection: sqlite3.Connection, paths: Sequence[Path], fresh: bool) -> list[str]:
    hashes: list[str] = []
    rows: list[tuple[object, ...]] = []
    for path in paths:
        known = _known(path)
        row = connection.execute(
            "select size, mtime_ns, ctime_ns, inode, sha256 from contents where path = ?",
            (str(path),),
        ).fetchone()
        if row and not fresh and row[:4] == known and is_sha256(row[4]):
            hashes.append(row[4])
            continue
        digest = sha256_file(path)
        hashes.append(digest)
        rows.append((str(path), *known, digest))
    _remember(connection, rows)
    return hashes


def _remember(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        connection.executemany("insert or replace into contents values (?, ?, ?, ?, ?, ?)", rows)


def _leads_up(folder: Path) -> bool:
    """Whether a link leads to a folder that it is in itself, and so for ever round."""
    return folder.is_symlink() and folder.resolve() in (folder.parent.resolve() / "x").parents
