"""The pool beside the labelled images: where both are in what the teacher sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Notice, Text
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger
from hgnetv2_pipeline.reporting.pool_figures import Cloud, point_map

_LOOKS = {
    "val": ("square", 3),
    "passed over": ("dot", 6),
    "mined": ("disc", 0),
    "train": ("triangle", 2),
    "removed": ("cross", 1),
}
"""Sign and colour of each kind of image, in the order in which they are drawn over each other."""
_NO_MAP = (
    "There is no map of the pool: mining.map_images is 0. With mining.map_images: 3000 the teacher "
    "looks at 3,000 images once more (at none whose features mining.features keeps), and the map "
    "shows where they are."
)


def pool_map_blocks(points: Path | None, ledger: FileLedger, command: str) -> list[Block]:
    """The map of the pool from its CSV and the JSON beside it, or why there is none."""
    if points is None or not points.with_suffix(".json").is_file():
        return [Notice("Map of the pool: not made yet", f"{command} --pipeline mining")]
    try:
        facts = ledger.read_json(points.with_suffix(".json"), "map of the pool")
        if not facts["images"]:
            return [Text(_NO_MAP)]
        rows = ledger.read_csv(points, "map of the pool")
        drawing = _map(rows, facts["all"], *facts["variance"])
        return [Figure((drawing,), _caption(len(rows), sum(facts["all"].values())))]
    except AbsentError as error:
        return [Notice(str(error), kind="warning")]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        said = f"Map of the pool: {points.name} or the JSON beside it is damaged ({error!r})"
        return [Notice(said, f"{command} --pipeline mining --params redo=mining", kind="warning")]


def _map(
    rows: Sequence[Mapping[str, str]], sizes: Mapping[str, int], first: float, second: float
) -> str:
    places: dict[str, list[tuple[float, float]]] = {kind: [] for kind in _LOOKS}
    for row in rows:
        places[row["kind"]].append((float(row["x"]), float(row["y"])))
    clouds = [
        Cloud(f"{kind}: {_of(len(found), int(sizes[kind]))}", tuple(found), *_LOOKS[kind])
        for kind, found in places.items()
        if sizes.get(kind)
    ]
    return point_map(
        clouds,
        x_label=f"first principal component ({formats.percent(first)} % of the variance)",
        y_label=f"second ({formats.percent(second)} %)",
    )


def _of(shown: int, everything: int) -> str:
    if shown == everything:
        return f"all {everything:,}"
    return f"{shown:,} of {everything:,}"


def _caption(shown: int, everything: int) -> str:
    said = (
        f"Map of the pool: {shown:,} images by what the teacher sees in them. Images close "
        "together look alike to it; large distances mean little, since two directions hold only "
        "a part of the differences. Mined images far from every training image are worth a look, "
        "and so are crowds of passed-over ones without any. Removed are copies of protected images "
        "and what a person or mining.exclude barred."
    )
    if shown < everything:
        said += (
            " The images were drawn at random, as many of each kind as fit in mining.map_images: "
            "how crowded a kind is says nothing of its share of the pool."
        )
    return said
