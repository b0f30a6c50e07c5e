"""The chapters about the comparison of trainings, the data, and where numbers came from.

Each takes the inputs and the ledger and gives blocks. What is missing raises ``AbsentError``, what
does not add up another ``DataError``; ``section`` turns either into a sentence on the page, so that
one bad file never takes the rest of the report with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import comparison as compare
from hgnetv2_pipeline.reporting import data_tables, figures, formats, tables
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Figure,
    Fold,
    Notice,
    Section,
    Table,
    Text,
)
from hgnetv2_pipeline.reporting.inputs import AbsentError, Ledger, ReportInputs

Json = Mapping[str, Any]
# What a JSON of another shape than its writer's contract raises when it is read.
MISSHAPEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_log = logging.getLogger(__name__)
_FEW = 30  # classes that a chart can still name one by one

_READING = (
    "How to read it: gain is the difference of the means to supervised only, in percentage points. "
    "SE, images is the standard error of a difference of two binomial shares: what another draw of "
    "test images would change. It does not shrink with more seeds, since all see the same images. "
    "SE, seeds comes from the spread of the runs: what other seeds would change. A gain counts as "
    "clear here where it exceeds two standard errors, both kinds taken together."
)


def section(
    title: str, anchor: str, command: str | None, build: Callable[[], Sequence[Block]]
) -> Section:
    """The chapter, or in its place what is missing and the ``command`` that makes it."""
    try:
        blocks = tuple(build())
    except AbsentError as error:
        said = str(error)
        blocks = (Notice(said[:1].upper() + said[1:], command),)
    except DataError as error:
        _log.warning("report, %s: %s", title, error)
        blocks = (Notice(f"Not shown, because it does not add up: {error}", kind="warning"),)
    except MISSHAPEN as error:
        _log.warning("report, %s: %r", title, error, exc_info=True)
        said = f"Not shown: a file of this chapter has an unexpected form ({error!r})"
        blocks = (Notice(said, command, kind="warning"),)
    return Section(title, anchor, blocks)


def read_all(paths: Sequence[Path], what: str, ledger: Ledger) -> tuple[list[Json], list[Block]]:
    """The readable ones of several JSON files, and a warning for each other.

    Raises:
        AbsentError: none was given, or none can be read.
    """
    if not paths:
        raise AbsentError(f"{what}: none was given to the report")
    found: list[Json] = []
    troubles: list[Block] = []
    for path in sorted(paths):
        try:
            found.append(ledger.read_json(path, what))
        except AbsentError as error:
            troubles.append(Notice(str(error), kind="warning"))
    if not found:
        raise AbsentError("; ".join(b.text for b in troubles if isinstance(b, Notice)))
    return found, troubles


def read_comparison(
    inputs: ReportInputs, ledger: Ledger
) -> tuple[list[Json], list[compare.ArmSummary]]:
    """The rows of the comparison file and their summaries; the errors of both."""
    value = ledger.read_json(inputs.comparison, "comparison of trainings")
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows:
        raise AbsentError("comparison of trainings: the file has no rows")
    return rows, compare.summarise_arms(rows)


def comparison_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """The honest table with its dot plot and what it means, a split at a time."""
    rows, summaries = read_comparison(inputs, ledger)
    blocks: list[Block] = []
    for split in dict.fromkeys(summary.split for summary in summaries):
        arms = [summary for summary in summaries if summary.split == split]
        said = compare.explain(arms)
        if said:
            blocks.append(Bullets(tuple(said)))
        blocks.append(tables.comparison_table(arms))
        blocks.append(Figure((_dots(arms),), _dots_caption(arms)))
    blocks.append(Text(_READING))
    blocks.append(Fold(f"All {len(rows)} runs behind it", (tables.runs_table(rows),)))
    return blocks


def _dots(arms: Sequence[compare.ArmSummary]) -> str:
    plain = next((arm for arm in arms if arm.arm == "supervised"), None)
    return figures.dot_plot(
        [
            figures.Dots(
                label=arm.label,
                values=tuple(100 * value for value in arm.top1),
                names=tuple(f"seed {seed}" for seed in arm.seeds),
            )
            for arm in arms
        ],
        x_label=f"top-1 on {arms[0].split}, %",
        reference=None if plain is None else 100 * plain.mean,
    )


def _dots_caption(arms: Sequence[compare.ArmSummary]) -> str:
    dashed = any(arm.arm == "supervised" for arm in arms)
    line = " The dashed line is the mean of supervised only." if dashed else ""
    return f"A dot a run, the bar and the number are the mean.{line} The axis does not start at 0."


def dataset_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """Counts by set, what was left out, what sets share, images by class."""
    summary = ledger.read_json(inputs.dataset_summary, "summary of the dataset")
    counted = data_tables.dataset_table(summary)
    if counted is None:
        raise AbsentError("summary of the dataset: the file names no set")
    blocks: list[Block] = [counted]
    conflicts = summary.get("conflicting_labels")
    if conflicts:
        said = f"{len(conflicts)} images have the bytes of another image under another label."
        blocks.append(Notice(said, kind="warning"))
    train = data_tables.class_counts(data_tables.sets_of(summary).get("train", {}))
    if any(count for _, count in train):
        blocks.append(class_sizes([n for n, _ in train], [c for _, c in train], "train"))
    shared = data_tables.shared_table(summary)
    if shared is not None:
        blocks.append(shared)
    unreadable = data_tables.unreadable_table(summary)
    if unreadable is not None:
        blocks.append(Fold("Images that could not be read", (unreadable,)))
    return blocks


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


def provenance_blocks(inputs: ReportInputs, ledger: Ledger) -> list[Block]:
    """Which file each chapter was read from, with its hash; revision and versions as given."""
    blocks: list[Block] = [
        Text(f"Revision of the code: {inputs.revision or 'not given to the report'}.")
    ]
    if inputs.versions:
        rows = tuple((name, inputs.versions[name]) for name in sorted(inputs.versions))
        blocks.append(Table(("package", "version"), rows, "Versions", ("package", "version")))
    sources = sorted(ledger.sources, key=lambda source: (source.used_for, source.shown))
    if not sources:
        raise AbsentError("no file was read")
    blocks.append(
        Table(
            ("used for", "file", "run", "SHA-256"),
            tuple(
                (source.used_for, source.shown, source.run or formats.NOTHING, source.sha256)
                for source in sources
            ),
            "Every measured number above was read from one of these files; sha256sum checks them",
            left=("used for",),
            code=("file", "run", "SHA-256"),
        )
    )
    return blocks
