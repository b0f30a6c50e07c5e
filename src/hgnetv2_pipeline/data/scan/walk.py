"""The files below a root that claim to be images, in folders and in tars, links minded.

Nothing is decoded here. What claims to be an image and cannot be read in place is kept with its
reason; files that do not claim to be images (by their ending, or by their first bytes if they have
none) are only counted; hidden files and folders are passed over.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.data.formats import claims_picture, head_of, is_passed_over
from hgnetv2_pipeline.data.lists.files import Fence
from hgnetv2_pipeline.data.lists.syntax import why_unlistable
from hgnetv2_pipeline.data.scan.archives import index_archive
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import printable

_log = logging.getLogger(__name__)

_PACKED = {
    ".zip": "a zip archive",
    ".7z": "a 7-zip archive",
    ".rar": "a rar archive",
    ".gz": "a compressed archive",
    ".tgz": "a compressed archive",
    ".xz": "a compressed archive",
    ".bz2": "a compressed archive",
    ".zst": "a compressed archive",
}


@dataclass(frozen=True, slots=True)
class UnopenedFile:
    """A file that claims to be an image, not opened yet."""

    key: str
    path: str
    offset: int
    length: int
    label: int | None = None
    line: int | None = None


class Walk:
    """Collects the files below a root that claim to be images, links and archives minded."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.found: list[UnopenedFile] = []
        self.bad: list[tuple[str, str, int | None]] = []
        self.ignored = 0
        # Tars whose members are all in one folder.
        self.wrapped: set[str] = set()

    def quarantine(self, key: str, reason: str, line: int | None = None) -> None:
        self.bad.append((printable(key), reason, line))

    def run(self) -> None:
        folders = [""]
        seen = {os.path.realpath(self.fence.root)}
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                if is_passed_over(entry.name):
                    continue
                key = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    self._entry(entry, key, folders, seen)
                except OSError as error:
                    self.quarantine(key, f"cannot be looked up: {error.strerror or error}")
        if self.ignored:
            _log.info("%s: %d files are no images and are ignored", self.fence.root, self.ignored)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What a folder holds, by name; as much of it as can be listed."""
        listed: list[os.DirEntry[str]] = []
        try:
            with os.scandir(self.fence.root / folder) as entries:
                listed.extend(entries)
        except OSError as error:
            so_far = f" after {len(listed):,} entries" if listed else ""
            self.quarantine(
                folder or ".", f"the folder cannot be read{so_far}: {error.strerror or error}"
            )
        return sorted(listed, key=lambda entry: entry.name)

    def _entry(self, entry: os.DirEntry[str], key: str, folders: list[str], seen: set[str]) -> None:
        if entry.is_dir(follow_symlinks=False):
            folders.append(key)
        elif entry.is_symlink() and entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in seen or not self.fence.holds_only_by_trust(entry.path):
                self.quarantine(
                    key, "a link to a folder; only links into data.trusted_roots are followed"
                )
            else:
                seen.add(real)
                folders.append(key)
        else:
            self._file(entry, key)

    def _file(self, entry: os.DirEntry[str], key: str) -> None:
        ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a million Paths are slow
        if ending in _PACKED:
            self.quarantine(key, f"{_PACKED[ending]} is not read in place; make it a plain .tar")
        elif ending == ".tar" or claims_picture(entry.name, lambda: head_of(Path(entry.path))):
            if entry.is_file(follow_symlinks=False):
                reason = None
            else:
                reason = self.fence.why_unusable(entry.path)
            reason = reason or why_unlistable(key)
            if reason is not None:
                self.quarantine(key, reason)
            elif ending == ".tar":
                self.archive(key)
            else:
                self.found.append(UnopenedFile(key, key, -1, -1))
        else:
            self.ignored += 1

    def archive(self, path: str) -> None:
        """Collect the members of a tar."""
        try:
            index = index_archive(self.fence.root / path)
        except DataError as error:
            self.quarantine(path, str(error))
            return
        for unusable in index.refused:
            self.quarantine(f"{path}!{unusable.key}", unusable.reason)
        tops: set[str] = set()
        for member in index.members:
            key = f"{path}!{member.name}"
            if any(map(is_passed_over, member.name.split("/"))):
                continue
            if not claims_picture(member.name, lambda: b""):
                self.ignored += 1
                continue
            unlistable = why_unlistable(key)
            if unlistable is not None:
                self.quarantine(key, unlistable)
                continue
            top, slash, _ = member.name.partition("/")
            tops.add(top if slash else "")
            self.found.append(UnopenedFile(key, path, member.offset, member.length))
        if len(tops) == 1 and "" not in tops:
            self.wrapped.add(path)


def folders_of(found: UnopenedFile, wrapped: set[str], *, splits: bool = False) -> tuple[str, ...]:
    """The folders that a file is in, from the root down; a tar counts as what it would unpack to.

    That is its own folders, one around everything looked through, or, without folders, one of its
    own name. With ``splits`` a tar that is called as a split is (train.tar) is that split's folder.
    """
    *outer, name = found.key.partition("!")[0].split("/")
    if found.offset < 0:
        return tuple(outer)
    # Of a tar within the tar the name counts as a folder's does.
    inside = found.key[len(found.path) + 1 :].replace(".tar!", "/").split("/")[:-1]
    stem = name[: -len(".tar")]
    around = inside[0] if inside else ""
    named = split_of(stem) if splits and not outer else None
    # A folder around everything that is called as a split is that split's, unless the tar says so.
    if found.path in wrapped and (not (splits and split_of(around)) or named == split_of(around)):
        inside = inside[1:]
    own = [stem] if not inside or named else []
    return (*outer, *own, *inside)


SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What folders, tars and shards of a split are called."""


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds; None where it is none's."""
    for split, names in SPLIT_FOLDERS.items():
        if name.lower() in names:
            return split
    return None


def natural(name: str) -> tuple[object, ...]:
    """Sort key in which runs of digits count as numbers: class2 before class10."""
    parts = re.split(r"([0-9]+)", name)
    return (*(int(p) if at % 2 else p for at, p in enumerate(parts)), name)
