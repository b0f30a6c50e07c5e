"""The sources of a pool: folders, tar archives and lists, each known by a name of its own.

The name starts the keys of a source's images (``pool/<name>/...``) and names the folder of its
scores, so that a source can be added without touching what is known of the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams

_ARCHIVE = ".tar"
# Folders of our own beside those of the sources.
_TAKEN = ("archive", "processes")


@dataclass(frozen=True)
class Source:
    """A source of the pool: ``given`` is where it is, ``kind`` what it is."""

    name: str
    given: Path
    kind: Literal["folder", "tar", "list"]

    @property
    def root(self) -> Path:
        """The folder (or archive) to link below ``01_raw``; of a list, the folder it is in."""
        return self.given.parent if self.kind == "list" else self.given

    @property
    def link(self) -> str:
        """Where the link is, relative to ``01_raw/<dataset>/pool``."""
        return f"{self.name}/{self.given.name}" if self.kind == "tar" else self.name


def pool_sources(pool: Sequence[str], project: Path) -> list[Source]:
    """The sources that ``data.pool`` names; DataError for one that does not exist.

    A source is called as its folder or file is; a name that is taken gets a number behind it.
    """
    sources: list[Source] = []
    names = set(_TAKEN)
    for given in pool:
        path = (project / Path(given).expanduser()).absolute()
        if path.is_dir():
            kind: Literal["folder", "tar", "list"] = "folder"
        elif path.is_file():
            kind = "tar" if path.suffix.lower() == _ARCHIVE else "list"
        else:
            raise DataError(
                f"data.pool: {given} does not exist; name folders, .tar archives or lists of "
                "images (conf/<env>/parameters.yml or --params data.pool=...)"
            )
        stem = path.name if kind == "folder" else path.stem
        stem = re.sub(r"[^A-Za-z0-9_.=,+-]", "_", stem).lstrip(".") or "pool"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.add(name)
        sources.append(Source(name, path, kind))
    return sources


def labelled_sets(data: DataParams, images: Path) -> list[str]:
    """The sets that ingestion makes of the labelled ``images`` and what else ``data`` names."""
    held_out = data.test or (is_split(data, images) and data.split.test)
    test = ["test"] if held_out or has_test_list(data, images) else []
    pool = ["pool"] if data.pool or data.layout == "sample" else []
    return ["train", "val", *test, *pool]


def labelled_inputs(identity: Identity, data: DataParams, raw: Path) -> dict[str, Path]:
    """What the labelled sets are made of, by role: folders of images, and the table of groups."""
    found = {name: raw / name for name in ("images", "test") if (raw / name).is_dir()}
    if data.split.groups is not None and is_split(data, raw / "images"):
        found["groups"] = identity.project / Path(data.split.groups).expanduser()
    return found


def has_test_list(data: DataParams, images: Path) -> bool:
    """Whether ``test_list.txt`` beside the lists of train and val is the final test."""
    lists = data.layout != "folders" and not data.test
    return lists and (images / "test_list.txt").is_file()


def is_split(data: DataParams, images: Path) -> bool:
    """Whether val (and test) are taken from the images of train, by ``data.split``."""
    alone = data.layout == "multi_label" and not (images / "val_list.txt").is_file()
    return data.layout == "folders" or alone
