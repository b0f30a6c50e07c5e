"""Whether the files of a list are there, are regular files and lie inside the root.

A million files are checked by reading each folder once, several folders at a time, which is far
quicker than a million separate look-ups and kind to network disks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hgnetv2_pipeline.data.archives import index_archive
from hgnetv2_pipeline.data.index import ARCHIVE_MARK
from hgnetv2_pipeline.errors import DataError

_THREADS = 16
# Below this share of a folder's files it is quicker to ask for each listed file by itself.
_FEW = 32

MISSING = "the file is missing"


@dataclass(frozen=True)
class Problem:
    """A listed file that cannot be used: its position in the list, its path, the reason."""

    position: int
    path: str
    reason: str


class Fence:
    """Decides whether a place lies inside a root, or inside a folder that links may lead into."""

    def __init__(self, root: Path, trusted_roots: Sequence[Path] = ()) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{root}: the folder of images is missing or not a folder")
        self._real = os.path.realpath(self.root)
        self._allowed = [self._real, *(os.path.realpath(trusted) for trusted in trusted_roots)]

    def holds(self, place: str | Path) -> bool:
        """Whether ``place``, all links followed, lies inside."""
        real = os.path.realpath(place)
        return any(_below(real, allowed) for allowed in self._allowed)

    def holds_only_by_trust(self, place: str | Path) -> bool:
        """Whether ``place`` lies in a trusted root but not in the root itself."""
        real = os.path.realpath(place)
        return not _below(real, self._real) and self.holds(real)

    def why_unusable(self, place: str) -> str | None:
        """Why a listed file cannot be used; None if it can. Follows links, opens nothing."""
        try:
            mode = Path(place).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return MISSING if not Path(place).is_symlink() else "a link to a file that is missing"
        except OSError as error:
            return f"cannot be looked up: {error.strerror or error}"
        if not self.holds(place):
            return "a link leads out of the root; add its target to data.trusted_roots"
        if stat.S_ISDIR(mode):
            return "a directory, not an image file"
        if not stat.S_ISREG(mode):
            return "not a regular file"
        return None


def _below(real: str, folder: str) -> bool:
    return real == folder or real.startswith(folder.rstrip("/") + "/")


def split_key(key: str) -> tuple[str, str]:
    """The archive and the member that ``archive.tar!member`` names."""
    before, _, member = key.partition(ARCHIVE_MARK)
    return before + ARCHIVE_MARK[:-1], member


def check_files(paths: pd.Series, root: Path, trusted_roots: Sequence[Path]) -> list[Problem]:
    """The unusable ones among listed paths, in the order of the list.

    Args:
        paths: relative to ``root``; ``archive.tar!member`` names a member of an archive.
    """
    fence = Fence(root, trusted_roots)
    in_archive = paths.str.contains(ARCHIVE_MARK, regex=False)
    plain = paths[~in_archive]
    split = plain.str.rpartition("/")
    folders = pd.DataFrame({"folder": split[0], "name": split[2]}).groupby("folder", sort=True)
    jobs = [(str(folder), group["name"]) for folder, group in folders]
    members = paths[in_archive]
    tars = members.map(lambda key: split_key(key)[0])
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda job: _check_folder(fence, *job), jobs))
        found += list(
            pool.map(
                lambda tar: _check_archive(fence, str(tar), members[tars == tar]),
                tars.drop_duplicates(),
            )
        )
    problems = [problem for part in found for problem in part]
    return sorted(problems, key=lambda problem: problem.position)


def _check_folder(fence: Fence, folder: str, names: pd.Series) -> list[Problem]:
    place = str(fence.root / folder)
    prefix = f"{folder}/" if folder else ""
    doubtful = names
    if len(names) > _FEW and fence.holds(place):
        try:
            with os.scandir(place) as entries:
                regular = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
            doubtful = names[~names.isin(regular)]
        except OSError:
            doubtful = names  # each file is looked up by itself and gives its own reason
    problems = []
    for position, name in zip(doubtful.index, doubtful, strict=True):
        reason = fence.why_unusable(f"{place}/{name}")
        if reason is not None:
            problems.append(Problem(int(position), prefix + name, reason))
    return problems


def _check_archive(fence: Fence, tar: str, members: pd.Series) -> list[Problem]:
    reason = fence.why_unusable(str(fence.root / tar))
    present: set[str] = set()
    if reason is None:
        try:
            present = {member.name for member in index_archive(fence.root / tar).members}
        except DataError as error:
            reason = str(error)
    problems = []
    for position, key in zip(members.index, members, strict=True):
        if reason is not None or key[len(tar) + 1 :] not in present:
            why = reason or "the archive has no such member"
            problems.append(Problem(int(position), key, why))
    return problems
