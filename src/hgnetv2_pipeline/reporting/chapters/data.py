"""The data: tables and figures of the labelled sets and the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.reporting import figures, formats
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Figure,
    Fold,
    Notice,
    Table,
    Text,
    table_of,
)
from hgnetv2_pipeline.reporting.chapters.pool import balance_blocks
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

Json = Mapping[str, Any]

_SETS = ("train", "val", "test", "pool")
_FEW = 30  # classes that a chart can still name one by one


def first_of(entry: Json, names: Sequence[str]) -> Any:
    """The first of several possible fields that is there; None if none is."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def dataset_sets(summary: Json) -> dict[str, Json]:
    """The sets of a dataset summary (``data.summarise_sets``) by name."""
    sets = summary.get("sets")
    if not isinstance(sets, Mapping):
        return {}
    # JSON written with sorted keys has lost the order; a reader wants the usual one.
    names = sorted(
        map(str, sets), key=lambda name: (_SETS.index(name) if name in _SETS else 9, name)
    )
    return {name: sets[name] for name in names if isinstance(sets[name], Mapping)}


def class_counts(entry: Json) -> list[tuple[str, int]]:
    """Class name and images of one set, by class id; empty for an unlabelled set."""
    given = entry.get("class_counts")
    if not isinstance(given, list):
        return []
    return [(str(first_of(row, ("name", "label"))), int(row["n"])) for row in given]


def dataset_table(summary: Json) -> Table | None:
    """One row per set: images, labels, classes, imbalance, what was unreadable, copies, sizes."""
    records = []
    for name, entry in dataset_sets(summary).items():
        copies = entry.get("exact_copies")
        records.append(
            {
                "set": name,
                "images": formats.count(first_of(entry, ("n_images", "n_used"))),
                "labelled": formats.count(entry.get("n_labelled")),
                "unreadable": formats.count(entry.get("n_quarantined")),
                "exact copies": formats.count(
                    copies.get("n_images") if isinstance(copies, Mapping) else copies
                ),
                "classes": formats.count(entry.get("n_classes")),
                "labels per image": formats.significant(
                    (entry.get("labels_per_image") or {}).get("mean"), 3
                ),
                "imbalance": formats.significant(entry.get("imbalance"), 2),
                "width": _spread(entry.get("width")),
                "height": _spread(entry.get("height")),
                "formats": formats.words(entry.get("formats")),
                "size": formats.size(entry.get("bytes")),
            }
        )
    if not records:
        return None
    columns = list(records[0])
    return table_of(
        records,
        columns,
        caption="Images by set; imbalance = largest class over the smallest that has any; "
        "width and height: min / median / max",
        left=("set", "formats"),
        drop_empty=columns[1:],
    )


def _spread(given: Any) -> str:
    if not isinstance(given, Mapping):
        return formats.NOTHING
    values = [formats.count(given.get(name)) for name in ("min", "median", "max")]
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def shared_table(summary: Json) -> Table | None:
    """Exact copies between sets, where there are any: images of the one that are in the other."""
    rows = [
        row
        for row in summary.get("shared") or []
        if isinstance(row, Mapping) and formats.number(row.get("n_images"))
    ]
    if not rows:
        return None
    records = [
        {
            "set": formats.words(row.get("first")),
            "also in": formats.words(row.get("second")),
            "images": formats.count(row.get("n_images")),
        }
        for row in rows
    ]
    return table_of(
        records,
        list(records[0]),
        caption="Same bytes in two sets, before mining removes them from the pool",
        left=("set", "also in"),
    )


def unreadable_table(summary: Json) -> Table | None:
    """The first unreadable images of each set with their reasons."""
    records = [
        {"set": name, "image": formats.words(row.get("key")), "reason": str(row.get("reason"))}
        for name, entry in dataset_sets(summary).items()
        for row in entry.get("unreadable") or []
        if isinstance(row, Mapping)
    ]
    if not records:
        return None
    return table_of(
        records, list(records[0]), left=("set", "reason"), code=("image",)
    )  # fmt: skip


