"""The report composed and written: which chapters, in which order, what is on top."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.printable import Lines, lines
from hgnetv2_pipeline.reporting import formats, sections, tables
from hgnetv2_pipeline.reporting.blocks import Block, Cards, Report
from hgnetv2_pipeline.reporting.chapters import (
    accuracy,
    classes,
    comparison,
    confidence,
    curves,
    data,
    labels,
    mining,
    mistakes,
    speed,
    teacher,
)
from hgnetv2_pipeline.reporting.chapters.published import PublishedModel, published_models
from hgnetv2_pipeline.reporting.choice import (
    choice_blocks,
    explain_choice,
    read_choice,
    used_candidate,
)
from hgnetv2_pipeline.reporting.comparison import (
    ArmSummary,
    better_training,
    compared_with,
    difference,
    sized,
)
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.page import to_html, to_markdown
from hgnetv2_pipeline.reporting.sweep_page import sweep_blocks
from hgnetv2_pipeline.reporting.terminal import banner_text, summary_rows, terminal_table

# File of a chapter -> the folder of ``project.identity.FOLDERS`` it is in, and its name there.
OWN: dict[str, tuple[str, str]] = {
    "teacher": ("train_teacher", "teacher.json"),
    "choice": ("best", "choice.json"),
    "sweep": ("sweep", "sweep.json"),
    "label_errors": ("label_errors", "label_errors.json"),
    "label_errors_list": ("label_errors", "label_errors.csv"),
    "label_errors_sheet": ("label_errors", "label_errors.png"),
    "pool_map": ("pool_map", "map.csv"),
    "pool_map_facts": ("pool_map", "map.json"),
}

_log = logging.getLogger(__name__)


def build_report(inputs: ReportInputs, out: Path) -> Path:
    """Write ``report.html`` and ``report.md`` into the folder ``out``; the path of the first.

    The bytes depend on the input files and ``inputs`` only: no clock, no host, no absolute path.
    A missing or broken file becomes a sentence on the page, never an error here.

    Raises:
        DiskFullError: an earlier report, if any, is kept.
    """
    report = compose(inputs, published_models())
    page = write_text(out / "report.html", to_html(report))
    write_text(out / "report.md", to_markdown(report))
    _log.info("report.html has %s", formats.size(page.stat().st_size))
    return page


def terminal_summary(inputs: ReportInputs) -> Lines:
    """What the terminal shows last: the banner of the sample and the honest table."""
    banner = banner_text(is_sample=inputs.is_sample)
    try:
        rows, summaries = sections.read_comparison(inputs, FileLedger(inputs.root))
        better = better_training(rows, inputs.model, inputs.run_command)
        table = lines(
            terminal_table(summary_rows(summaries)),
            _legend(summaries),
            *_explain_choice(inputs),
            *([better] if better else []),
        )
    except sections.MISSHAPEN as error:
        table = lines(
            f"No final table. {error}; {inputs.run_command} --pipeline comparison makes it"
        )
    return lines(banner, "", table) if banner else table


def _legend(summaries: Sequence[ArmSummary]) -> str:
    base = compared_with(summaries)
    over = f"gain: points over {base.label}; " if base else ""
    return (
        f"{over}+/-: half its 95 % interval (images and seeds); ?: one run of each training; steps "
        "and seconds: of one run, of a teacher all its members"
    )


def _explain_choice(inputs: ReportInputs) -> list[str]:
    """Which model is used and why; the page says what is wrong with a file that does not tell."""
    try:
        choice = read_choice(inputs, FileLedger(inputs.root))
        return explain_choice(choice) if choice else []
    except sections.MISSHAPEN as error:
        return [f"Which model is used is not known: {error}; {inputs.run_command} --pipeline best"]


def compose(inputs: ReportInputs, published: Sequence[PublishedModel]) -> Report:
    """Everything on the page, not yet HTML or Markdown."""
    ledger = FileLedger(inputs.root)
    run = inputs.run_command
    chosen = sections.section(
        "Which model is used", "choice", f"{run} --pipeline best",
        lambda: choice_blocks(inputs, ledger),
    )  # fmt: skip
    swept = sections.section(
        "Which variant", "sweep", f"{run} --pipeline sweep",
        lambda: sweep_blocks(inputs, ledger),
    )  # fmt: skip
    doubted = sections.section(
        "Suspected label errors", "labels", f"{run} --pipeline label_errors",
        lambda: labels.label_blocks(inputs, ledger),
    )  # fmt: skip
    chapters = (
        *(chapter for chapter in (chosen, swept) if chapter.blocks),
        sections.section(
            "What SSLD gained", "comparison", f"{run} --pipeline comparison",
            lambda: comparison.comparison_blocks(inputs, ledger),
        ),
        sections.section(
            "The data", "data", f"{run} --pipeline ingestion",
            lambda: data.dataset_blocks(inputs, ledger),
        ),
        *([doubted] if labels.is_made(inputs) else []),
        sections.section(
            "The teacher", "teacher", f"{run} --pipeline train_teacher",
            lambda: teacher.teacher_blocks(inputs, ledger),
        ),
        sections.section(
            "What was mined", "mining", f"{run} --pipeline mining",
            lambda: mining.mining_blocks(inputs, ledger),
        ),
        sections.section(
            "Learning curves", "curves", f"{run} --pipeline ssld_stage2",
            lambda: curves.curve_blocks(inputs, ledger),
        ),
        sections.section(
            "Accuracy", "accuracy", f"{run} --pipeline evaluation",
            lambda: accuracy.evaluation_blocks(inputs, ledger),
        ),
        sections.section(
            "Class by class", "classes", f"{run} --pipeline evaluation",
            lambda: classes.class_blocks(inputs, ledger),
        ),
        sections.section(
            "How sure the answers are", "confidence", f"{run} --pipeline evaluation",
            lambda: confidence.confidence_blocks(inputs, ledger),
        ),
        sections.section(
            "Mistakes", "mistakes", f"{run} --pipeline evaluation",
            lambda: mistakes.mistake_blocks(inputs, ledger),
        ),
        sections.section(
            "Beside the published figures", "published", None,
            lambda: accuracy.published_blocks(inputs, ledger, published),
        ),
        sections.section(
            "Exported models", "export", f"{run} --pipeline export",
            lambda: speed.export_blocks(inputs, ledger),
        ),
        sections.section(
            "Latency", "latency", f"{run} --pipeline latency",
            lambda: speed.latency_blocks(inputs, ledger),
        ),
        sections.section(
            "Predictions", "predictions", f"{run} --pipeline prediction",
            lambda: accuracy.prediction_blocks(inputs, ledger),
        ),
        sections.section(
            "Where each number came from", "sources", run,
            lambda: sections.provenance_blocks(inputs, ledger),
        ),
    )  # fmt: skip
    cards = _cards(inputs)
    head: tuple[Block, ...] = (Cards(tuple(cards)),) if cards else ()
    revision = f", code revision {inputs.revision}" if inputs.revision else ""
    return Report(
        title=f"PP-HGNetV2 on {inputs.dataset}",
        subtitle=f"From labelled images and an unlabelled pool to a measured classifier{revision}",
        banner=banner_text(is_sample=inputs.is_sample),
        head=head,
        sections=chapters,
    )


def _cards(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """The few figures to see first, each only where its file is sound; chapters tell the rest."""
    cards: list[tuple[str, str, str]] = []
    for make in (_accuracy_card, _gain_card, _mining_card, _export_card, _latency_card):
        try:
            cards += make(inputs, FileLedger(inputs.root))
        except sections.MISSHAPEN as error:  # DataError among them
            _log.debug("no headline figure: %r", error)
    return cards


def _accuracy_card(inputs: ReportInputs, ledger: FileLedger) -> list[tuple[str, str, str]]:
    """The model that is exported, on the final test where there is one: no other's figure."""
    found, _ = accuracy.read_evaluations(inputs, ledger)
    ours = sections.preferred(found, inputs.model, "evaluation")
    used, right, _ = tables.evaluation_counts(ours)
    behind = f"{ours['split']}, {formats.count(used)} images"
    choice = read_choice(inputs, ledger)
    what = f"{choice['used']}, chosen on val" if choice else inputs.model
    return [(f"{formats.percent(right / used, used)} %", f"top-1 of {what}", behind)]


