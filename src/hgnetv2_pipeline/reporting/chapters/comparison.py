"""What SSLD gained: the arms of the comparison, their differences and errors."""

from __future__ import annotations

from collections.abc import Sequence

from hgnetv2_pipeline.reporting import comparison as compare
from hgnetv2_pipeline.reporting import figures, tables
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Figure,
    Fold,
    Text,
)
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sections import read_comparison

_READING = (
    "How to read it: gain is the difference of the means, in percentage points, to supervised "
    "training of as many steps as the whole chain where there is one, else to the shorter one. SE, "
    "images is what another draw of images would change, paired over the images, since all "
    "trainings answered the same; more seeds do not shrink it. SE, seeds is what other seeds would "
    "change: every training is taken to spread like the one whose runs spread most, a single run "
    "like twice the pooled spread at least; where no training has several runs, it is unknown and "
    "nothing is called clear. A gain counts as clear where 0 lies outside its 95 % "
    "interval, by Student's t, with both errors taken together. A teacher is taken as given; its "
    "steps are those of all its members. Seconds are those that the processor spent on one "
    "training, without loader processes, mining and stored answers. Weights says which evaluation "
    "on val gave them: the last, or the best of several."
)


def comparison_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """The honest table with its dot plot and what it means, a split at a time."""
    rows, summaries = read_comparison(inputs, ledger)
    blocks: list[Block] = []
    for split in dict.fromkeys(summary.split for summary in summaries):
        arms = [summary for summary in summaries if summary.split == split]
        said = compare.explain_arms(arms)
        if better := compare.better_training(rows, inputs.model, inputs.run_command):
            said = [better, *said]
        if said:
            blocks.append(Bullets(tuple(said)))
        blocks.append(tables.comparison_table(arms))
        blocks.append(Figure((_dots(arms),), _dots_caption(arms)))
    blocks.append(Text(_READING))
    blocks.append(Fold(f"All {len(rows)} runs behind it", (tables.runs_table(rows),)))
    return blocks


def _dots(arms: Sequence[compare.ArmSummary]) -> str:
    plain = compare.compared_with(arms)
    return figures.dot_plot(
        [
            figures.Dots(
                label=arm.label,
                values=tuple(100 * value for value in arm.top1),
                names=tuple(f"seed {seed}" if seed.isdigit() else seed for seed in arm.seeds),
                colour=0 if arm.arm.startswith("stage") else 6,  # what SSLD trained
            )
            for arm in arms
        ],
        x_label=f"top-1 on {arms[0].split}, %",
        reference=None if plain is None else 100 * plain.mean,
    )


def _dots_caption(arms: Sequence[compare.ArmSummary]) -> str:
    plain = compare.compared_with(arms)
    line = f" The dashed line is the mean of {plain.label}." if plain else ""
    return f"One dot per run; bar and number are the mean.{line} The axis does not start at 0."
