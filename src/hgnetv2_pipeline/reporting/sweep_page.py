"""The page about a sweep: which model to use and why, the table and the Pareto plot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.reporting import figures, formats, svg
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Figure,
    Link,
    Notice,
    Report,
    Section,
    Table,
    Text,
    table_of,
)
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.page import to_html
from hgnetv2_pipeline.reporting.sections import busy_notice
from hgnetv2_pipeline.reporting.terminal import banner_text

Json = Mapping[str, Any]
PAGE = "sweep_report.html"

# Half a 95 % interval in standard errors, as ``evaluation.recommendation`` has it.
_HALF = 1.959963984540054
_COLUMNS = (
    "model", "pixels", "precision", "accuracy", "median ms", "95 % interval", "behind the best",
    "90 % within ms", "CPU ms", "size", "state",
)  # fmt: skip


def build_sweep_page(table: Json, out: Path) -> Path:
    """Write the page of ``sweep.json``, ``table``, as one HTML file that loads nothing."""
    report = Report(
        title=f"Sweep of {table['dataset']}, run {table['run']}",
        subtitle=recommendation(table),
        banner=banner_text(is_sample=table["dataset"] == "sample") or None,
        head=(),
        sections=(
            Section("Accuracy against time", "pareto", tuple(_pareto(table))),
            Section("All models", "models", tuple(_models(table))),
            Section("How it was measured", "measured", tuple(_measured(table))),
        ),
    )
    return write_text(out, to_html(report))


def sweep_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """For the report on a run: the recommendation, and where the page is; nothing without one."""
    path = inputs.own.get("sweep")
    if path is None or not path.is_file():
        return []
    said = recommendation(ledger.read_json(path, "sweep"))
    page = Path(os.path.relpath(path.with_name(PAGE), inputs.home or path.parent)).as_posix()
    return [Text(said), Link("All models of the sweep: ", "table and plot", page)]


def recommendation(table: Json) -> str:
    """Which model to use and why, in one sentence."""
    rows = {row["name"]: row for row in table["rows"]}
    budget = table["budget_ms"]
    within = "of all" if budget is None else f"within {budget:g} ms"
    used, leader, fastest = (rows.get(table[key]) for key in ("used", "leader", "fastest"))
    if fastest is None:
        return "Nothing can be recommended: no model was measured."
    if used is None or leader is None:
        return (
            f"No model answers {within}: the fastest is {fastest['name']}, "
            f"{_accuracy(table, fastest)} at {_ms(fastest['p50_ms'])}."
        )
    said = f"{used['name']}: {_accuracy(table, used)} at {_ms(used['p50_ms'])}"
    if used is leader:
        return f"{said}, the most accurate {within}."
    return (
        f"{said}, the fastest of those level within noise with the most accurate {within}, "
        f"{leader['name']} ({_accuracy(table, leader)} at {_ms(leader['p50_ms'])}; difference "
        f"{_difference(table, used)})."
    )


def terminal_rows(table: Json) -> list[dict[str, str]]:
    """The table for the terminal."""
    return [
        {
            "model": row["name"],
            f"{_metric(table)} %": formats.percent(row["value"], table["n"]),
            "median ms": formats.significant(row["p50_ms"]),
            "size": formats.size(row["bytes"]),
            "": "recommended" if row["name"] == table["used"] else _state(row),
        }
        for row in table["rows"]
    ]


def pareto_plot(table: Json) -> str:
    """Accuracy against the median time as SVG, the budget as a line, the front joined."""
    marks = [
        figures.Mark(
            row["p50_ms"],
            100 * row["value"],
            f"{row['variant']}, recommended" if row["name"] == table["used"] else row["variant"],
            f"{row['size']} px {row['precision']}",
            None if row["low"] is None else (100 * row["low"], 100 * row["high"]),
        )
        for row in table["rows"]
        if formats.number(row["p50_ms"]) is not None and formats.number(row["value"]) is not None
    ]
    if not marks:
        nothing = "no model was measured"
        return svg.drawing(figures.WIDTH, 40, nothing, [svg.text(8, 24, nothing)])
    budget = table["budget_ms"]
    return figures.scatter(
        marks,
        x_label="median time of an answer, ms",
        y_label=f"{_metric(table)} on {table['split']}, %",
        limit=None if budget is None else (budget, f"budget {budget:g} ms"),
        front=True,
    )


def _pareto(table: Json) -> list[Block]:
    caption = "Dotted: the models that no other beats in both accuracy and time."
    if table["metric"] == "top1":
        caption += " Whiskers: 95 % intervals of the images."
    blocks: list[Block] = [Figure((pareto_plot(table),), caption)]
    if table["has_test"] and table["used"]:
        model = next(row["model"] for row in table["rows"] if row["name"] == table["used"])
        blocks.append(
            Notice(
                "The model was chosen on these images, so its figure here flatters it a little. "
                "Nothing was chosen on the test images: their figure is the one to quote",
                f"{table['run_command']} --pipeline evaluation --params model={model},split=test",
            )
        )
    return blocks


def _models(table: Json) -> list[Block]:
    rows = [_cells(table, row) for row in table["rows"]]
    empty = [name for name in _COLUMNS if name != "state"]
    made: Table = table_of(
        rows, _COLUMNS, caption=f"{_metric(table)} on the {table['n']:,} {table['split']} images",
        left=("model", "state"), drop_empty=empty,
    )  # fmt: skip
    troubles = [
        Notice(f"{row['name']} {row['state']}: {row['reason']}", kind="warning")
        for row in table["rows"]
        if row["reason"]
    ]
    return [made, *troubles]


def _cells(table: Json, row: Json) -> dict[str, str]:
    n = table["n"]
    interval = (
        formats.NOTHING
        if row["low"] is None
        else f"{formats.percent(row['low'], n)} to {formats.percent(row['high'], n)}"
    )
    leads = row["name"] == table["leader"]
    return {
        "model": row["variant"],
        "pixels": str(row["size"]),
        "precision": row["precision"],
        "accuracy": formats.percent(row["value"], n),
        "median ms": formats.significant(row["p50_ms"]),
        "95 % interval": interval,
        "behind the best": formats.NOTHING if leads else _difference(table, row),
        "90 % within ms": formats.significant(row["p90_ms"]),
        "CPU ms": formats.significant(row["cpu_ms"]),
        "size": formats.size(row["bytes"]),
        "state": "recommended" if row["name"] == table["used"] else _state(row, leads),
    }


def _state(row: Json, leads: bool = False) -> str:
    if row["state"] != "measured":
        return str(row["state"])
    return "most accurate" if leads else ""


def _measured(table: Json) -> list[Block]:
    load = formats.number(table["load_average"])
    threads = "1 thread" if table["threads"] == 1 else f"{table['threads']} threads"
    items = [
        "Every model was trained by the same chain and recipe, exported, and judged as the file "
        f"that was timed, on {table['split']}.",
        "The difference of two models is that of their answers to the same images. A faster model "
        "is recommended unless a slower one is better by more than half the 95 % interval of that "
        "difference.",
        "One training of each: how much another seed would change is in none of these intervals.",
    ]
    if table["engine"]:
        items.append(
            f"Times: {table['engine']} on {table['device']}, {threads}, batch 1, "
            f"{formats.count(table['n_timed'])} calls of each model in turns with the others"
            + (f"; load average {load:.1f} before." if load is not None else ".")
        )
    blocks: list[Block] = [Bullets(tuple(items))]
    busy = busy_notice(
        load, table["processors"],
        "all of them looked slower than they are, and one may have missed the budget for that",
        f"{table['run_command']} --pipeline sweep --params redo=sweep,...",
    )  # fmt: skip
    blocks += [busy] if busy else []
    files = tuple((row["name"], row["model"], row["file"]) for row in table["rows"] if row["file"])
    if files:
        blocks.append(
            Table(("name", "run", "file"), files, "What was judged and timed", ("name",),
                  ("run", "file"))
        )  # fmt: skip
    return [
        *blocks,
        Text("The same command goes on where it stopped, and makes again what failed."),
    ]


def _metric(table: Json) -> str:
    return "mAP" if table["metric"] == "map" else "top-1"


def _accuracy(table: Json, row: Json) -> str:
    n = table["n"]
    said = f"{formats.percent(row['value'], n)} %"
    if row["low"] is None:
        return f"{said} mAP"
    return f"{said} (95 %: {formats.percent(row['low'], n)} to {formats.percent(row['high'], n)})"


def _ms(value: float) -> str:
    return f"{formats.significant(value)} ms"


def _difference(table: Json, row: Json) -> str:
    if row["behind"] is None:
        return formats.NOTHING
    value, half, n = row["behind"], _HALF * row["behind_error"], table["n"]
    low, high = (formats.points(value + side * half, n) for side in (-1, 1))
    return f"{formats.points(value, n)} points, 95 %: {low} to {high}"
