"""The report composed and written: which chapters, in which order, what is on top."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.printable import Lines, lines
from hgnetv2_pipeline.reporting import formats, sections
from hgnetv2_pipeline.reporting.blocks import Report
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
from hgnetv2_pipeline.reporting.chapters.first_screen import first_screen
from hgnetv2_pipeline.reporting.chapters.published import PublishedModel, published_models
from hgnetv2_pipeline.reporting.choice import choice_blocks, explain_choice, read_choice
from hgnetv2_pipeline.reporting.comparison import ArmSummary, better_training, compared_with
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
    revision = f", code revision {inputs.revision}" if inputs.revision else ""
    return Report(
        title=f"PP-HGNetV2 on {inputs.dataset}",
        subtitle=f"From labelled images and an unlabelled pool to a measured classifier{revision}",
        banner=banner_text(is_sample=inputs.is_sample),
        head=first_screen(inputs),
        sections=chapters,
    )
