"""The page about a dataset alone: counts, classes, sizes, what is broken, what appears twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.reporting import figures, formats, sections
from hgnetv2_pipeline.reporting.blocks import Block, Cards, Figure, Fold, Report, Table, Text
from hgnetv2_pipeline.reporting.chapters import data, pool
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.page import to_html
from hgnetv2_pipeline.reporting.pictures import embed
from hgnetv2_pipeline.reporting.terminal import banner_text

Json = Mapping[str, Any]

_ADDS_UP = (
    ("n_listed", "listed", "all images that were found or named"),
    ("n_used", "used", "in one of the lists"),
    ("n_quarantined", "quarantined", "cannot be used: unreadable, missing, cut short"),
    ("n_refused", "refused", "left out by a rule: a class too small, a copy, a leak"),
)


def build_dataset_page(
    summary: Path,
    out: Path,
    *,
    dataset: str,
    sheets: Mapping[str, Path],
    is_sample: bool = False,
    run_command: str = "kedro run",
) -> Path:
    """Write the page as one HTML file that loads nothing.

    Args:
        summary: JSON of ``data.summarise_sets``, with the account (n_listed ...) and ``leaks``.
        sheets: contact sheets by what they show.

    Raises:
        AbsentError: the summary is missing or no JSON object.
    """
    ledger = FileLedger()
    inputs = ReportInputs(dataset=dataset, dataset_summary=summary, is_sample=is_sample)
    known = ledger.read_json(summary, "summary of the dataset")
    chapters = (
        sections.section(
            "Sets and classes", "sets", None,
            lambda: [*_counts(inputs, ledger), *_class_table(known)],
        ),
        sections.section("Sizes", "sizes", None, lambda: _sizes(known)),
        sections.section(
            "Is the pool like the labelled images?", "likeness", None,
            lambda: pool.likeness_blocks(known, run_command),
        ),
        sections.section("What was left out", "refused", None, lambda: _left_out(known)),
        sections.section(
            "The same picture in two sets", "leaks", None,
            lambda: [*_leaks(known), *_sheets(sheets, ledger, leaks=True)],
        ),
        sections.section("Samples", "samples", None, lambda: _sheets(sheets, ledger, leaks=False)),
        sections.section(
            "Where this came from", "sources", None,
            lambda: sections.provenance_blocks(inputs, ledger),
        ),
    )  # fmt: skip
    cards = Cards(tuple((formats.count(known.get(key)), what, why) for key, what, why in _ADDS_UP))
    report = Report(
        title=f"Dataset {dataset}",
        subtitle="What the images are before anything is trained on them: "
        "listed = used + quarantined + refused.",
        banner=banner_text(is_sample=is_sample) or None,
        head=(cards,),
        sections=chapters,
    )
    return write_text(out, to_html(report))


def _counts(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """As in the report on a run, without the broken images, which have a chapter here."""
    blocks = data.dataset_blocks(inputs, ledger)
    return [block for block in blocks if not isinstance(block, Fold)]


def _class_table(summary: Json) -> list[Block]:
    """Every class with its images in each set, folded away."""
    sets = data.dataset_sets(summary)
    counts = {name: data.class_counts(entry) for name, entry in sets.items()}
    shown = [name for name, rows in counts.items() if rows]
    if not shown:
        return []
    length = max(len(counts[name]) for name in shown)
    longest = next(counts[name] for name in shown if len(counts[name]) == length)
    rows = tuple(
        (
            str(label),
            longest[label][0],
            *(
                formats.count(counts[name][label][1] if label < len(counts[name]) else 0)
                for name in shown
            ),
        )
        for label in range(length)
    )
    table = Table(("class", "name", *shown), rows, left=("name",))
    return [Fold(f"All {formats.count(length)} classes", (table,))]


def _sizes(summary: Json) -> list[Block]:
    found: list[Block] = []
    alike: dict[str, list[str]] = {}
    for name, entry in data.dataset_sets(summary).items():
        bins = [(str(what), float(number)) for what, number in entry.get("short_side") or []]
        if len(bins) == 1:  # a chart of one bar says no more
            alike.setdefault(_one_side(entry) or bins[0][0], []).append(name)
        elif bins:
            drawing = figures.bars(bins, x_label=f"images of {name} by their short side, pixels")
            found.append(Figure((drawing,), f"Short side of the images of {name}."))
    for what, names in alike.items():
        listed = " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part])
        found.insert(0, Text(f"The short side of every image of {listed} is {what} pixels."))
    shapes = _shapes(summary)
    return [*found, shapes] if shapes else found or [Text("No image, no size.")]


def _one_side(entry: Json) -> str:
    """The short side where all images have one size; else empty."""
    edges = [entry.get("width") or {}, entry.get("height") or {}]
    one = all(edge and edge["min"] == edge["max"] for edge in edges)
    return str(min(edge["min"] for edge in edges)) if one else ""


def _shapes(summary: Json) -> Table | None:
    """What of an image a square view shows, set by set."""
    rows = tuple(
        (
            name,
            f"{aspect['median']:.2f}",
            formats.percent(aspect["square_share"]),
            formats.count(aspect["n_below_half"]),
        )
        for name, entry in data.dataset_sets(summary).items()
        if (aspect := entry.get("aspect"))
    )
    if not rows:
        return None
    return Table(
        ("set", "width over height", "% shown of an image", "images shown less than half"),
        rows,
        caption="Shapes, the first two columns of numbers at the median. Shown is what the largest "
        "square in the middle has of an image's area: the most that evaluation and the exported "
        "model see with fit: crop and a square image_size. fit: squash and fit: pad show all of "
        "it, and so does image_size: [height, width] for images of that shape.",
        left=("set",),
    )


def _left_out(summary: Json) -> list[Block]:
    unreadable = data.unreadable_table(summary)
    rows = tuple(
        (str(row["set"]), str(row["key"]), str(row["reason"]))
        for row in summary.get("refused") or []
    )
    blocks: list[Block] = (
        [] if unreadable is None else [Text("Quarantined, the first:"), unreadable]
    )
    if rows:
        table = Table(("set", "image", "reason"), rows, left=("set", "reason"), code=("image",))
        blocks += [Text("Refused, the first:"), table]
    if not blocks:
        return [Text("Nothing: every image that was listed is used.")]
    return [*blocks, Text("All of them are listed in ../quarantine/ingestion.csv.")]


def _leaks(summary: Json) -> list[Block]:
    found = summary.get("leaks") or []
    if not found:
        return [Text("No image of train or val is in val or test, not even nearly.")]
    rows = tuple(
        (
            str(row["set"]),
            str(row["other"]),
            formats.count(row["n_same_bytes"]),
            formats.count(row["n_near"]),
        )
        for row in found
    )
    pairs = tuple(
        (str(row["set"]), str(key), str(row["other"]), str(other), str(distance))
        for row in found
        for key, other, distance in row["examples"]
    )
    return [
        Table(
            ("set", "also in", "same bytes", "nearly the same"),
            rows,
            caption="Images by the set that should not hold them; nearly the same: their 64-bit "
            "perceptual hashes differ in at most 4 bits. data.leaks: clean leaves them out.",
            left=("set", "also in"),
        ),
        Fold(
            "Pairs",
            (
                Table(
                    ("set", "image", "also in", "as", "bits apart"),
                    pairs,
                    left=("set", "also in"),
                    code=("image", "as"),
                ),
            ),
        ),
    ]


def _sheets(sheets: Mapping[str, Path], ledger: FileLedger, *, leaks: bool) -> list[Block]:
    found: list[Block] = []
    for what, path in sheets.items():
        if ("two sets" in what) == leaks:
            found += embed([path], what, ledger)
    return found
