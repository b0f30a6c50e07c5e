"""The chapter of learning curves: what each run's ``history.csv`` says, drawn."""

from __future__ import annotations

from collections.abc import Sequence

from hgnetv2_pipeline.reporting import figures, formats
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Notice
from hgnetv2_pipeline.reporting.chapters.views import view_blocks
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

_PIPELINES = ("train_teacher", "train", "ssld_stage1", "ssld_stage2", "finetune")
_CURVES_CAPTION = (
    "One colour per run. Left: solid is the training loss, dashed the cross-entropy against the "
    "labels on val; different pipelines have different functions "
    "(label smoothing against labels, cross-entropy against a teacher) and compare within one "
    "drawing only. Right: solid is top-1 on val (mAP of several labels per image); dashed is what "
    "training sees, top-1 against the labels where it has them, else agreement with the teacher's "
    "first answer. "
    "The axes do not start at 0."
)


def curve_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Loss and accuracy by epoch, a pair of drawings per pipeline, one colour per run."""
    if not inputs.histories:
        raise AbsentError("learning curves: no history.csv was given to the report")
    groups: dict[str, list[tuple[str, list[dict[str, str]]]]] = {}
    blocks: list[Block] = []
    for run in sorted(inputs.histories, key=_run_order):
        try:
            rows = ledger.read_csv(inputs.histories[run], "learning curve", run)
        except AbsentError as error:
            blocks.append(Notice(f"{error} ({run})", kind="warning"))
            continue
        group, _, name = run.rpartition("/")
        groups.setdefault(group or run, []).append((name, rows))
    drawings = [drawing for group, runs in groups.items() for drawing in _curves(group, runs)]
    if drawings:
        blocks.append(Figure(tuple(drawings), _CURVES_CAPTION))
    elif groups:
        blocks.append(Notice("The histories have no loss and no accuracy", kind="warning"))
    return [*blocks, *view_blocks(inputs, ledger)]


def _run_order(run: str) -> tuple[int, str]:
    pipeline = run.split("/", 1)[0]
    return _PIPELINES.index(pipeline) if pipeline in _PIPELINES else len(_PIPELINES), run


def _curves(group: str, runs: Sequence[tuple[str, list[dict[str, str]]]]) -> list[str]:
    def lines(column: str, scale: float, *, dashed: bool = False) -> list[figures.Series]:
        found = []
        for place, (name, rows) in enumerate(runs):
            pairs = (
                (formats.number(row.get("epoch")), formats.number(row.get(column))) for row in rows
            )
            points = tuple((x, scale * y) for x, y in pairs if x is not None and y is not None)
            if points:
                found.append(figures.Series(name, points, dashed, place, legend=not dashed))
        return found

    accuracy = lines("val_top1", 100) + lines("val_map", 100)
    for column in ("train_top1", "teacher_agreement"):
        accuracy += lines(column, 100, dashed=True)
    return [
        figures.line_chart(found, title=f"{group}: {what}", x_label="epoch", y_label=y_label)
        for found, what, y_label in (
            (lines("loss", 1) + lines("val_loss", 1, dashed=True), "loss", ""),
            (accuracy, "accuracy", "%"),
        )
        if found
    ]