def dataset_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Counts by set, what was left out, what sets share, images by class."""
    summary = ledger.read_json(inputs.dataset_summary, "summary of the dataset")
    counted = dataset_table(summary)
    if counted is None:
        raise AbsentError("summary of the dataset: the file names no set")
    blocks: list[Block] = [counted]
    conflicts = summary.get("conflicting_labels")
    if conflicts:
        said = f"{len(conflicts)} images have the bytes of another image under another label."
        blocks.append(Notice(said, kind="warning"))
    arranged = summary.get("arrangement")
    if isinstance(arranged, Mapping):
        blocks.append(_arrangement(arranged))
    see_through = summary.get("transparency")
    if isinstance(see_through, Mapping):
        blocks.append(_transparency(see_through))
    levels = summary.get("levels")
    if isinstance(levels, Mapping):
        blocks += _levels(levels)
    sets = dataset_sets(summary)
    blocks += balance_blocks({name: class_counts(sets[name]) for name in sets if name != "pool"})
    shared = shared_table(summary)
    if shared is not None:
        blocks.append(shared)
    unreadable = unreadable_table(summary)
    if unreadable is not None:
        blocks.append(Fold("Images that could not be read", (unreadable,)))
    return blocks


def _arrangement(known: Json) -> Block:
    """How the images are arranged, and what that was taken from."""
    files = known.get("lists") or {}
    roles = ("train", "val", "test", "class_map")
    named = ", ".join(f"{role} {files[role]}" for role in roles if role in files)
    by = {"path": "the whole path of its folder"}.get(
        str(known.get("class_from")), f"the {known.get('class_from')} folder of its path"
    )
    return Text(
        f"The layout is {known.get('layout')} ({known.get('why')}), with the sets "
        + ", ".join(known.get("sets") or ())
        + (", of which val (and test) were split off from train" if known.get("divided") else "")
        + (f"; {named}" if named else "")
        + f". The class of an image is {by}."
    )


def _transparency(known: Json) -> Block:
    """How many images are transparent somewhere, and what becomes of that."""
    alpha = known.get("alpha")
    said = (
        f"{formats.count(known.get('transparent'))} of {formats.count(known.get('images'))} images "
        f"have transparent pixels; data.alpha = {alpha}"
    )
    if alpha != "drop":
        return Text(f"{said}: they are composited on that colour.")
    return Notice(
        f"{said}: the networks see the colours hidden below them. Set data.alpha: white (or black, "
        "grey, [red, green, blue]) in the parameters of this environment.",
        kind="warning",
    )


def _levels(known: Json) -> list[Block]:
    """Which of 16 bits are seen, and images of one colour."""
    found: list[Block] = []
    if known.get("deep"):
        depth = known.get("depth")
        seen = f"the upper 8 of {depth} bits are" if isinstance(depth, int) else f"{depth} is"
        found.append(
            Text(
                f"{formats.count(known['deep'])} images have 16 bits a channel, with levels from "
                f"{formats.count(known.get('lowest'))} to {formats.count(known.get('highest'))}: "
                f"{seen} what the networks see (data.depth)."
            )
        )
    if known.get("flat"):
        found.append(
            Notice(
                f"{formats.count(known['flat'])} images have one colour all over, "
                f"{formats.count(known.get('black'))} of them are black.",
                kind="warning",
            )
        )
    return found


def class_sizes(labels: Sequence[str], counts: Sequence[int], name: str) -> Block:
    """Images by class: a sentence where all are equal, bars for few classes, a curve for many."""
    if min(counts) == max(counts):
        return Text(
            f"Each of the {len(counts)} classes has {formats.count(counts[0])} images in {name}."
        )
    if len(counts) <= _FEW:
        rows = [(label, float(value)) for label, value in zip(labels, counts, strict=True)]
        drawing = figures.bars(rows, x_label=f"images in {name}")
        return Figure((drawing,), f"Images a class in {name}, in class order.")
    ordered = sorted(counts, reverse=True)
    points = tuple((float(place), float(value)) for place, value in enumerate(ordered, start=1))
    drawing = figures.line_chart(
        [figures.Series(name, points, legend=False)], title=f"Images a class, {name}",
        x_label="class, largest first", y_label="images", width=figures.WIDTH,
    )  # fmt: skip
    low = min(range(len(counts)), key=lambda place: (counts[place], labels[place]))
    high = max(range(len(counts)), key=lambda place: (counts[place], labels[place]))
    return Figure(
        (drawing,),
        f"Images a class in {name}, {len(counts)} classes: from {formats.count(counts[high])} "
        f"({labels[high]}) down to {formats.count(counts[low])} ({labels[low]}).",
    )
