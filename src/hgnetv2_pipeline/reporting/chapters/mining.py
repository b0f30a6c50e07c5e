"""What was mined, for the report on a run and for the page about a mining: blocks from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import comparison, figures, formats, sections, tables
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Figure,
    Fold,
    Link,
    Notice,
    Table,
    Text,
    table_of,
)
from hgnetv2_pipeline.reporting.chapters.data import class_sizes
from hgnetv2_pipeline.reporting.chapters.pool import likeness_words, pool_map_blocks
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import BUDGET, embed

Json = Mapping[str, Any]
Row = Mapping[str, str]

_ALL = 100  # classes of which every one gets a line
_SOME = 12  # classes at each end, where there are more


def mining_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """From pool to mined list, whether it was worth it, purity, and where to look further."""
    audit = ledger.read_json(inputs.mining_audit, "mining audit")
    blocks: list[Block] = [mining_table(audit)]
    for table in (planted_table(audit), mining_facts_table(audit)):
        if table is not None:
            blocks.append(table)
    blocks += _unmined(inputs)
    if inputs.mining_classes is not None and inputs.mining_classes.is_file():
        rows = ledger.read_csv(inputs.mining_classes, "mined classes")
        blocks += class_figures(rows)[:1]
    blocks += purity_blocks(inputs.mining_purity, audit, ledger)
    blocks += _unlike(inputs, ledger)
    blocks += pool_map_blocks(inputs.own.get("pool_map"), ledger, inputs.run_command)
    pictures = sheet_blocks(inputs.mining_sheets, audit, ledger)
    if pictures:
        blocks.append(Fold("Pictures of what was mined and what was removed", tuple(pictures)))
    if not inputs.mining_sheets:
        command = f"{inputs.run_command} --pipeline mining"
        blocks.append(Notice("Contact sheets: none were given to the report", command))
    if inputs.home and inputs.mining_page and inputs.mining_page.is_file():
        where = Path(os.path.relpath(inputs.mining_page, inputs.home)).as_posix()
        blocks.append(
            Link("Classes, removed pairs, what waits for a person: ", "the page on mining", where)
        )
    return blocks


def _unlike(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """What differs clearly between the pool and the labelled images."""
    try:
        summary = ledger.read_json(inputs.dataset_summary, "summary of the dataset")
    except AbsentError:  # the chapter on the data says what is wrong with it
        return []
    said = likeness_words(summary["likeness"]) if "likeness" in summary else []
    return [Notice(words, kind="warning") for words in said]


_NUMBER = (
    "The number is the margin: the logit of the class less that of the next one (0: undecided; "
    "2.2: nine to one; 6.9: a thousand to one), or the typicality where mining.rank_by says so."
)
_SHEETS = {
    "top": f"The images that the teacher is surest of, a row per class. {_NUMBER}",
    "bottom": "The last images that came onto the list, a row per class, the cut-off last: where "
    f"mistakes are first. {_NUMBER}",
    "removed": "Images of the pool that were removed, each beside the protected image it is like, "
    "the least alike first",
    "review": "Pairs in doubt, which a person decides: an image of the pool beside the protected "
    "image it is like",
}
_WRONG = " Red frames: wrong by the truth, which is known here and hidden from mining."


def sheet_blocks(
    sheets: Sequence[Path], audit: Json, ledger: FileLedger, budget: int = BUDGET
) -> list[Block]:
    """Contact sheets, each with a sentence; those without a pair on them are left out."""
    channels = audit.get("by_channel")
    found = {
        name: any(row.get(decision) for row in channels.values())
        for name, decision in (("removed", "remove"), ("review", "review"))
        if isinstance(channels, Mapping)
    }
    blocks: list[Block] = []
    shown = [path for path in sheets if found.get(path.stem, True)]
    for path in shown:
        said = _SHEETS.get(path.stem, "Images of the pool")
        said += _WRONG if path.stem in ("top", "bottom") and "purity" in audit else ""
        blocks += embed([path], said, ledger, budget=budget // len(shown))
    return blocks


def _unmined(inputs: ReportInputs) -> list[Block]:
    """The student taught by the whole pool beside the one taught by the mined list."""
    try:
        _, summaries = sections.read_comparison(inputs, FileLedger(inputs.root))
    except sections.MISSHAPEN:  # its own chapter says what is wrong with it
        return []
    blocks: list[Block] = []
    for split in dict.fromkeys(summary.split for summary in summaries):
        arms = {summary.arm: summary for summary in summaries if summary.split == split}
        if {"stage1", "stage1_unmined"} <= set(arms):
            mined, whole = arms["stage1"], arms["stage1_unmined"]
            blocks.append(tables.ablation_table(mined, whole))
            blocks.append(Text(comparison.mining_gain(mined, whole)))
    return blocks


def purity_blocks(
    path: Path | None, audit: Json, ledger: FileLedger, *, numbers: bool = False
) -> list[Block]:
    """The curve of purity over k and what it means; with ``numbers`` as a folded table too."""
    if path is None or not path.is_file():
        said = "How pure the mined list is, is not known: no labelled image was hidden for it."
        return [Text(said)]
    try:
        rows = ledger.read_csv(path, "purity by k")
    except AbsentError as error:
        return [Notice(str(error), kind="warning")]
    blocks: list[Block] = [_purity_figure(rows, audit), *_purity_words(rows, audit)]
    if numbers:
        blocks.append(Fold("The curve in numbers", (curve_table(rows),)))
    return blocks


def _purity_figure(rows: Sequence[Row], audit: Json) -> Figure:
    points, band = [], []
    for row in rows:
        if int(row["probes"]):
            points.append((float(row["k"]), 100 * float(row["estimate"])))
            band.append((100 * float(row["low"]), 100 * float(row["high"])))
    series = [figures.Series("estimate: hidden labelled images", tuple(points), band=tuple(band))]
    known = [row for row in rows if int(row.get("known") or 0)]
    if known:
        true = tuple((float(row["k"]), 100 * float(row["purity"])) for row in known)
        series.append(figures.Series("truth: right of all on the list", true, colour=1))
        inside = tuple(
            (float(row["k"]), 100 * int(row["known_right"]) / n)
            for row in known
            if (n := int(row["known"]) - int(row["distractors"]))
        )
        name = "truth: right of those that belong to a class"
        series.append(figures.Series(name, inside, colour=2, dashed=True))
    ks = [float(row["k"]) for row in rows]
    k = formats.number(audit.get("k"))
    drawing = figures.line_chart(
        series, title="Purity of the list by its k", x_label="k, images kept per class",
        y_label="% of the list", width=figures.WIDTH, dots=True, log_x=max(ks) > 4 * min(ks),
        mark=None if k is None else (k, f"this list: k = {formats.count(k)}"),
    )  # fmt: skip
    return Figure(
        (drawing,),
        "Share of right pseudo-labels on lists of k images per class. The band is Wilson's 95 % "
        "interval of the estimate. The vertical axis does not start at 0.",
    )


def _purity_words(rows: Sequence[Row], audit: Json) -> list[Block]:
    found = audit.get("estimate")
    if not isinstance(found, Mapping):
        return []
    hidden = str(found.get("set", "val"))
    share = formats.number(found.get("estimate"))
    said = "No hidden image would have come onto this list. "
    if share is not None:
        said = (
            f"Estimated at this list's k: {formats.percent(share)} % "
            f"({100 * float(found['low']):.1f} to {100 * float(found['high']):.1f}), "
            f"{formats.count(found['right'])} right of {formats.count(found['probes'])} hidden "
            "images. "
        )
    true = next((row for row in rows if row["k"] == str(audit.get("k"))), None)
    if true is not None and int(true.get("known") or 0):
        truth = formats.percent(float(true["purity"]))
        said += (
            f"The truth, known here and hidden from mining: {truth} % "
            f"({formats.count(true['known_right'])} of {int(true['known']):,}), "
            f"{formats.count(true['distractors'])} images belong to no class at all. "
        )
    how = (
        f"How: labelled images of {hidden} were scored as if they were in the pool. Each was "
        "given the rank that it would have had in its class; at k, those with "
        "rank k or better count. None of them is a candidate or can be mined. What this cannot "
        "see: every hidden image belongs to one of the classes, while a pool also holds images of "
        "none. "
        "So the estimate is an upper bound, as far as the pool's images of these classes are like "
        f"those of {hidden}. A class counts by its hidden images, not by its share of the list; "
        "the curve takes no account of mining.top_p and mining.diversity."
    )
    if hidden == "train":
        how += (
            " The teacher was trained on these very images, which puts the estimate higher still; "
            "mining.purity.probes: val hides images that it has never seen."
        )
    return [Text(said.strip()), Text(how)]


def class_figures(rows: Sequence[Row]) -> list[Block]:
    """How many images each class got, and how sure the teacher is of them."""
    names = [row["name"] for row in rows]
    blocks: list[Block] = [
        class_sizes(names, [int(row["selected"]) for row in rows], "the mined list")
    ]
    filled = [row for row in rows if int(row["selected"])]
    if filled:
        drawing = figures.spreads(
            [
                figures.Spread(
                    row["name"], float(row["min_score"]), float(row["median_score"]),
                    float(row["max_score"]),
                )
                for row in filled
            ],
            x_label="Probability that the teacher gives the images taken",
        )  # fmt: skip
        caption = (
            "From the last image that came in to the surest, with the median. A class whose lowest "
            "is low holds images the teacher hardly knows."
        )
        blocks.append(Figure((drawing,), caption))
    return blocks


def class_tables(rows: Sequence[Row], k: int) -> list[Block]:
    """Every class, or of many the ends that matter: least sure, shortest, least pure."""
    if len(rows) <= _ALL:
        return [class_rows(rows)]
    filled = [row for row in rows if int(row["selected"])]
    short = [row for row in rows if int(row["selected"]) < k]
    judged = [row for row in filled if int(row.get("probes") or 0)]
    ends: list[tuple[str, list[Row]]] = [
        ("The lowest cut-offs", sorted(filled, key=lambda row: float(row["min_score"]))),
        ("The shortest classes", sorted(short, key=lambda row: int(row["selected"]))),
        (
            "The least pure classes, by hidden images",
            sorted(judged, key=lambda row: (int(row["right"]) / int(row["probes"]), row["name"])),
        ),
    ]
    blocks: list[Block] = []
    for title, some in ends:
        if some:
            table = class_rows(some[:_SOME])
            caption = f"{title}, {min(_SOME, len(some))} of {len(some):,} classes"
            blocks.append(Table(table.columns, table.rows, caption, table.left, table.code))
    blocks.append(Link("All classes: ", "classes.csv", "classes.csv"))
    return blocks


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
    "k": "k, images kept per class at most",
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
            low, high = intervals.wilson_interval(right, held)
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
    """The purity curve in numbers, one row per k."""
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
