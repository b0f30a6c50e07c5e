"""``01_raw/<dataset>``: the one root below which all images of a dataset are found."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.sources import pool_sources, root_sources
from hgnetv2_pipeline.project.params import DataParams

_log = logging.getLogger(__name__)


def write_sample_once(identity: Identity) -> None:
    """Write the embedded sample, unless it is there in today's edition."""
    from hgnetv2_pipeline.data.sample import is_outdated, write_sample

    raw = identity.folder("raw")
    if (raw / "images").is_dir() and not is_outdated(raw / "images"):
        return

    claims.before_making()
    with ownership.sole(raw):
        write_sample(raw / "images")
    _log.info("the embedded sample was written to %s", identity.relative("raw"))


def link_images(identity: Identity, data: DataParams) -> None:
    """Link the folders that ``data`` names.

    Raises:
        DataError: one of them does not exist, or something else is in the place of a link.
    """
    raw = identity.folder("raw")
    places: dict[str, str | Path] = {}
    roots = root_sources(data, identity.project)
    for source in roots:
        places[f"images/{source.link}"] = source.given
    if not roots:
        places["images"] = data.root if isinstance(data.root, str) else data.root[0]
    if data.list_root is not None:
        given = identity.project / Path(data.list_root).expanduser()
        places["lists"] = given.parent if given.is_file() else data.list_root
    if data.test:
        places["test"] = data.test
    for source in pool_sources(data.pool, identity.project):
        if source.root.resolve() == (raw / "pool").resolve():
            raise DataError(
                f"data.pool: {source.root} is where the links to pools are put; give the folder "
                f"another name (conf/{identity.environment}/parameters.yml)"
            )
        places[f"pool/{source.link}"] = source.root
    targets = {}
    for name, place in places.items():
        targets[name] = target = (identity.project / Path(place).expanduser()).resolve()
        if not target.exists():
            role = name.split("/")[0]
            key = {"images": "root", "lists": "list_root"}.get(role, role)
            raise DataError(
                f"data.{key}: {place} does not exist "
                f"(conf/{identity.environment}/parameters.yml or --params data.{key}=DIR)"
            )
    _make_room(raw, targets)
    for name, target in targets.items():
        _link(raw, name, places[name], target)


def _make_room(raw: Path, targets: Mapping[str, Path]) -> None:
    """Take away our own links where one folder of images became several, or several one."""
    images = raw / "images"
    if not images.is_symlink() and any(
        target.is_relative_to(images.resolve()) for target in targets.values()
    ):
        return  # the user's own images are there
    one = "images" in targets
    wanted = {raw / name for name in targets}
    old = [images] if images.is_symlink() and not one else []
    if images.is_dir() and not images.is_symlink():
        links = [path for path in images.rglob("*") if path.is_symlink()]
        ours = all(path.is_symlink() or path.is_dir() for path in images.rglob("*"))
        old = [path for path in links if path not in wanted] if ours else []
    if not old:
        return
    claims.before_making()
    with ownership.sole(raw):
        for link in old:
            link.unlink()
        if one and images.is_dir():
            for folder in sorted(images.rglob("*"), reverse=True):
                folder.rmdir()
            images.rmdir()


def _link(raw: Path, name: str, given: str | Path, target: Path) -> None:
    link = raw / name
    if link.resolve() == target:
        return
    claims.before_making()
    with ownership.sole(raw):
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise DataError(f"{link} exists and is not {given}: move one of the two away")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
