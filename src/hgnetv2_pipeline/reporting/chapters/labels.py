"""Suspected errors of the labelled images: how many there are, and which to look at first."""

from __future__ import annotations

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Block, Fold, Text, table_of
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import embed

_ROWS = 40
_SHEET = 400_000  # bytes, before base64


def is_made(inputs: ReportInputs) -> bool:
    """Whether label errors were looked for, which the chain does only when asked."""
    summary = inputs.own.get("label_errors")
    return summary is not None and summary.is_file()


def label_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """The estimate and how sure it is, the first suspects as pictures and as rows."""
    found = ledger.read_json(inputs.own.get("label_errors"), "label errors")
    images, right = int(found["images"]), int(found["held_out_right"])
    estimate, listed = float(found["estimate"]), int(found["listed"])
    low, high = map(float, found["interval"])
    if not (0 <= right <= images and 0 <= low <= high <= images):
        raise DataError(f"label errors: {right} right of {images}, {low:g} to {high:g} wrong")
    share = formats.percent(right / images, images)
    blocks: list[Block] = [
        Text(
            f"About {estimate:,.0f} of {images:,} labels are wrong (95 % interval {low:,.0f} to "
            f"{high:,.0f}), as far as classifiers can tell that had not seen the image they were "
            f"asked about ({', '.join(found['probes'])}; they agree with {share} % of the labels). "
            "What they get wrong themselves is counted too."
        )
    ]
    if not listed:
        return [*blocks, Text("No label is doubted.")]
    first = max(1, round(estimate))
    command = inputs.run_command.replace("kedro run", "hgnetv2 review")
    blocks.append(
        Text(
            f"{listed:,} labels are doubted. Look at the first {min(first, listed):,}: "
            f"{command} shows them with keys to keep, correct or remove each."
        )
    )
    sheet = inputs.own.get("label_errors_sheet")
    if sheet is not None:
        what = "The most doubtful labels: given > suggested"
        blocks += embed([sheet], what, ledger, budget=_SHEET)
    rows = ledger.read_csv(inputs.own.get("label_errors_list"), "doubtful labels")
    table = table_of(
        [
            {
                "rank": row["rank"],
                "image": row["key"],
                "set": row["set"],
                "label": row["given"],
                "suggested": row["suggested"],
                "score": row["score"],
            }
            for row in rows[:_ROWS]
        ],
        ["rank", "image", "set", "label", "suggested", "score"],
        caption="score: 1 less the probability that was given to the label",
        left=("image", "set", "label", "suggested"),
        code=("image",),
    )
    return [*blocks, Fold(f"The first {min(_ROWS, listed)} of them", (table,))]
