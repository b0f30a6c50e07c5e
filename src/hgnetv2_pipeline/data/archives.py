"""Tar archives read in place: where each member's bytes lie, without extracting anything.

Only plain ``.tar`` files have such places; GNU and pax long names are understood, and so is a tar
within a tar (ImageNet's training set ships as one tar of a tar a class).
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hgnetv2_pipeline.errors import DataError

_DEEPEST = 3


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name there, and where its bytes lie in the outermost archive."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True)
class ArchiveIndex:
    """The members of an archive in its order, and what cannot be used with the reason."""

    members: list[Member]
    refused: list[tuple[str, str]]


def index_archive(path: Path) -> ArchiveIndex:
    """List the regular files of a tar with the offsets of their bytes.

    A later member of the same name supersedes an earlier one, as in extraction. A nested ``x.tar``
    appears as members ``x.tar!name``.

    Raises:
        DataError: the file is missing or not a plain tar.
    """
    members: dict[str, Member] = {}
    refused: list[tuple[str, str]] = []
    _collect(path, 0, path.stat().st_size, "", 1, members, refused)
    return ArchiveIndex(list(members.values()), refused)


def read_member(path: Path, offset: int, length: int) -> bytes:
    """The bytes of a member of the archive ``path``.

    Raises:
        DataError: with the reason, free of the path: missing, unreadable, cut short.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = os.pread(handle, length, offset)
        finally:
            os.close(handle)
    except OSError as error:
        raise DataError(f"the archive cannot be read: {error.strerror or error}") from error
    if len(content) != length:
        raise DataError(f"the archive ends early: {len(content):,} of {length:,} bytes")
    return content


def _collect(
    path: Path,
    start: int,
    end: int,
    prefix: str,
    depth: int,
    members: dict[str, Member],
    refused: list[tuple[str, str]],
) -> None:
    with path.open("rb") as file:
        file.seek(start)
        try:
            tar = tarfile.open(  # noqa: SIM115 - closed with its file below
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            )
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"not a plain tar archive ({error})") from error
        links: dict[str, Member] = {}
        while True:
            try:
                info = tar.next()
            except (tarfile.TarError, OSError, ValueError) as error:
                refused.append((f"{prefix}(rest)", f"the archive is damaged from here on: {error}"))
                return
            if info is None or info.offset >= end:
                return
            # tarfile keeps every header it has seen; a million of them would fill the memory.
            tar.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue
            name = prefix + info.name.removeprefix("./")
            reason = _unusable(info, name, end)
            if info.islnk() and info.linkname in links and reason is None:
                original = links[info.linkname]
                member = Member(name, original.offset, original.length)
            elif reason is None and info.isreg():
                member = Member(name, info.offset_data, info.size)
                links[info.name] = member
            else:
                refused.append((name, reason or "a link or device inside an archive"))
                continue
            if name.lower().endswith(".tar") and depth < _DEEPEST:
                inner_end = member.offset + member.length
                try:
                    _collect(
                        path, member.offset, inner_end, f"{name}!", depth + 1, members, refused
                    )
                except DataError as error:
                    refused.append((name, str(error)))
                continue
            if name in members:
                refused.append((name, "named again later in the archive, the later one counts"))
            members[name] = member


def _unusable(info: tarfile.TarInfo, name: str, end: int) -> str | None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return "the name leads out of the archive"
    if info.issparse():
        return "a sparse member, its bytes do not lie in one piece"
    if info.isreg() and info.offset_data + info.size > end:
        return "the archive ends before this member does"
    return None
