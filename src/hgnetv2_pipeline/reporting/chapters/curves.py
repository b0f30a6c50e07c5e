"""The chapter of learning curves: what each training's ``history.csv`` says, drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hgnetv2_pipeline.reporting import figures, formats
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Notice, Table
from hgnetv2_pipeline.reporting.chapters.views import view_blocks
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

# How the folders of trainings begin, those of the comparison too -> a name short enough to be
# written at the end of a line.
_NAMES = {
    "train_teacher": "teacher members",
    "train": "labels only",
    "supervised": "labels only",
    "equal_steps": "equal steps",
    "unmined": "unmined pool",
    "ssld_stage1": "stage 1",
    "stage1": "stage 1",
    "ssld_stage2": "stage 2",
    "stage2": "stage 2",
    "finetune": "fine-tuned",
}
_OF_SSLD = ("unmined pool", "stage 1", "stage 2")
_X = "images seen"
_CAPTION = (
    "Blue is what SSLD trained, grey the trainings it has to beat; equal steps: on labels alone, "
    "in as many steps as all of SSLD; unmined pool: stage 1 on the pool without mining. Each "
    "training counts the images that it saw itself, so stage 2 begins at 0 with the weights of "
    "stage 1. "
    "A bold line or large dot is the mean of an arm's seeds, a small dot or thin line one seed; a "
    "training that was evaluated only at its end is a dot. Where weights are averaged, val shows "
    "the better of them and the raw ones. The loss on val is the cross-entropy against the labels, "
    "whatever was minimised; the training losses are drawn apart because label smoothing "
    "against labels and cross-entropy against a teacher do not compare. The axes do not start at 0."
)


@dataclass(frozen=True)
class _Training:
    """One training: the rows of its history, with the images seen by each of them."""

    run: str
    name: str
    rows: tuple[tuple[float, dict[str, str]], ...]

    @property
    def distilled(self) -> bool:
        return bool(self.points("teacher_agreement"))

    def points(self, column: str) -> list[tuple[float, float]]:
        """(images seen, value) where the value is known."""
        found = ((x, formats.number(row.get(column))) for x, row in self.rows)
        return [(x, y) for x, y in found if y is not None]

    def on_val(self, metric: str) -> list[tuple[float, float]]:
        """(images seen, per cent) of each evaluation: the better of raw and averaged weights."""
        best = dict(self.points(metric))
        for x, y in self.points(f"{metric}_ema"):
            best[x] = max(y, best.get(x, y))
        return [(x, 100 * y) for x, y in sorted(best.items())]


_Lines = Sequence[tuple[str, list[tuple[float, float]]]]
"""The name of the arm and the points of each training."""


def curve_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Val accuracy of all trainings by images seen; below it losses and the learning rate."""
    if not inputs.histories:
        raise AbsentError("learning curves: no history.csv was given to the report")
    trainings, blocks = [], list[Block]()
    for run in sorted(inputs.histories, key=_run_order):
        try:
            trainings.append(_read(run, inputs, ledger))
        except AbsentError as error:
            blocks.append(Notice(f"{error} ({run})", kind="warning"))
    if drawings := _drawings(trainings):
        blocks.append(Figure(tuple(drawings), _CAPTION))
        blocks.append(Fold("Each training in numbers", (_table(trainings),)))
    elif trainings:
        blocks.append(Notice("The histories have no loss and no accuracy", kind="warning"))
    return [*blocks, *view_blocks(inputs, ledger)]


def _prefix(run: str) -> str:
    pipeline, *_, last = run.split("/")
    return last.partition(",")[0] if pipeline == "comparison" else pipeline


def _run_order(run: str) -> tuple[int, str]:
    prefix = _prefix(run)
    return [*_NAMES, prefix].index(prefix), run


