"""A large result in shards: fixed slices, each a file and its manifest, made in any order, once.

A shard is finished when its manifest names what it would be made from now and the data is what the
manifest says. The manifest is written last, so a run that dies leaves no false shard, and the next
one makes only what is missing. No process waits for another: each has its shards, and none of them
depends on how many processes there are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import read_json, sha256_file, write_aside, write_json
from hgnetv2_pipeline.ownership import sweep_temporaries

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardStore:
    """The shards of a folder: ``shard=00042`` with a suffix, and ``shard=00042.json`` beside it.

    Attributes:
        folder: where they are.
        suffix: of the data, with its dot.
        identity: the manifest's field for what a shard is made from, a SHA-256.
        sha256: the manifest's field for the hash of the data; None where only ``describes`` judges.
        describes: whether a manifest is that of data of so many bytes; KeyError, TypeError or
            ValueError if it lacks something that its reader needs.
    """

    folder: Path
    suffix: str
    identity: str
    sha256: str | None
    describes: Callable[[Mapping[str, Any], int], bool]

    def path(self, number: int) -> Path:
        """Where the data of shard ``number`` is."""
        return self.folder / f"shard={number:05d}{self.suffix}"

    def manifest_path(self, number: int) -> Path:
        """Where its manifest is."""
        return self.path(number).with_suffix(".json")

    def finished(self, number: int, identity: str) -> dict[str, Any] | None:
        """The manifest of shard ``number`` if it is finished, intact and of this identity."""
        path, beside = self.path(number), self.manifest_path(number)
        try:
            manifest = read_json(beside)
            if manifest[self.identity] != identity:
                return None
            intact = path.is_file() and self.describes(manifest, path.stat().st_size)
            if intact and self.sha256 is not None:
                intact = sha256_file(path) == manifest[self.sha256]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            _log.warning("%s is damaged; its shard is made again", beside)
            return None
        if not intact:
            _log.warning("%s is missing or damaged; it is made again", path)
            return None
        return dict(manifest)

    def all_finished(self, identities: Mapping[int, str]) -> dict[int, dict[str, Any]]:
        """The manifests of those of these shards that are finished, by number."""
        found = {number: self.finished(number, identities[number]) for number in identities}
        return {number: manifest for number, manifest in found.items() if manifest is not None}

    def write(
        self, number: int, identity: str, save: Callable[[Path], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Write shard ``number``, then the manifest that makes it count; returns the manifest.

        ``save`` writes the data to a path and returns what the manifest says of it besides its
        identity and its hash.

        Raises:
            DiskFullError: there is no room for it.
        """
        beside = self.manifest_path(number)
        with write_aside(self.path(number)) as aside:
            manifest = {**save(aside), self.identity: identity}
            if self.sha256 is not None:
                manifest[self.sha256] = sha256_file(aside)
            # An earlier manifest must not speak for new data: its size alone may agree.
            beside.unlink(missing_ok=True)
        write_json(beside, manifest)
        return manifest

    def sweep(self, count: int, *, alone: bool) -> None:
        """Remove the shards of an earlier, longer list: those numbered ``count`` and above.

        ``alone``: nobody else writes here now (this process has the lock, or is the last), so what
        is half-written was left by processes that died, and goes too.
        """
        if alone:
            sweep_temporaries(self.folder)
        name = re.compile(rf"shard=(\d{{5,}})({re.escape(self.suffix)}|\.json)")
        for path in sorted(self.folder.glob("shard=*")):
            match = name.fullmatch(path.name)
            if match and int(match[1]) >= count:
                _log.info("%s belongs to an earlier, longer list and is removed", path)
                path.unlink()


def shard_slices(rows: int, size: int, rank: int = 0, world_size: int = 1) -> dict[int, slice]:
    """The shards that one of ``world_size`` processes makes of ``rows`` rows, by number.

    Every shard has ``size`` rows, the last one what is left; a process makes every
    ``world_size``-th of them, beginning with number ``rank``.
    """
    starts = range(0, rows, size)
    numbers = range(rank, len(starts), world_size)
    return {n: slice(starts[n], min(starts[n] + size, rows)) for n in numbers}
