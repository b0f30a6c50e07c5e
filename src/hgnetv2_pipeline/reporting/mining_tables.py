"""Tables of a mining: from the pool to the list, class by class, channel by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats, intervals
from hgnetv2_pipeline.reporting.blocks import Table, table_of

Json = Mapping[str, Any]
Row = Mapping[str, str]

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
    "same_bytes": "candidates passed over: same bytes as a better one of the class",
    "below_min_conf": "candidates passed over: below min_conf",
    "not_reached": "candidates passed over: beyond k (or too like a better one)",
    "selected": "selected for distillation",
}
_AUDIT_FACTS = {
    "k": "k, images kept a class at most",
    "short_classes": "classes with fewer than k",
    "empty_classes": "classes with none",
    "gini": "Gini coefficient of the class sizes (0 = all equal)",
}
_PURITY_ROWS = {
    "known": "mined images with a known truth",
    "right": "pseudo-label right",
    "distractors": "belong to no class",
}


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
    passed_over = have["same_bytes"] + have["below_min_conf"] + have["not_reached"]
    if (
        audit.get("not_reached") is not None
        and have["candidates"] != have["selected"] + passed_over
    ):
        wrong.append("candidates is not selected + passed over")
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
            shown = formats.words(value)
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


def planted_table(audit: Json) -> Table | None:
    """What the maker of the pool hid in it, and what became of that; only the sample knows."""
    planted = audit.get("planted")
    kinds = planted.get("kinds", planted) if isinstance(planted, Mapping) else None
    if not isinstance(kinds, Mapping) or not kinds:
        return None
    columns = {name: name for name in ("what", "planted", "remove", "review", "keep")}
    columns["what"] = "hidden in the pool"
    records = []
    for name in sorted(kinds):
        entry = kinds[name]
        record = {columns["what"]: str(name).replace("_", " ")}
        for key, value in (entry if isinstance(entry, Mapping) else {"images": entry}).items():
            columns.setdefault(key, str(key).replace("_", " "))
            record[columns[key]] = formats.words(value)
        records.append(record)
    if isinstance(planted, Mapping) and planted.get("clean") is not None:
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
        drop_empty=tuple(columns.values()),
        caption="Planted in the pool on purpose, and what mining did with it",
        left=(columns["what"],),
    )


def channel_table(audit: Json) -> Table | None:
    """What each channel of the de-duplication found, and what became of it."""
    channels = audit.get("by_channel")
    if not isinstance(channels, Mapping) or not channels:
        return None
    records = [
        {"channel": name, **{what: formats.count(n) for what, n in channels[name].items()}}
        for name in sorted(channels)
    ]
    return table_of(
        records,
        ["channel", "remove", "review", "keep"],
        caption="Pool images that resemble an image of val, test or train, by the channel that "
        "found them and by the decision",
        left=("channel",),
    )


def class_rows(rows: Sequence[Row]) -> Table:
    """Rows of classes.csv as a table; the purity of a class has Wilson's interval."""
    records = []
    for row in rows:
        record = {
            "class": row["label"],
            "name": row["name"],
            "candidates": formats.count(row["candidates"]),
            "taken": formats.count(row["selected"]),
            "lowest": _confidence(row["min_score"]),
            "median": _confidence(row["median_score"]),
            "highest": _confidence(row["max_score"]),
        }
        held = int(row.get("probes") or 0)
        if held:
            right = int(row["right"])
            low, high = intervals.wilson(right, held)
            record["hidden images, right"] = f"{right} of {held}"
            record["95 %"] = f"{100 * low:.0f} – {100 * high:.0f}"
        records.append(record)
    names = ["class", "name", "candidates", "taken", "lowest", "median", "highest"]
    extra = ["hidden images, right", "95 %"]
    return table_of(records, names + extra, left=("name",), drop_empty=extra)


def _confidence(value: str) -> str:
    given = formats.number(value)
    return formats.NOTHING if given is None else f"{given:.3f}"


def pair_table(rows: Sequence[Row], most: int) -> Table:
    """The first pairs of pairs.csv: pool image, twin, channel and what the pixels said."""
    records = [
        {
            "pool image": row["key"],
            "twin": row["val_key"],
            "of": row["protected"],
            "channel": row["channel"],
            "bits apart": formats.NOTHING if row["distance"] == "-1" else row["distance"],
            "inliers": formats.NOTHING if row["inliers"] == "0" else row["inliers"],
            "correlation": formats.NOTHING if not float(row["correlation"]) else row["correlation"],
        }
        for row in rows[:most]
    ]
    return table_of(
        records,
        list(records[0]),
        left=("of", "channel"),
        code=("pool image", "twin"),
        drop_empty=("inliers", "correlation", "bits apart"),
    )


def curve_table(rows: Sequence[Row]) -> Table:
    """The purity curve in numbers, a row a k."""
    records = []
    for row in rows:
        known = int(row.get("known") or 0)
        record = {
            "k": formats.count(row["k"]),
            "images on the list": formats.count(row["images"]),
            "hidden images on it": formats.count(row["probes"]),
            "right": formats.count(row["right"]),
            "estimate, %": formats.percent(formats.number(row["estimate"])),
            "95 %": f"{100 * float(row['low']):.1f} – {100 * float(row['high']):.1f}",
        }
        if known:
            record["of no class (truth)"] = formats.count(row["distractors"])
            record["right (truth)"] = f"{formats.count(row['known_right'])} of {known:,}"
            record["purity (truth), %"] = formats.percent(formats.number(row["purity"]))
        records.append(record)
    truth = ["of no class (truth)", "right (truth)", "purity (truth), %"]
    names = [name for name in records[0] if name not in truth]
    return table_of(records, names + truth, drop_empty=truth)
