"""What was mined, for the report on a run and for the page about a mining: blocks from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.reporting import (
    comparison,
    figures,
    formats,
    mining_tables,
    range_figures,
    sections,
    tables,
)
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Figure,
    Fold,
    Link,
    Notice,
    Table,
    Text,
)
from hgnetv2_pipeline.reporting.inputs import AbsentError, Ledger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import embed

Json = Mapping[str, Any]
Row = Mapping[str, str]

_ALL = 100  # classes of which every one gets a line
_SOME = 12  # classes at each end, where there are more


def mining_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """From pool to mined list, whether it was worth it, purity, and where to look further."""
    audit = ledger.read_json(inputs.mining_audit, "mining audit")
    blocks: list[Block] = [mining_tables.mining_table(audit)]
    for table in (mining_tables.planted_table(audit), mining_tables.mining_facts_table(audit)):
        if table is not None:
            blocks.append(table)
    blocks += _unmined(inputs)
    if inputs.mining_classes is not None and inputs.mining_classes.is_file():
        rows = ledger.read_csv(inputs.mining_classes, "mined classes")
        blocks += class_figures(rows)[:1]
    blocks += purity_blocks(inputs.mining_purity, audit, ledger)
    blocks += embed(inputs.mining_sheets, "Contact sheet", ledger)
    if not inputs.mining_sheets:
        command = f"{inputs.run_command} --pipeline mining"
        blocks.append(Notice("Contact sheets: none were given to the report", command))
    if inputs.home and inputs.mining_page and inputs.mining_page.is_file():
        where = Path(os.path.relpath(inputs.mining_page, inputs.home)).as_posix()
        blocks.append(
            Link("Classes, removed pairs, what waits for a person: ", "the page on mining", where)
        )
    return blocks


def _unmined(inputs: ReportInputs) -> list[Block]:
    """The student taught by the whole pool beside the one taught by the mined list."""
    try:
        _, summaries = sections.read_comparison(inputs, Ledger(inputs.root))
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
    path: Path | None, audit: Json, ledger: Ledger, *, numbers: bool = False
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
        blocks.append(Fold("The curve in numbers", (mining_tables.curve_table(rows),)))
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
        series, title="Purity of the list by its k", x_label="k, images kept a class",
        y_label="% of the list", width=figures.WIDTH, dots=True, log_x=max(ks) > 4 * min(ks),
        mark=None if k is None else (k, f"this list: k = {formats.count(k)}"),
    )  # fmt: skip
    return Figure(
        (drawing,),
        "Share of right pseudo-labels on lists of k images a class. The band is Wilson's 95 % "
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
            f"{formats.count(true['distractors'])} images being of no class at all. "
        )
    how = (
        f"How: labelled images of {hidden} were scored as if they lay in the pool, and each got "
        "the rank it would have taken in its class; at k, those with rank k or better count. None "
        "of them is a candidate or can be mined. What this cannot see: "
        "every hidden image belongs to one of the classes, while a pool also holds images of none. "
        "So the estimate is an upper bound, as far as the pool's images of these classes are like "
        f"those of {hidden}. A class counts by its hidden images, not by its share of the list; "
        "neither mining.top_p nor mining.diversity is in the curve."
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
        sections.class_sizes(names, [int(row["selected"]) for row in rows], "the mined list")
    ]
    filled = [row for row in rows if int(row["selected"])]
    if filled:
        drawing = range_figures.spreads(
            [
                range_figures.Spread(
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
        return [mining_tables.class_rows(rows)]
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
            table = mining_tables.class_rows(some[:_SOME])
            caption = f"{title}, {min(_SOME, len(some))} of {len(some):,} classes"
            blocks.append(Table(table.columns, table.rows, caption, table.left, table.code))
    blocks.append(Link("All classes: ", "classes.csv", "classes.csv"))
    return blocks
