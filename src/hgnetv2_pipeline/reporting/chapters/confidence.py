"""The chapter on how sure the answers are: by confidence, or with several labels by threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.reporting import figures, formats
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Bullets,
    Figure,
    Fold,
    Notice,
    Table,
    Text,
    table_of,
)
from hgnetv2_pipeline.reporting.chapters.accuracy import read_sound
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sections import preferred, read_all

Json = Mapping[str, Any]
_RELIABILITY = (
    "In the first drawing answers are in 15 bins by their confidence; a dot is the share of a bin "
    "that is right, with its 95 % interval (Wilson's). Below the dashed diagonal the model is "
    "surer than it is right. The second is the share of wrong answers if only the surest are taken."
)
_THRESHOLDS = (
    "Solid: all classes together; dashed: classes with the lowest and the highest average "
    "precision. A lower threshold finds more images of a class (recall) and is wrong more often "
    "(precision)."
)


def read_error_analysis(inputs: ReportInputs, ledger: FileLedger) -> Json:
    """The error analysis of the model that the report is about; its errors as ``read_all``'s."""
    found, _ = read_all(inputs.error_analyses, "error analysis", ledger)
    return preferred(found, inputs.model, "error analysis")


def confidence_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Reliability and risk by coverage with sentences; PR and F1 curves with several labels."""
    analysis = read_error_analysis(inputs, ledger)
    if analysis.get("task") == "multi_label":
        return _threshold_blocks(analysis["threshold_curves"])
    bins = filled_bins(analysis["reliability"])
    images = sum(each.images for each in bins)
    curve = analysis["risk_coverage"]
    points = tuple((100 * coverage, 100 * risk) for coverage, risk in curve["points"])
    risk = figures.line_chart(
        [figures.Series("wrong answers", points, legend=False)],
        title="Wrong among the surest answers", x_label="images answered (coverage), %",
        y_label="wrong answers (risk), %", width=figures.NARROW,
    )  # fmt: skip
    return [
        Bullets(
            (
                _calibration_sentence(bins, images, analysis),
                *_coverage_sentences(curve["at"], images),
            )
        ),
        *_temperature_blocks(inputs, ledger, analysis),
        Figure((figures.reliability_diagram(bins), risk), _RELIABILITY),
        Fold("The bins in numbers", (_bins_table(bins),)),
    ]


def filled_bins(reliability: Json) -> list[figures.CalibrationBin]:
    """The bins that hold an image."""
    columns = (reliability[name] for name in ("images", "confidence", "right"))
    return [
        figures.CalibrationBin(n, trusted / n, right, intervals.wilson_interval(right, n))
        for n, trusted, right in zip(*columns, strict=True)
        if n
    ]


def _calibration_sentence(
    bins: Sequence[figures.CalibrationBin], images: int, analysis: Json
) -> str:
    gap = sum(abs(each.images * each.confidence - each.right) for each in bins) / images
    sure = sum(each.images * each.confidence for each in bins) / images
    right = sum(each.right for each in bins) / images
    side = "more" if sure > right else "less"
    return (
        f"{analysis['model']} on {analysis['split']}: the mean confidence is "
        f"{formats.percent(sure, images)} %, {formats.percent(right, images)} % of "
        f"{formats.count(images)} images are right, so the model is {side} sure than it is right. "
        f"The expected calibration error (ECE) is {formats.percent(gap, images)} points."
    )


def _coverage_sentences(at: Sequence[Json], images: int) -> list[str]:
    said = [
        f"{formats.percent(each['right'] / each['answered'], images)} % of the surest "
        f"{100 * each['answered'] / images:.0f} % (confidence from {each['threshold']:.3f})"
        for each in at
    ]
    return [f"Answering only where it is surest, the model is right on {'; '.join(said)}."]


def _temperature_blocks(inputs: ReportInputs, ledger: FileLedger, analysis: Json) -> list[Block]:
    """What one temperature would mend; an evaluation of before does not say."""
    same = ("model", "split", "engine", "precision")
    measured = [
        result
        for result in read_sound(inputs, ledger)[0]
        if all(result.get(name) == analysis[name] for name in same)
    ]
    if not measured or "temperature_scaling" not in measured[0]:
        again = f"{inputs.run_command} --pipeline evaluation --params redo=evaluation"
        return [Notice("The evaluation was made before it fitted a temperature", again)]
    found = measured[0]["temperature_scaling"]
    if found is None:
        return [Text("No temperature can be fitted: too few answers are wrong.")]
    images = analysis["images"]
    # What is used may not have been fitted on the images that judge it.
    to_use = (
        ""
        if analysis["split"] == "val"
        else f" To use one, fit it on val ({inputs.run_command} --pipeline evaluation --params "
        "split=val)."
    )
    before, after = (formats.percent(found[name], images) for name in ("ece", "ece_scaled"))
    return [
        Text(
            f"Dividing the logits by a temperature of {found['temperature']:.2f} changes no answer "
            f"and takes the ECE from {before} to {after} points. It was fitted on these same "
            f"images ({analysis['split']}); for the {after}, each half was judged with the "
            "temperature fitted on the other half. The exported model is not changed by it."
            + to_use
        )
    ]


def _bins_table(bins: Sequence[figures.CalibrationBin]) -> Table:
    records = [
        {
            "images": formats.count(each.images),
            "confidence %": formats.percent(each.confidence),
            "right": formats.count(each.right),
            "right %": formats.percent(each.right / each.images),
            "95 % interval": " – ".join(map(formats.percent, each.interval)),
        }
        for each in bins
    ]
    return table_of(records, list(records[0]))


def _threshold_blocks(curves: Sequence[Json]) -> list[Block]:
    """Precision by recall and F1 by threshold, and where each class is best."""
    if not curves:
        raise AbsentError("threshold curves: there is none")
    recall, f1 = [], []
    for place, curve in enumerate(curves):
        # The sixth colour of the palette is too pale for a line.
        colour = place if place < 5 else place + 1
        look = {"dashed": curve["kind"] != "all", "colour": colour}
        name = f"{curve['class']}, AP {formats.percent(curve['ap'])} %"
        points = tuple(curve["points"])
        recall.append(
            figures.Series(name, tuple((100 * r, 100 * p) for _, p, r, _ in points), **look)
        )
        f1.append(figures.Series(name, tuple((100 * t, 100 * f) for t, _, _, f in points), **look))
    drawings = (
        figures.line_chart(
            recall, title="Precision by recall", x_label="recall, %", y_label="precision, %",
            width=figures.NARROW,
        ),
        figures.line_chart(
            f1, title="F1 by threshold", x_label="threshold (probability), %", y_label="F1, %",
            width=figures.NARROW,
        ),
    )  # fmt: skip
    return [Figure(drawings, _THRESHOLDS), _thresholds_table(curves)]


def _thresholds_table(curves: Sequence[Json]) -> Table:
    records = []
    for curve in curves:
        threshold, precision, recall, f1 = max(curve["points"], key=lambda point: point[3])
        records.append(
            {
                "class": str(curve["class"]),
                "which": str(curve["kind"]),
                "positives": formats.count(curve["positives"]),
                "AP %": formats.percent(curve["ap"]),
                "threshold in use": formats.significant(curve["threshold"]),
                "best here": formats.significant(threshold),
                "precision %": formats.percent(precision),
                "recall %": formats.percent(recall),
                "F1 %": formats.percent(f1),
            }
        )
    return table_of(
        records, list(records[0]), left=("class", "which"),
        caption="The curves in numbers: precision, recall and F1 are at the threshold that is best "
        "on these images; the one in use was chosen on val",
    )  # fmt: skip
