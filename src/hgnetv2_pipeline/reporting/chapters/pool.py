"""The pool beside the labelled images: what both are like, and where the teacher sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Notice, Table, Text
from hgnetv2_pipeline.reporting.chapters.pool_figures import (
    WIDTH,
    Cloud,
    Quantiles,
    grouped_bars,
    point_map,
    quantile_lines,
)
from hgnetv2_pipeline.reporting.figures import Series, line_chart
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger

_LOOKS = {
    "val": ("square", 3),
    "passed over": ("dot", 6),
    "mined": ("disc", 0),
    "train": ("triangle", 2),
    "removed": ("cross", 1),
}
"""Sign and colour of each kind of image, in the order in which they are drawn over each other."""
_SET_COLOURS = {"train": 2, "val": 3, "test": 4}
_FEW = 30  # classes that a chart can still name one by one
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


_SIDES = {"labelled": 2, "pool": 0}  # their colours
_COMPARED = {
    "short side": ("are larger", "are smaller"),
    "width over height": ("are wider for their height", "are narrower for their height"),
    "brightness": ("are brighter", "are darker"),
    "red": ("have more red", "have less red"),
    "green": ("have more green", "have less green"),
    "blue": ("have more blue", "have less blue"),
}
_TONES = ("red", "green", "blue")
_RULE = (
    "A difference is called clear if the image of the pool has the higher value, or the lower, in "
    "at least 75 % of random pairs of one image of each side, or if the shares of grey images are "
    "at least 25 points apart; each side needs 20 images."
)
_NO_TONES = (
    "Brightness and colours are not known: an older version scanned the images, or all images of "
    "one side have transparent pixels"
)


def likeness_words(known: Mapping[str, Any]) -> list[str]:
    """A sentence for each respect in which the pool clearly differs from the labelled images.

    ``known`` is what ``data.likeness.compare_sets`` gave.
    """
    said = []
    measures = {measure["name"]: measure for measure in known["measures"]}
    brightness = measures.get("brightness", {}).get("differs")
    for name, measure in measures.items():
        differs = measure["differs"]
        if not differs or (name in _TONES and differs == brightness):
            continue  # a brighter picture has more of every colour
        above = measure["above"] if differs == "higher" else 1 - measure["above"]
        said.append(
            f"The images of the pool {_COMPARED[name][differs == 'lower']} than the labelled ones, "
            f"in {formats.percent(above)} % of pairs of one image of each (medians "
            f"{measure['pool'][2]:g} and {measure['labelled'][2]:g})."
        )
    grey = known.get("grey") or {}
    if grey.get("differs"):
        shares = [formats.percent(hits / of) for hits, of in (grey["pool"], grey["labelled"])]
        said.append(
            f"{shares[0]} % of the images of the pool are grey, of the labelled ones {shares[1]} %."
        )
    return said


def likeness_blocks(summary: Mapping[str, Any], command: str) -> list[Block]:
    """Sizes, shapes, tones and grey images of both sides in pairs, and what differs clearly."""
    known = summary.get("likeness")
    if not isinstance(known, Mapping):
        return [Text("There is no pool to compare with.")]
    differ = likeness_words(known)
    blocks: list[Block] = [Notice(said, kind="warning") for said in differ]
    if not differ:
        blocks.append(Text("The pool does not differ clearly from the labelled images."))
    drawings = tuple(_pairs(known))
    if drawings:
        caption = (
            "The pool beside the labelled images: a dot at the median, a thick line for the middle "
            f"half of the images, a thin one from the 10th to the 90th percentile. {_RULE}"
        )
        blocks.append(Figure(drawings, caption))
    if "grey" in known:
        labelled, pool = (
            f"{formats.count(hits)} of {formats.count(images)}"
            for hits, images in (known["grey"][side] for side in _SIDES)
        )
        blocks.append(
            Text(
                f"Grey images: {labelled} labelled ones and {pool} of the pool. Images with "
                "transparent pixels are left out of this, of brightness and of colours; val and "
                "test are counted as labelled where they were split off from train."
            )
        )
    else:
        blocks.append(Notice(_NO_TONES, f"{command} --params redo=ingestion"))
    blocks.append(Fold("The comparison in numbers", (_likeness_table(known["measures"]),)))
    return blocks


def _pairs(known: Mapping[str, Any]) -> Iterator[str]:
    """A drawing for each unit; a measure that is one number for both sides needs none, and of grey
    images alone brightness says all.
    """
    grey = "grey" in known and all(len(set(known["grey"][side])) == 1 for side in _SIDES)
    shown: dict[str, list[Quantiles]] = {}
    for measure in known["measures"]:
        name, several = measure["name"], len({*measure["labelled"], *measure["pool"]}) > 1
        if several and not (grey and name in _TONES):
            unit = measure["unit"] or name
            shown.setdefault(f"{name}, {unit}" if unit == "pixels" else unit, []).extend(
                Quantiles(f"{name}, {side}", tuple(measure[side]), colour)
                for side, colour in _SIDES.items()
            )
    for label, rows in shown.items():
        yield quantile_lines(rows, x_label=label)


def _likeness_table(measures: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (str(measure["name"]), side, *(f"{value:,.6g}" for value in measure[side]),
         formats.percent(measure["above"]))
        for measure in measures
        for side in _SIDES
    )  # fmt: skip
    return Table(
        ("measure", "set", "10 %", "25 %", "median", "75 %", "90 %", "% of pairs, pool higher"),
        rows,
        caption="Percentiles of train and of the pool; tones are means of an image, 0 to 255",
        left=("measure", "set"),
    )


def balance_blocks(sets: Mapping[str, Sequence[tuple[str, int]]]) -> list[Block]:
    """The share that each class has of train, val and test; a sentence where all are equal.

    ``sets`` gives class names and images by set; sets without labels are left out.
    """
    known = {name: rows for name, rows in sets.items() if sum(count for _, count in rows)}
    if not known:
        return []
    labels = [name for name, _ in max(known.values(), key=len)]
    shares = {
        name: [100 * rows[at][1] / sum(n for _, n in rows) if at < len(rows) else 0.0
               for at in range(len(labels))]
        for name, rows in known.items()
    }  # fmt: skip
    if all(max(each) - min(each) < 1e-9 for each in shares.values()):
        found = [f"{formats.count(rows[0][1])} in {name}" for name, rows in known.items()]
        found[0] = found[0].replace(" in ", " images in ", 1)
        counts = " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))
        return [Text(f"Each of the {len(labels)} classes has {counts}.")]
    if len(labels) <= _FEW:
        rows = [(label, [shares[name][at] for name in known]) for at, label in enumerate(labels)]
        names = [(name, _SET_COLOURS.get(name, 6)) for name in known]
        drawing = grouped_bars(rows, names, x_label="% of the images of the set")
        return [Figure((drawing,), "The share that each class has of each set, in class order.")]
    order = sorted(range(len(labels)), key=lambda at: -next(iter(shares.values()))[at])
    lines = [
        Series(name, tuple((place + 1.0, each[at]) for place, at in enumerate(order)),
               colour=_SET_COLOURS.get(name, 6))
        for name, each in shares.items()
    ]  # fmt: skip
    first = next(iter(known))
    drawing = line_chart(
        lines, title="Share of each class", x_label=f"class, the largest of {first} first",
        y_label="% of the images of the set", width=WIDTH,
    )  # fmt: skip
    largest, smallest = (known[first][order[end]] for end in (0, -1))
    said = (
        f"The share that each of the {len(labels)} classes has of each set; in {first} that is "
        f"from {formats.count(largest[1])} ({largest[0]}) down to {formats.count(smallest[1])} "
        f"({smallest[0]}) images."
    )
    return [Figure((drawing,), said)]
