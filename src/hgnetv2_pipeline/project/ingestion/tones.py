"""How bright and colourful the labelled images and the pool are, kept beside the lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.durable import read_json, write_json

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.folders import Scan
    from hgnetv2_pipeline.data.scan.tones import Tones

TONES = "tones.json"


def note_tones(folder: Path, labelled: Scan, pool: Sequence[Scan]) -> None:
    """Write the counts of both sides to ``folder`` where both are known.

    A scan of a pool that an older version made has none.
    """
    from hgnetv2_pipeline.data.scan.tones import add_tones

    known = [scan.tones for scan in pool if scan.tones is not None]
    if labelled.tones is not None and pool and len(known) == len(pool):
        sides = {"labelled": labelled.tones, "pool": add_tones(known)}
        write_json(folder / TONES, {name: side.to_json() for name, side in sides.items()})


def read_tones(lists: Path) -> tuple[Tones, Tones] | None:
    """Those of the labelled images and of the pool, or None where they were not noted."""
    from hgnetv2_pipeline.data.scan.tones import tones_from_json

    path = lists / TONES
    if not path.is_file():
        return None
    found = read_json(path)
    return tones_from_json(found["labelled"]), tones_from_json(found["pool"])
