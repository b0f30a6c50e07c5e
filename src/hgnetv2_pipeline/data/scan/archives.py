"""Tar archives read in place: where each member's bytes are, without extracting anything.

Only plain ``.tar`` files have such places. A tar within a tar is read too (ImageNet's training set
ships as one tar of a tar a class), three deep.

Every member is either usable or named with a reason, and so is every range of bytes that cannot be
understood: behind damage the next header with a right checksum is looked for, and reading goes on
there. In an archive of archives loose members between damage and the next archive are left out:
they may belong to an inner archive whose header was lost, and its name may be their class.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hgnetv2_pipeline.data.regular import open_regular
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.tar_members import (
    FILE,
    FOLDER,
    HARD_LINK,
    Gap,
    NotATarError,
    TarDamage,
    TarEntry,
    TarReader,
)

_log = logging.getLogger(__name__)

_DEEPEST = 3
_LONGEST_NAME, _SHOWN = 4096, 80
_ENDING = ".tar"
_ADRIFT = "behind damage, it may belong to an inner archive whose header was lost"


class ArchiveMember(NamedTuple):
    """A file in an archive: its name there, and where its bytes are in the outermost archive."""

    name: str
    offset: int
    length: int


class UnusablePart(NamedTuple):
    """What of an archive cannot be used: a member, or (``name`` empty) a range of bytes.

    ``key`` is shown to the user and is unlike all other keys and names of the archive.
    """

    key: str
    name: str
    reason: str


@dataclass(frozen=True)
class ArchiveIndex:
    """The members of an archive in its order, and what cannot be used with the reason.

    ``joins`` are ranges of zeros behind which another archive begins, as ``cat a.tar b.tar`` leaves
    them; the members behind are read.
    """

    members: list[ArchiveMember]
    refused: list[UnusablePart]
    joins: list[tuple[int, int]]


def index_archive(path: Path) -> ArchiveIndex:
    """List the regular files of a tar with the offsets of their bytes.

    A later member of the same name supersedes an earlier one, as in extraction. A nested ``x.tar``
    appears as members ``x.tar!name``. A hard link is the member it leads to.

    Raises:
        DataError: the file is missing, cannot be read or is not a plain tar.
    """
    found = _Found()
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        _Archive(descriptor, "", 1, found).read(0, size)
    if found.joins:
        _log.warning(
            "%s: archives are joined in %d places, first behind the zeros at bytes %d to %d; the "
            "members behind are read",
            path, len(found.joins), *found.joins[0],
        )  # fmt: skip
    return ArchiveIndex(list(found.members.values()), found.refused(), found.joins)


def read_member(path: Path, offset: int, length: int) -> bytes:
    """The bytes of a member of the archive ``path``.

    Raises:
        DataError: with the reason, free of the path: missing, unreadable, cut short.
    """
    with _opened(path) as descriptor:
        content = os.pread(descriptor, length, offset)
    if len(content) != length:
        raise DataError(f"the archive ends early: {len(content):,} of {length:,} bytes")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of an archive; an OSError becomes a DataError with the reason."""
    try:
        with open_regular(path) as file:
            yield file.fileno()
    except OSError as error:
        raise DataError(f"the archive cannot be read: {error.strerror or error}") from error


class _Found:
    """What has been found so far, in all archives of one file."""

    def __init__(self) -> None:
        self.members: dict[str, ArchiveMember] = {}
        self.joins: list[tuple[int, int]] = []
        self._refused: list[tuple[str, str, int]] = []
        self._gaps: list[tuple[str, Gap, str]] = []

    def take(self, member: ArchiveMember) -> None:
        old = self.members.get(member.name)
        if old is not None:
            reason = "named again later in the archive, the later one counts"
            self.refuse(member.name, reason, old.offset)
        self.members[member.name] = member

    def give_up(self, member: ArchiveMember, reason: str) -> None:
        """Refuse a member that was taken."""
        if self.members.get(member.name) == member:
            del self.members[member.name]
            self.refuse(member.name, reason, member.offset)

    def refuse(self, name: str, reason: str, place: int) -> None:
        """A member that cannot be used; ``place`` is the offset of its header or data."""
        self._refused.append((name, reason, place))

    def lose(self, prefix: str, gap: Gap, reason: str) -> None:
        """Bytes that cannot be understood; a gap that begins where the last ended prolongs it."""
        if self._gaps and self._gaps[-1][0] == prefix and self._gaps[-1][1].end == gap.begin:
            _, last, reason = self._gaps.pop()
            gap = gap._replace(begin=last.begin, lost=last.lost + gap.lost)
        self._gaps.append((prefix, gap, reason))

    def refused(self) -> list[UnusablePart]:
        names = Counter(name for name, *_ in self._refused)
        unusable = []
        for name, reason, place in self._refused:
            alone = names[name] == 1 and name not in self.members
            unusable.append(
                UnusablePart(name if alone else f"{name} (at byte {place:,})", name, reason)
            )
        for prefix, gap, reason in self._gaps:
            lost = f"{gap.lost:,} or more" if gap.lost else "an unknown number"
            unusable.append(
                UnusablePart(
                    f"{prefix}({gap})", "", f"damaged {gap}: {reason}; members lost: {lost}"
                )
            )
        return unusable


