"""Tables of what went in: the labelled sets, the pool and what mining made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of

Json = Mapping[str, Any]

_SETS = ("train", "val", "test", "pool")
_AUDIT_ROWS = {
    "pool_listed": "listed in the pool",
    "quarantined": "unreadable, put into quarantine",
    "scored": "scored by the teacher",
    "exact_duplicates": "removed: same bytes as a protected image",
    "near_removed": "removed: near-duplicate of a protected image",
    "name_removed": "removed: same name as a protected image",
    "person_removed": "removed by a person's decision",
    "review": "left for a person to review",
    "excluded": "excluded by parameter",
    "candidates": "candidates",
    "selected": "selected for distillation",
}
_AUDIT_FACTS = {
    "k": "k, images kept a class at most",
    "short_classes": "classes with fewer than k",
    "gini": "Gini coefficient of the class sizes (0 = all equal)",
}
_PURITY_ROWS = {
    "known": "mined images with a known truth",
    "right": "pseudo-label right",
    "distractors": "belong to no class",
}


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


def mining_table(audit: Json) -> Table:
    """From the pool to the selection, each step with its share of the pool.

    Raises:
        DataError: the counts do not add up.
    """
    _check_mining(audit)
    listed = formats.number(audit.get("pool_listed"))
    records = []
    for key, meaning in _AUDIT_ROWS.items():
        value = formats.number(audit.get(key))
        if value is None:
            continue
        share = formats.percent(value / listed) if listed else formats.NOTHING
        records.append({"step": meaning, "images": formats.count(value), "% of pool": share})
    return table_of(
        records, ["step", "images", "% of pool"], caption="From the pool to the mined list",
        left=("step",),
    )  # fmt: skip


def _check_mining(audit: Json) -> None:
    have = {key: formats.number(audit.get(key)) or 0.0 for key in (*_AUDIT_ROWS, "removed")}
    wrong = []
    if audit.get("scored") is not None:
        if have["pool_listed"] != have["scored"] + have["quarantined"]:
            wrong.append("listed is not scored + quarantined")
        left = have["scored"] - have["removed"] - have["review"] - have["excluded"]
        if audit.get("removed") is not None and have["candidates"] != left:
            wrong.append("candidates is not scored - removed - review - excluded")
    if audit.get("candidates") is not None and have["selected"] > have["candidates"]:
        wrong.append("more images are selected than are candidates")
    if wrong:
        raise DataError(f"mining audit: {'; '.join(wrong)}")


def mining_facts_table(audit: Json) -> Table | None:
    """How evenly the classes were filled, and how pure the list is where the truth is known."""
    rows = []
    for key, meaning in _AUDIT_FACTS.items():
        value = audit.get(key)
        if value is not None:
            shown = str(len(value)) if isinstance(value, list) else formats.words(value)
            rows.append({"mined list": meaning, "value": shown, "%": formats.NOTHING})
    purity = audit.get("purity")
    if isinstance(purity, Mapping):
        known = formats.number(purity.get("known"))
        for key, meaning in _PURITY_ROWS.items():
            value = formats.number(purity.get(key))
            if value is not None:
                share = formats.percent(value / known) if known and key != "known" else "–"
                rows.append({"mined list": meaning, "value": formats.count(value), "%": share})
    if not rows:
        return None
    return table_of(rows, ["mined list", "value", "%"], left=("mined list",), drop_empty=("%",))


def purity_points(rows: Sequence[Mapping[str, str]]) -> list[tuple[float, float, float | None]]:
    """(k, % with a right pseudo-label, % that belong to no class) of the purity CSV, by k.

    Columns k, known, right and distractors, or k and purity (a share).
    """
    found = []
    for row in rows:
        k, known = formats.number(row.get("k")), formats.number(row.get("known"))
        right, other = formats.number(row.get("right")), formats.number(row.get("distractors"))
        share = right / known if known and right is not None else formats.number(row.get("purity"))
        if k is not None and share is not None:
            outside = 100 * other / known if known and other is not None else None
            found.append((k, 100 * share, outside))
    return sorted(found, key=lambda point: point[0])


def mined_by_class(audit: Json) -> list[tuple[str, int]]:
    """Class name and mined images, in class order; empty where the audit does not say."""
    entries = audit.get("per_class")
    if isinstance(entries, Mapping):
        entries = [
            {"class": key, **value} if isinstance(value, Mapping) else {"class": key, "n": value}
            for key, value in entries.items()
        ]
    if not isinstance(entries, list):
        return []
    found = []
    for place, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            name = first_of(entry, ("name", "class", "label"))
            value = first_of(entry, ("selected", "n_selected", "n", "count"))
        else:
            name, value = place, entry
        if value is not None:
            found.append((str(place if name is None else name), int(value)))
    return found


def planted_table(audit: Json) -> Table | None:
    """What the maker of the pool hid in it, and what became of that; only the sample knows."""
    planted = audit.get("planted")
    kinds = planted.get("kinds", planted) if isinstance(planted, Mapping) else None
    if not isinstance(kinds, Mapping) or not kinds:
        return None
    columns = {"what": "hidden in the pool"}
    records = []
    for name in sorted(kinds):
        entry = kinds[name]
        record = {columns["what"]: str(name).replace("_", " ")}
        for key, value in (entry if isinstance(entry, Mapping) else {"images": entry}).items():
            columns.setdefault(key, str(key).replace("_", " "))
            record[columns[key]] = formats.words(value)
        records.append(record)
    if isinstance(planted, Mapping) and planted.get("clean") is not None:
        columns.setdefault("planted", "planted")
        columns.setdefault("remove", "remove")
        lost = formats.number(planted.get("clean_lost"))
        records.append(
            {
                columns["what"]: "(everything else, lost with them)",
                columns["planted"]: formats.count(planted["clean"]),
                columns["remove"]: formats.count(lost),
            }
        )
    return table_of(
        records,
        list(columns.values()),
        caption="Planted in the pool on purpose, and what mining did with it",
        left=(columns["what"],),
    )
