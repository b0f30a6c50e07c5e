"""Whether the files of a list are there, are regular files and are inside the root.

A million files are checked by reading each folder once, several folders at a time, which is far
quicker than a million separate look-ups and kind to network disks.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from hgnetv2_pipeline.data.index import ARCHIVE_MARK
from hgnetv2_pipeline.data.lists.fits import what_would_fit
from hgnetv2_pipeline.data.lists.syntax import ParsedList, windows
from hgnetv2_pipeline.data.quarantine import quarantine_frame, write_quarantine
from hgnetv2_pipeline.data.scan.archives import index_archive
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import printable
from hgnetv2_pipeline.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

_SHOWN = 20

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
    """Decides whether a place is inside a root, or inside a folder that links may lead into."""

    def __init__(self, root: Path, trusted_roots: Sequence[Path] = ()) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{root}: the folder of images is missing or not a folder")
        self._real = os.path.realpath(self.root)
        self._allowed = [self._real, *(os.path.realpath(trusted) for trusted in trusted_roots)]

    def holds(self, place: str | Path) -> bool:
        """Whether ``place``, all links followed, is inside."""
        real = os.path.realpath(place)
        return any(_below(real, allowed) for allowed in self._allowed)

    def holds_only_by_trust(self, place: str | Path) -> bool:
        """Whether ``place`` is in a trusted root but not in the root itself."""
        real = os.path.realpath(place)
        return not _below(real, self._real) and self.holds(real)

    def why_folder_unusable(self, folder: str) -> str | None:
        """Why no file below ``folder`` (relative to the root) can be used; None if one may."""
        place = os.path.realpath(self.root / folder)
        plain = os.path.normpath(os.path.join(self._real, folder))  # noqa: PTH118
        if place != plain and _below(place, self._real):
            return "a link to a folder inside the root; list the files by their own paths"
        return None

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


def check_files(
    paths: pa.LargeStringArray, root: Path, trusted_roots: Sequence[Path]
) -> list[Problem]:
    """The unusable ones among listed paths, in the order of the list.

    Args:
        paths: strings relative to ``root``; ``archive.tar!member`` names a member of an archive.
    """
    import pyarrow.compute as pc

    fence = Fence(root, trusted_roots)
    in_archive = pc.match_substring(paths, ARCHIVE_MARK).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(~in_archive)
    plain = paths.filter(~in_archive) if in_archive.any() else paths
    members = pd.Series(paths.filter(in_archive).to_pylist(), index=np.flatnonzero(in_archive))
    tars = members.map(lambda key: split_key(key)[0])
    problems: list[Problem] = []
    with (
        Progress(len(paths), "look up", "files") as progress,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        jobs = _by_folder(plain)
        for count, found in pool.map(lambda job: _check_folder(fence, plain, *job), jobs):
            problems += [Problem(int(rows[row]), path, why) for row, path, why in found]
            progress.advance(count)
        for count, bad in pool.map(
            lambda group: _check_archive(fence, str(group[0]), group[1]), members.groupby(tars)
        ):
            problems += bad
            progress.advance(count)
    return sorted(problems, key=lambda problem: problem.position)


def _by_folder(paths: pa.LargeStringArray) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each folder with the rows of its files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(paths):
        return
    # A part at a time: the folders of all files at once are as large as the list.
    encoded = [
        pc.replace_substring_regex(part, r"(?:^|/)[^/]*$", "").dictionary_encode()
        for part in windows(paths)
    ]
    folders = pa.chunked_array(encoded).unify_dictionaries()
    known = folders.chunk(0).dictionary
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in folders.chunks])
    order = np.argsort(codes, kind="stable")
    bounds = np.flatnonzero(np.diff(codes[order], prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        members = order[first:last]
        yield known[int(codes[members[0]])].as_py(), members


def _check_folder(
    fence: Fence, paths: pa.LargeStringArray, folder: str, rows: npt.NDArray[np.int64]
) -> tuple[int, list[tuple[int, str, str]]]:
    """How many files were listed in a folder, and row, path and reason of the unusable ones."""
    listed: list[str] = paths.take(rows).to_pylist()
    place = str(fence.root / folder)
    reason = fence.why_folder_unusable(folder)
    if reason is not None:
        return len(rows), [(row, path, reason) for row, path in zip(rows, listed, strict=True)]
    regular: set[str] = set()
    present: set[str] | None = None
    if len(rows) > _FEW and fence.holds(place):
        try:
            with os.scandir(place) as entries:
                found = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
            present = set(found)
            regular = {name for name, is_file in found.items() if is_file}
        except FileNotFoundError:
            present = set()
        except OSError as error:
            # Each file is looked up by itself and gives its own reason.
            _log.debug("%s: %s", place, error)
    skip = len(folder) + 1 if folder else 0
    problems = []
    for row, path in zip(rows, listed, strict=True):
        name = path[skip:]
        if name in regular:
            continue
        # A name that the folder does not have needs no look-up of its own.
        gone = present is not None and name not in present
        reason = MISSING if gone else fence.why_unusable(f"{place}/{name}")
        if reason is not None:
            problems.append((int(row), path, reason))
    return len(rows), problems


def _check_archive(fence: Fence, tar: str, members: pd.Series) -> tuple[int, list[Problem]]:
    reason = fence.why_unusable(str(fence.root / tar))
    present: set[str] = set()
    refused: dict[str, str] = {}
    if reason is None:
        try:
            index = index_archive(fence.root / tar)
            present = {member.name for member in index.members}
            refused = {unusable.name: unusable.reason for unusable in index.refused}
        except DataError as error:
            reason = str(error)
    # Where a range of bytes is damaged, a member that is not found may be in it.
    missing = "the archive has no such member"
    if "" in refused:
        missing = f"{missing}, but is {refused['']}"
    problems = []
    for position, key in zip(members.index, members, strict=True):
        name = key[len(tar) + 1 :]
        if reason is not None or name not in present:
            problems.append(Problem(int(position), key, reason or refused.get(name, missing)))
    return len(members), problems


def refuse_unusable(
    path: Path,
    parsed: ParsedList,
    root: Path,
    trusted_roots: Sequence[Path],
    missing_to: Path | None,
) -> None:
    """Raise DataError if files of a list are missing, not regular or outside ``root``.

    All of them are written to ``missing_to``; the first ones are in the log and in the message.
    """
    problems = check_files(parsed.paths, Path(root), trusted_roots)
    if not problems:
        return
    rows: list[tuple[str, str, int | None]] = [
        (problem.path, problem.reason, int(parsed.lines[problem.position])) for problem in problems
    ]
    where = ""
    if missing_to is not None:
        write_quarantine(missing_to, quarantine_frame(rows))
        where = f"; all of them are in {missing_to}"
    for key, reason, line in rows[:_SHOWN]:
        _log.warning("%s:%d: %s: %s", path, line, printable(key), reason)
    some = "; ".join(f"line {line}: {printable(key)}: {reason}" for key, reason, line in rows[:3])
    missing = [problem.path for problem in problems if problem.reason == MISSING]
    fits = what_would_fit(path, missing, Path(root)) if missing else ""
    remedy = fits or "; restore the files or remove the lines"
    raise DataError(
        f"{path}:{rows[0][2]}: {len(rows):,} of {len(parsed.labels):,} files cannot be used: "
        f"{some}{' ...' if len(rows) > 3 else ''}{where}{remedy}"
    )