class _Archive:
    """One archive: the whole file, or one that is within another and has ``prefix`` for it."""

    def __init__(self, descriptor: int, prefix: str, depth: int, found: _Found) -> None:
        self._descriptor, self._prefix = descriptor, prefix
        self._depth, self._found = depth, found
        self._holds_archives = False
        self.damaged = False
        # Members taken since damage, as long as no inner archive has been seen behind it.
        self._since_damage: list[ArchiveMember] | None = None

    def read(self, begin: int, end: int) -> None:
        reader = TarReader(self._descriptor, begin, end)
        try:
            reader.check_start()
        except NotATarError as error:
            raise DataError(f"not a plain tar archive ({error})") from error
        while True:
            try:
                entry = reader.next_entry()
            except TarDamage as damage:
                if damage.entry is not None and _is_archive(damage.entry):
                    self._inner(damage.entry, end, str(damage))  # all that is left belongs to it
                    return
                gap = reader.resume(damage)
                if not damage.sound and damage.begin == begin and gap.last:
                    raise DataError(f"not a plain tar archive ({damage})") from damage
                self._pass_over(damage, gap)
                continue
            if entry is None:
                break
            if entry.kind != FOLDER:
                self._take(entry)
        self._found.joins += reader.joins

    def _pass_over(self, damage: TarDamage, gap: Gap) -> None:
        self._since_damage, self.damaged = [], True
        if damage.entry is not None:
            self._refuse(damage.entry, f"{damage} (damaged {gap})")
        else:
            self._found.lose(self._prefix, gap, str(damage))
            self._holds_archives |= damage.hint.lower().endswith(_ENDING)

    def _take(self, entry: TarEntry) -> None:
        if entry.kind == HARD_LINK:
            original = self._found.members.get(self._name(entry.link))
            if original is not None:
                entry = entry._replace(kind=FILE, offset=original.offset, size=original.length)
        reason = _why_unusable(entry)
        if reason is not None:
            self._refuse(entry, reason)
        elif _is_archive(entry):
            self._inner(entry, entry.offset + entry.size)
        elif self._since_damage is not None and self._holds_archives:
            self._refuse(entry, _ADRIFT)
        else:
            member = ArchiveMember(self._name(entry.name), entry.offset, entry.size)
            self._found.take(member)
            if self._since_damage is not None:
                self._since_damage.append(member)

    def _inner(self, entry: TarEntry, end: int, cut: str = "") -> None:
        """Reads an archive within this one; ``cut`` says why it is not all there."""
        for member in self._since_damage or ():
            self._found.give_up(member, _ADRIFT)
        self._holds_archives = True
        if self._depth == _DEEPEST:
            self._refuse(entry, f"archives more than {_DEEPEST} deep are not read; unpack this one")
            return
        prefix = f"{self._name(entry.name)}!"
        inner = _Archive(self._descriptor, prefix, self._depth + 1, self._found)
        try:
            inner.read(entry.offset, end)
        except DataError as error:
            cut = cut or str(error)
        if cut:
            self._refuse(entry, cut)
        # Where an inner archive is damaged, its header may be wrong about where it ends.
        self._since_damage = [] if cut or inner.damaged else None

    def _refuse(self, entry: TarEntry, reason: str) -> None:
        name = self._name(entry.name)
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_SHOWN]}..."
        self._found.refuse(name, reason, entry.begin)

    def _name(self, name: str) -> str:
        return self._prefix + (name.removeprefix("./") or "(without a name)")


def _is_archive(entry: TarEntry) -> bool:
    return entry.kind == FILE and entry.name.lower().endswith(_ENDING)


def _why_unusable(entry: TarEntry) -> str | None:
    name = entry.name
    if entry.kind != FILE:
        return f"{entry.kind} inside an archive"
    if not name:
        return "a member that has no name"
    if len(name) > _LONGEST_NAME:
        return f"its name has {len(name):,} characters"
    if name[0] == "/" or (".." in name and ".." in name.split("/")):
        return "the name leads out of the archive"
    return None
