"""Tables of what went in: the labelled sets, the pool and what mining made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of

Json = Mapping[str, Any]

_SET_COLUMNS = {
    "listed": ("n_listed", "listed"),
    "used": ("n_used", "used", "n", "images"),
    "quarantined": ("n_quarantined", "quarantined", "unreadable"),
    "refused": ("n_refused", "refused"),
    "exact duplicates": ("exact_duplicates", "duplicates", "n_duplicates"),
    "classes": ("n_classes", "classes_present"),
    "imbalance": ("imbalance",),
}

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
    """The sets of a dataset summary by name: ``{"sets": {"train": {...}}}``, or plain counts."""
    sets = summary.get("sets") or {}
    return {
        str(name): entry if isinstance(entry, Mapping) else {"n_used": entry}
        for name, entry in sets.items()
    }


def class_counts(entry: Json) -> list[int]:
    """Images by class of one set, as a list by class id or a dict in class order; else empty."""
    given = first_of(entry, ("per_class", "class_histogram", "class_counts", "histogram"))
    values = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(values, list):
        return []
    numbers: list[Any] = [
        first_of(value, ("n", "count", "images")) if isinstance(value, Mapping) else value
        for value in values
    ]
    return [int(value) for value in numbers if value is not None]


def dataset_table(summary: Json) -> Table | None:
    """A row a set: listed = used + quarantined + refused, duplicates, classes, imbalance."""
    records = []
    for name, entry in sets_of(summary).items():
        record = {"set": name}
        for column, names in _SET_COLUMNS.items():
            value = first_of(entry, names)
            if column == "imbalance":
                record[column] = formats.significant(value, 2)
            else:
                record[column] = formats.count(value)
        counts = class_counts(entry)
        if counts and record["classes"] == formats.NOTHING:
            record["classes"] = str(sum(1 for value in counts if value))
        present = [value for value in counts if value]
        if present and record["imbalance"] == formats.NOTHING:
            record["imbalance"] = formats.significant(max(present) / min(present), 2)
        records.append(record)
    if not records:
        return None
    return table_of(
        records,
        ["set", *_SET_COLUMNS],
        caption="Images by set; imbalance = largest class over smallest that has any",
        left=("set",),
        drop_empty=tuple(_SET_COLUMNS),
    )


def facts_table(summary: Json) -> Table | None:
    """What the summary says beside the sets: plain values only, one a row."""
    known = {"sets", "classes", "class_names", "dataset", "name"}
    plain = {
        key: value
        for key, value in summary.items()
        if key not in known and isinstance(value, str | int | float)
    }
    if not plain:
        return None
    rows = [{"fact": key.replace("_", " "), "value": formats.words(plain[key])} for key in plain]
    return table_of(sorted(rows, key=lambda row: row["fact"]), ["fact", "value"], left=("fact",))


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
