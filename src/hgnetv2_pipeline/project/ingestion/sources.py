"""The sources of a pool: folders, tar archives and lists, each known by a name of its own.

The name starts the keys of a source's images (``pool/<name>/...``) and names the folder of its
scores, so that a source can be added without touching what is known of the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.layouts import Layout, Place

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


def pool_sources(pool: Sequence[str], project: Path, key: str = "pool") -> list[Source]:
    """The sources that ``data.pool`` (or ``key``) names; DataError for one that does not exist.

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
                f"data.{key}: {given} does not exist; name folders, .tar archives or lists of "
                f"images (conf/<env>/parameters.yml or --params data.{key}=...)"
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


def root_sources(data: DataParams, project: Path) -> list[Source]:
    """The folders and tars of ``data.root`` where these are not one folder; else nothing."""
    roots = _roots(data)
    if len(roots) == 1 and not (project / Path(roots[0]).expanduser()).is_file():
        return []
    return pool_sources(roots, project, "root")


def labelled_place(data: DataParams, project: Path, raw: Path) -> Place:
    """Where labelled images and their lists are, once they are linked below ``raw``."""
    from hgnetv2_pipeline.data.scan.layouts import Place

    sources = root_sources(data, project)
    lists = None if sources else raw / "images"
    if data.list_root is not None:
        given = project / Path(data.list_root).expanduser()
        lists = raw / "lists" / given.name if given.is_file() else raw / "lists"
    trusted = [Path(place).expanduser() for place in data.trusted_roots]
    # What data.root names is trusted by being named.
    trusted += [source.given for source in sources]
    parts = tuple(source.link for source in sources) or ("",)
    return Place(raw / "images", lists, parts, tuple(trusted))


def unlinked_layout(data: DataParams, project: Path) -> Layout:
    """``layout_of`` where nothing is linked yet: of the folders that ``data`` names."""
    from hgnetv2_pipeline.data.scan.layouts import place_of

    roots = [project / Path(root).expanduser() for root in _roots(data)]
    lists = None if data.list_root is None else project / Path(data.list_root).expanduser()
    trusted = [Path(place).expanduser() for place in data.trusted_roots]
    return layout_of(data, place_of(roots, lists, trusted))


def _roots(data: DataParams) -> list[str]:
    return [data.root] if isinstance(data.root, str) else data.root


def linked_layout(data: DataParams, project: Path, raw: Path) -> Layout:
    """``layout_of`` the images that are linked below ``raw``."""
    return layout_of(data, labelled_place(data, project, raw))


def layout_of(data: DataParams, place: Place) -> Layout:
    """The layout that ``data`` says, or recognised where it says auto.

    Raises:
        DataError: it may be one of two, or is none.
    """
    from hgnetv2_pipeline.data.lists.tables import Columns
    from hgnetv2_pipeline.data.scan.layouts import Layout, layout_as

    lists = data.lists.model_dump(exclude_none=True, exclude={"class_map"})
    given = Layout(
        "lists", lists=lists, class_map=data.lists.class_map, delimiter=data.delimiter,
        columns=Columns(**data.columns.model_dump()),
    )  # fmt: skip
    found = layout_as(data.layout, place, given, data.class_from)
    # A folder that data.test names is the test set then.
    return replace(found, sets=tuple(s for s in found.sets if s != "test" or not data.test))


def labelled_sets(data: DataParams, layout: Layout) -> list[str]:
    """The sets that ingestion makes of the labelled images and what else ``data`` names."""
    held_out = data.test or (is_split(layout) and data.split.test)
    test = ["test"] if held_out or "test" in layout.sets else []
    pool = ["pool"] if data.pool or data.layout == "sample" else []
    return ["train", "val", *test, *pool]


def labelled_inputs(
    identity: Identity, data: DataParams, raw: Path, layout: Layout
) -> dict[str, Path]:
    """What the labelled sets are made of, by role: folders of images, lists, a table of groups."""
    found = {name: raw / name for name in ("images", "test") if (raw / name).is_dir()}
    if data.list_root is not None:
        files = {**layout.lists, **({"class map": layout.class_map} if layout.class_map else {})}
        found |= {f"list {role}": raw / "lists" / name for role, name in files.items()}
    if data.split.groups is not None and is_split(layout):
        found["groups"] = identity.project / Path(data.split.groups).expanduser()
    return found


def is_split(layout: Layout) -> bool:
    """Whether val (and test, where the layout has none) are taken from train, by ``data.split``."""
    return "val" not in layout.sets
