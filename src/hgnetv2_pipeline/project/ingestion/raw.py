"""``01_raw/<dataset>``: the one root below which all images of a dataset are found."""

from __future__ import annotations

import logging
from pathlib import Path

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.ingestion.sources import pool_sources
from hgnetv2_pipeline.project.params import DataParams

_log = logging.getLogger(__name__)


def write_sample_once(identity: Identity) -> None:
    """Write the embedded sample, unless it is there."""
    raw = identity.folder("raw")
    if (raw / "images").is_dir():
        return
    from hgnetv2_pipeline.data.sample import write_sample

    claims.before_making()
    with ownership.sole(raw):
        write_sample(raw / "images")
    _log.info("the embedded sample was written to %s", identity.relative("raw"))


def link_images(identity: Identity, data: DataParams) -> None:
    """Link the folders that ``data`` names.

    Raises:
        DataError: one of them does not exist, or something else is in the place of a link.
    """
    places: dict[str, str | Path] = {"images": data.root}
    if data.test:
        places["test"] = data.test
    for source in pool_sources(data.pool, identity.project):
        places[f"pool/{source.link}"] = source.root
    for name, given in places.items():
        target = (identity.project / Path(given).expanduser()).resolve()
        if not target.exists():
            role = name.split("/")[0]
            key = {"images": "root"}.get(role, role)
            raise DataError(
                f"data.{key}: {given} does not exist "
                f"(conf/{identity.environment}/parameters.yml or --params data.{key}=DIR)"
            )
        _link(identity.folder("raw"), name, given, target)


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
