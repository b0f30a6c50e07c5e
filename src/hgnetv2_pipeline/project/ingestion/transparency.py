"""How many images of a dataset are transparent somewhere, and what ``data.alpha`` makes of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import DataParams

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.folders import Scan

_log = logging.getLogger(__name__)
TRANSPARENCY = "transparency.json"


def note_transparency(
    folder: Path, identity: Identity, data: DataParams, scans: Sequence[Scan]
) -> None:
    """Say how many images have transparent pixels, and write it to ``folder`` where any has.

    A scan of a pool that an older version made does not know; its images are not counted.
    """
    known = [scan for scan in scans if scan.examined is not None]
    images = sum(scan.examined or 0 for scan in known)
    transparent = sum(scan.transparent for scan in known)
    alpha = data.alpha if isinstance(data.alpha, str) else list(data.alpha)
    _log.info(
        "%s of %s images have transparent pixels; data.alpha = %s",
        f"{transparent:,}", f"{images:,}", alpha,
    )  # fmt: skip
    if not transparent:
        return
    if alpha == "drop":
        _log.warning(
            "the networks will see the colours hidden below the transparent pixels of %s images, "
            "since data.alpha is drop: set data.alpha: white (or black, grey, [red, green, blue]) "
            "in conf/%s/parameters.yml",
            f"{transparent:,}", identity.environment,
        )  # fmt: skip
    write_json(
        folder / TRANSPARENCY, {"images": images, "transparent": transparent, "alpha": alpha}
    )


def read_transparency(lists: Path) -> dict[str, Any]:
    """What ``note_transparency`` wrote, as an entry of the summary; empty where there is none."""
    path = lists / TRANSPARENCY
    return {"transparency": read_json(path)} if path.is_file() else {}
