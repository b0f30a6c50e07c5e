"""Where the files of an inference archive are: in a folder, or inside a tar that stays packed.

Nothing is unpacked, so a name that leads elsewhere leads nowhere; it is refused all the same, as
are links, devices and sparse members in the place of a file that is wanted, and any damage.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.tar_members import FILE, FOLDER, TarDamage, TarEntry, TarReader

_MAX_HEADERS = 10_000


@dataclass(frozen=True)
class InferenceFile:
    """A file of an archive: ``size`` bytes at ``offset`` of ``path``; ``str()`` is for messages."""

    path: Path
    name: str  # its name inside a tar; empty for a file of its own
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}!{self.name}" if self.name else str(self.path)

    def read(self, limit: int) -> bytes:
        """All its bytes. Raises ``WeightsError`` if there are more than ``limit``."""
        if self.size > limit:
            raise WeightsError(f"{self} has {self.size:,} bytes; {limit:,} at most are read")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise WeightsError(f"{self} changed while it was read")
        return data


def find_members(path: Path, wanted: Collection[str]) -> dict[str, InferenceFile]:
    """The files called as in ``wanted`` of a folder, or of one folder of the tar ``path``.

    Raises ``WeightsError``: not a tar, damaged, or a wanted file is there twice or is no file.
    """
    if path.is_dir():
        files = [path / name for name in wanted if (path / name).is_file()]
        return {file.name: InferenceFile(file, "", 0, file.stat().st_size) for file in files}
    if not path.is_file():
        raise WeightsError(f"there is no weight file at {path}")
    found: dict[str, InferenceFile] = {}
    folders: set[PurePosixPath] = set()
    try:
        for entry in _entries(path):
            place = PurePosixPath(entry.name)
            if place.name not in wanted or entry.kind == FOLDER:
                continue
            name = _brief(entry.name)
            if place.is_absolute() or ".." in place.parts:
                raise ValueError(f"its member {name} leads out of the archive")
            if entry.kind != FILE:
                raise ValueError(f"its member {name} is {entry.kind}, not a file")
            folders.add(place.parent)
            if len(folders) > 1:
                both = " and ".join(sorted(_brief(str(folder)) for folder in folders))
                raise ValueError(f"it holds several networks, in {both}; give one of them")
            if place.name in found:
                raise ValueError(f"its member {name} is there twice")
            found[place.name] = InferenceFile(path, entry.name, entry.offset, entry.size)
    except TarDamage as damage:
        member = f" (its member {_brief(damage.entry.name)})" if damage.entry else ""
        raise WeightsError(
            f"{path} is refused: damaged from byte {damage.begin:,} on: {damage}{member}"
        ) from None
    except ValueError as reason:
        raise WeightsError(f"{path} is refused: {reason}") from None
    return found


def _entries(path: Path) -> list[TarEntry]:
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        reader = TarReader(file.fileno(), 0, end, max_headers=_MAX_HEADERS)
        reader.check_start()
        entries = list(iter(reader.next_entry, None))
    if not entries:
        raise ValueError("it is not a tar archive, or an empty one: a failed download?")
    return entries


def _brief(name: str) -> str:
    return ascii(name[:80]).strip("'")