def _read(run: str, inputs: ReportInputs, ledger: FileLedger) -> _Training:
    rows = ledger.read_csv(inputs.histories[run], "learning curve", run)
    result = ledger.read_json(inputs.results.get(run), "result of the training")
    images, steps = (formats.number(result.get(name)) for name in ("images_seen", "steps"))
    if images is None or not steps:
        raise AbsentError("result of the training: it names no steps and images_seen")
    known = ((formats.number(row.get("step")), row) for row in rows)
    seen = tuple((step * images / steps, row) for step, row in known if step is not None)
    prefix = _prefix(run)
    return _Training(run, _NAMES.get(prefix, prefix), seen)


def _drawings(trainings: Sequence[_Training]) -> list[str]:
    def lines(column: str, of: Sequence[_Training] = trainings) -> _Lines:
        return [(each.name, each.points(column)) for each in of]

    metric = _metric(trainings)
    what = "mAP" if metric == "val_map" else "top-1"
    val = [(each.name, each.on_val(metric)) for each in trainings]
    drawings = [
        _chart(val, f"Accuracy on val: {what} by images seen", f"{what} on val, %", seeds=True),
        _chart(lines("val_loss"), "Loss on val, against the labels"),
        *(
            _chart(
                lines("loss", [each for each in trainings if each.distilled is distilled]),
                f"Training loss, against {target}",
            )
            for distilled, target in ((False, "the labels"), (True, "the teacher's answers"))
        ),
        _chart(lines("lr"), "Learning rate"),
    ]
    return [drawing for drawing in drawings if drawing]


def _metric(trainings: Sequence[_Training]) -> str:
    return "val_map" if any(each.points("val_map") for each in trainings) else "val_top1"


def _chart(lines: _Lines, title: str, y_label: str = "", *, seeds: bool = False) -> str:
    """The mean of each arm, its name at the end; with ``seeds`` it is bold, each training thin."""
    series: list[figures.Series] = []
    for name in dict.fromkeys(name for name, points in lines if points):
        runs = [points for each, points in lines if each == name and points]
        colour = 0 if name in _OF_SSLD else 6
        # Seeds that were evaluated at other images have no mean: each is then shown for itself.
        means = [mean] if (mean := _mean(runs)) else runs
        if seeds and means != runs:
            series += [
                figures.Series(name, tuple(run), colour=colour, legend=False) for run in runs
            ]
        for points in means:
            end = f"{name} {points[-1][1]:.1f}" if seeds else name
            series.append(
                figures.Series(
                    name, tuple(points), colour=colour, legend=False, bold=seeds, end=end
                )
            )
    if not series:
        return ""
    height = 280 if seeds else 150
    return figures.labelled_lines(series, title=title, x_label=_X, y_label=y_label, height=height)


def _mean(runs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean at each x that all runs have."""
    values = [dict(points) for points in runs]
    common = sorted(set(values[0]).intersection(*values[1:]))
    return [(x, math.fsum(each[x] for each in values) / len(values)) for x in common]


def _table(trainings: Sequence[_Training]) -> Table:
    metric = _metric(trainings)
    rows = []
    for each in trainings:
        val = each.on_val(metric)
        best = max(val, key=lambda point: point[::-1], default=None)  # of equals the later
        last_loss, val_loss = each.points("loss")[-1:], each.points("val_loss")[-1:]
        rows.append(
            (
                each.name, each.run, formats.count(each.rows[-1][0] if each.rows else None),
                str(len(val)),
                f"{val[-1][1]:.1f}" if val else formats.NOTHING,
                f"{best[1]:.1f}" if best else formats.NOTHING,
                formats.count(best[0] if best else None),
                *(formats.significant(loss[0][1] if loss else None)
                  for loss in (val_loss, last_loss)),
            )
        )  # fmt: skip
    shown = "mAP" if metric == "val_map" else "top-1"
    return Table(
        ("training", "run", _X, "evaluations", f"last {shown} %", f"best {shown} %",
         "best after images", "loss on val", "training loss"),
        tuple(rows),
        caption="The last values of each history; the best evaluation on val gave the weights.",
        left=("training",), code=("run",),
    )  # fmt: skip
