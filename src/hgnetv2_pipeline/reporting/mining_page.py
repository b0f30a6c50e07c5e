"""The page about a mining alone: what was taken, what was turned away, how sure one can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.reporting import formats, sections
from hgnetv2_pipeline.reporting.blocks import Block, Bullets, Cards, Fold, Link, Report, Table, Text
from hgnetv2_pipeline.reporting.chapters import mining, pool
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.page import to_html
from hgnetv2_pipeline.reporting.terminal import banner_text

Json = Mapping[str, Any]

_PAIRS = 40  # pairs that get a line
_SHEET = 600_000  # bytes of each contact sheet, before base64
_ADDS_UP = (
    ("n_listed", "listed", "all images of the pool"),
    ("n_used", "used", "candidates the list was chosen from"),
    ("n_quarantined", "quarantined", "unreadable: never scored, never given a label"),
    ("n_refused", "refused", "copies of protected images, or barred by a person or parameter"),
    ("selected", "on the list", "k or fewer per class"),
)


def build_mining_page(
    folder: Path,
    out: Path,
    inputs: ReportInputs,
    *,
    teacher: str,
    params: Sequence[tuple[str, Any, str]],
    review: str,
) -> Path:
    """Write the page as one HTML file that loads nothing.

    Args:
        folder: holds ``audit.json``, ``classes.csv``, ``pairs.csv`` and ``sheets/`` of the audit.
        inputs: of these ``dataset``, ``is_sample``, ``run_command``, ``mining_purity``, the
            curve of ``mining.purity_curve`` as CSV, and ``own["pool_map"]``, the map's points.
        params: name, value and meaning of every parameter of the mining.
        review: path of review.csv, relative to where the page will be.

    Raises:
        AbsentError: the audit is missing or no JSON object.
    """
    ledger = FileLedger()
    audit = ledger.read_json(folder / "audit.json", "mining audit")
    sheets = folder / "sheets"
    chapters = (
        sections.section("From the pool to the list", "account", None, lambda: _account(audit)),
        sections.section(
            "How pure the list is", "purity", None,
            lambda: [
                *(Text(said) for said in audit.get("judged", {}).get("said", ())),
                *mining.purity_blocks(inputs.mining_purity, audit, ledger, numbers=True),
            ],
        ),
        sections.section(
            "Map of the pool", "map", None,
            lambda: pool.pool_map_blocks(inputs.own.get("pool_map"), ledger, inputs.run_command),
        ),
        sections.section(
            "Classes", "classes", None, lambda: _classes(folder, audit, ledger)
        ),
        sections.section(
            "First and last of each class", "edges", None,
            lambda: mining.sheet_blocks(
                [sheets / "top.png", sheets / "bottom.png"], audit, ledger, 2 * _SHEET
            ),
        ),
        sections.section(
            "Copies of protected images", "copies", None,
            lambda: _copies(folder, audit, ledger),
        ),
        sections.section(
            "What a person has to decide", "review", None,
            lambda: _review(folder, audit, ledger, review, inputs.run_command),
        ),
        sections.section("Parameters", "parameters", None, lambda: [_parameters(params)]),
        sections.section(
            "Where this came from", "sources", None,
            lambda: sections.provenance_blocks(inputs, ledger),
        ),
    )  # fmt: skip
    report = Report(
        title=f"Mining of {inputs.dataset} by {teacher}",
        subtitle="Which unlabelled images the students will learn from: "
        "listed = used + quarantined + refused.",
        banner=banner_text(is_sample=inputs.is_sample) or None,
        head=(Cards(tuple(_cards(audit))),),
        sections=chapters,
    )
    return write_text(out, to_html(report))


def _cards(audit: Json) -> list[tuple[str, str, str]]:
    cards = [(formats.count(audit.get(key)), what, why) for key, what, why in _ADDS_UP]
    found = audit.get("estimate")
    share = formats.number(found.get("estimate")) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping) and share is not None:
        low, high = 100 * float(found["low"]), 100 * float(found["high"])
        behind = f"95 %: {low:.1f} to {high:.1f}, an upper bound (images of no class are not seen)"
        cards.append((f"{formats.percent(share)} %", "right, by hidden images", behind))
    return cards


def _account(audit: Json) -> list[Block]:
    blocks: list[Block] = [mining.mining_table(audit)]
    for table in (mining.channel_table(audit), mining.planted_table(audit)):
        if table is not None:
            blocks.append(table)
    return blocks


def _classes(folder: Path, audit: Json, ledger: FileLedger) -> list[Block]:
    rows = ledger.read_csv(folder / "classes.csv", "mined classes")
    k, short = int(audit["k"]), int(audit["short_classes"])
    said = f"{len(rows):,} classes, at most k = {k:,} images each. "
    if short:
        said += f"{short:,} have fewer, {int(audit['empty_classes']):,} of them none. "
    else:
        said += "All of them are full. "
    said += f"Gini coefficient of the sizes: {float(audit['gini']):.3f} (0: all equal)."
    return [
        Text(said),
        *mining.class_figures(rows),
        *mining.class_tables(rows, k),
    ]


def _copies(folder: Path, audit: Json, ledger: FileLedger) -> list[Block]:
    pairs = _pairs(folder, ledger, "remove")
    if not pairs:
        return [Text("No image was removed for its likeness to one of val, test or train.")]
    return [
        *mining.sheet_blocks([folder / "sheets" / "removed.png"], audit, ledger, _SHEET),
        Fold(
            f"The first {min(len(pairs), _PAIRS)} of {formats.count(audit['removed'])} pairs",
            (mining.pair_table(pairs, _PAIRS),),
        ),
    ]


def _review(
    folder: Path, audit: Json, ledger: FileLedger, review: str, command: str
) -> list[Block]:
    pairs = _pairs(folder, ledger, "review")
    person = audit["person"]
    blocks: list[Block] = [
        Text(
            f"{person['obeyed']:,} decisions by a person were applied: {person['kept']:,} images "
            f"kept, {person['removed']:,} removed, {person['changed']:,} of them against what the "
            f"machine had decided. {person['waiting']:,} pairs await a decision."
        ),
        Link("Decisions are in ", "review.csv", review, ", one line per image."),
        Bullets(
            (
                f"{command.replace('kedro run', 'hgnetv2 review')} shows the pairs in a browser, "
                "and mined images besides, with keys to keep, relabel or remove each.",
                "Or write a line yourself: duplicates, the key, and keep (two different pictures: "
                "the pool image may be mined) or remove (a copy: it may not). Pairs without one "
                "stay in doubt.",
                "Any other image of the pool is removed by such a line too. Images with the bytes "
                "or the name of a protected one cannot be kept.",
                f"Then: {command} --pipeline mining. It sees that the file was edited, mines "
                "again, and keeps what you decided for all later runs.",
                "Until then mining.deduplicate.strict says what becomes of pairs in doubt: "
                "true leaves them out, false lets them in.",
            )
        ),
    ]
    if pairs:
        blocks += mining.sheet_blocks([folder / "sheets" / "review.png"], audit, ledger, _SHEET)
        table = mining.pair_table(pairs, _PAIRS)
        blocks.append(Fold(f"The first {min(len(pairs), _PAIRS)} pairs in doubt", (table,)))
    return blocks


def _pairs(folder: Path, ledger: FileLedger, decision: str) -> list[dict[str, str]]:
    path = ledger.existing(folder / "pairs.csv", "pairs shown")
    if len(path.read_text(encoding="utf-8").splitlines()) < 2:
        return []
    rows = ledger.read_csv(path, "pairs shown")
    return [row for row in rows if row["decision"] == decision]


def _parameters(params: Sequence[tuple[str, Any, str]]) -> Table:
    rows = tuple(
        (name, "null" if value is None else str(value), meaning) for name, value, meaning in params
    )
    return Table(
        ("parameter", "value", "meaning"), rows, "What the list depends on", ("value", "meaning"),
        ("parameter",),
    )  # fmt: skip