def _gain_card(inputs: ReportInputs, ledger: FileLedger) -> list[tuple[str, str, str]]:
    _, summaries = sections.read_comparison(inputs, ledger)
    splits = [summary.split for summary in summaries]
    split = "test" if "test" in splits else splits[0]
    arms: dict[str, ArmSummary] = {arm.arm: arm for arm in summaries if arm.split == split}
    choice = read_choice(inputs, ledger)
    if choice is not None:
        arm = used_candidate(choice)["arm"]
    else:
        arm = "stage2" if inputs.model.startswith("ssld_stage2/") else "stage1"
    ours, plain = arms.get(arm), compared_with(list(arms.values()))
    if ours is None or plain is None or ours is plain or arm == "supervised":
        return []
    gain = difference(ours, plain)
    runs = "one run" if len(ours.top1) == 1 else f"{len(ours.top1)} seeds"
    points, sure = sized(gain, ours.n).split(", ", 1)
    return [(points, f"{ours.label} over {plain.label}", f"{sure}; {runs}, {split}")]


def _mining_card(inputs: ReportInputs, ledger: FileLedger) -> list[tuple[str, str, str]]:
    audit = ledger.read_json(inputs.mining_audit, "mining audit")
    if formats.number(audit.get("selected")) is None:
        return []
    behind = f"of {formats.count(audit.get('pool_listed'))} in the pool"
    return [(formats.count(audit["selected"]), "images mined", behind)]


def _export_card(inputs: ReportInputs, ledger: FileLedger) -> list[tuple[str, str, str]]:
    found, _ = speed.read_exports(inputs, ledger)
    row = speed.export_table(found).records()[0]
    if row.get("parity error", formats.NOTHING) == formats.NOTHING:
        return []
    behind = f"of the logits' SD, {row['model']}"
    return [(row["parity error"], "largest error of ONNX against torch", behind)]


def _latency_card(inputs: ReportInputs, ledger: FileLedger) -> list[tuple[str, str, str]]:
    """The fastest of our own models at the smallest batch, in fp32 where that was measured."""
    files, _ = sections.read_all(inputs.latencies, "latency", ledger)
    ours = [
        row for row in speed.measurements(files) if not str(row.get("model")).startswith("timm:")
    ]
    if not ours:
        return []
    best = min(
        ours,
        key=lambda row: (
            row.get("precision") != "fp32",
            formats.number(row.get("batch_size")) or 1,
            formats.number(row["p50_ms"]) or 0,
        ),
    )
    how = f"{best.get('engine')} {best.get('precision')}, {best.get('device')}"
    behind = f"{best.get('model')}, {how}"
    batch = formats.count(best.get("batch_size"))
    return [(f"{formats.significant(best['p50_ms'])} ms", f"median latency, batch {batch}", behind)]
