"""Tables of what went in: the labelled sets and the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of

Json = Mapping[str, Any]

_SETS = ("train", "val", "test", "pool")


def first_of(entry: Json, names: Sequence[str]) -> Any:
    """The first of several possible fields that is there; None if none is."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def sets_of(summary: Json) -> dict[str, Json]:
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
    """A row a set: images, labels, classes, imbalance, what could not be read, copies, sizes."""
    records = []
    for name, entry in sets_of(summary).items():
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
                "labels an image": formats.significant(
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
        for name, entry in sets_of(summary).items()
        for row in entry.get("unreadable") or []
        if isinstance(row, Mapping)
    ]
    if not records:
        return None
    return table_of(
        records, list(records[0]), left=("set", "reason"), code=("image",)
    )  # fmt: skip
