"""Tables as pure functions: JSON read from files in, rows of finished strings out.

Formats are those of DESIGN's contracts; a field that a writer does not give shows as a dash and a
column that nobody fills is left out. Ratios are computed here from the counts, never copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hgnetv2_pipeline import intervals
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import Table, table_of
from hgnetv2_pipeline.reporting.comparison import ArmSummary, compared_with, difference

Json = Mapping[str, Any]


def comparison_table(summaries: Sequence[ArmSummary]) -> Table:
    """The honest table of one split: a row per arm, its gain over supervised training, errors."""
    plain = compared_with(summaries)
    records = []
    processor = next((arm.processor for arm in summaries if arm.processor), "CPU")
    for arm in summaries:
        gain = difference(arm, plain) if plain is not None and arm is not plain else None
        seeds = gain.seed_error if gain else None
        spread = "–"
        if len(arm.top1) > 1:
            low, high = formats.percent(min(arm.top1), arm.n), formats.percent(max(arm.top1), arm.n)
            spread = f"{low} – {high}"
        records.append(
            {
                "training": arm.label,
                "runs": str(len(arm.top1)),
                "steps": " / ".join(map(formats.count, arm.steps)) or "–",
                "images seen": " / ".join(map(formats.count, arm.images_seen)) or "–",
                f"{processor} s": formats.count(arm.seconds),
                "weights": arm.kept or "–",
                "top-1 %, mean": formats.percent(arm.mean, arm.n),
                "min – max": spread,
                "SD of seeds": formats.percent(arm.deviation, arm.n),
                "gain, points": formats.points(gain.gain, arm.n) if gain else "–",
                "SE, images": formats.percent(gain.image_error, arm.n) if gain else "–",
                "SE, seeds": formats.percent(seeds, arm.n),
                "95 %, ±": formats.percent(gain.margin, arm.n) if gain else "–",
            }
        )
    over = f"; gain over {plain.label}" if plain else ""
    return table_of(
        records,
        list(records[0]),
        caption=f"Top-1 on {summaries[0].split} ({formats.count(summaries[0].n)} images){over}",
        left=("training", "weights"),
        drop_empty=("images seen", "steps", f"{processor} s", "weights"),
    )


def ablation_table(mined: ArmSummary, whole: ArmSummary) -> Table:
    """Stage 1 on the mined list beside stage 1 on the whole pool."""
    records = [
        {
            "training": arm.label,
            "runs": str(len(arm.top1)),
            "steps": " / ".join(map(formats.count, arm.steps)) or "–",
            "top-1 %, mean": formats.percent(arm.mean, arm.n),
            "min – max": f"{formats.percent(min(arm.top1), arm.n)} – "
            f"{formats.percent(max(arm.top1), arm.n)}",
        }
        for arm in (mined, whole)
    ]
    return table_of(
        records, list(records[0]), left=("training",),
        caption=f"Was mining worth it? Top-1 on {mined.split} ({formats.count(mined.n)} images)",
    )  # fmt: skip


def runs_table(rows: Sequence[Json]) -> Table:
    """Every run behind the honest table."""
    records = [
        {
            "run": formats.words(row.get("run")),
            "training": formats.words(row.get("label") or row.get("arm")),
            "seed": formats.words(row.get("seed")),
            "split": formats.words(row.get("split")),
            "steps": formats.count(row.get("steps")),
            "images seen": formats.count(row.get("images_seen")),
            "right / images": f"{formats.count(row['top1_count'])} / {formats.count(row['n'])}",
            "top-1 %": formats.percent(int(row["top1_count"]) / int(row["n"]), int(row["n"])),
        }
        for row in rows
    ]
    return table_of(
        records, list(records[0]), left=("run", "training", "split"), code=("run",)
    )  # fmt: skip


def evaluation_counts(result: Json) -> tuple[int, int, int | None]:
    """Images used, top-1 hits and top-5 hits (None where there are fewer than five classes).

    Raises:
        DataError: a count is missing, larger than the images, or listed and used do not add up.
    """
    name = f"evaluation of {result.get('model')} on {result.get('split')}"
    used, hits, five = (result.get(key) for key in ("n_used", "top1_count", "top5_count"))
    if used is None or hits is None:
        raise DataError(f"{name}: n_used or top1_count is missing")
    if int(used) < 1 or not 0 <= int(hits) <= int(used):
        raise DataError(f"{name}: {hits} right of {used} images")
    if five is not None and not int(hits) <= int(five) <= int(used):
        raise DataError(f"{name}: {five} in the top 5, {hits} in the top 1, of {used} images")
    listed = result.get("n_listed")
    left_out = int(result.get("n_quarantined") or 0) + int(result.get("n_refused") or 0)
    if listed is not None and int(listed) != int(used) + left_out:
        raise DataError(f"{name}: {listed} listed, but {used} used and {left_out} left out")
    return int(used), int(hits), None if five is None else int(five)


_FURTHER = {
    "balanced %": "balanced_accuracy", "F1 macro %": "f1_macro", "ROC-AUC %": "roc_auc",
    "ECE %": "ece",
}  # fmt: skip


def evaluation_table(results: Sequence[Json]) -> Table:
    """A row an evaluation: accuracy with its 95 % Wilson interval, images left out, calibration."""
    records = []
    for result in results:
        used, hits, five = evaluation_counts(result)
        low, high = intervals.wilson_interval(hits, used)
        left_out = int(result.get("n_quarantined") or 0) + int(result.get("n_refused") or 0)
        records.append(
            {
                "model": formats.words(result.get("model")),
                "split": formats.words(result.get("split")),
                "engine": formats.words(result.get("engine")),
                "precision": formats.words(result.get("precision")),
                "images": formats.count(used),
                "left out": formats.count(left_out),
                "top-1 %": formats.percent(hits / used, used),
                "95 % interval": f"{formats.percent(low, used)} – {formats.percent(high, used)}",
                "top-5 %": "–" if five is None else formats.percent(five / used, used),
                **{
                    name: formats.percent(formats.number(result.get(which)), used)
                    for name, which in _FURTHER.items()
                },
            }
        )
    return table_of(
        records,
        list(records[0]) if records else ["model"],
        caption="Accuracy by model, engine and precision",
        left=("model", "split", "engine", "precision"),
        drop_empty=(*_FURTHER, "top-5 %"),
    )


def evaluated_classes(result: Json) -> list[str]:
    """The class names of an evaluation, or their numbers where it names none."""
    names = result.get("classes")
    confusion = result.get("confusion") or []
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    return [str(index) for index in range(len(confusion))]


def confusion_of(result: Json) -> list[list[int]] | None:
    """The confusion matrix [classes, classes], one row per true class; None where there is none.

    Raises:
        DataError: it is not square in the classes.
    """
    confusion = result.get("confusion")
    if not isinstance(confusion, list) or not confusion:
        return None
    size = len(evaluated_classes(result))
    if len(confusion) != size or any(len(row) != size for row in confusion):
        raise DataError(
            f"evaluation of {result.get('model')} on {result.get('split')}: the confusion matrix "
            f"is not {size} x {size}, the number of class names"
        )
    return [[int(value) for value in row] for row in confusion]


def per_class(result: Json) -> list[tuple[str, int, int]]:
    """Class name, images and hits of every class, from ``per_class`` or the confusion matrix."""
    names = evaluated_classes(result)
    given = result.get("per_class")
    if isinstance(given, list) and given and isinstance(given[0], Mapping):
        found = []
        for place, entry in enumerate(given):
            name = entry.get(
                "name", entry.get("class", names[place] if place < len(names) else place)
            )
            total = entry.get("n", entry.get("count", entry.get("images")))
            hits = entry.get("top1_count", entry.get("correct", entry.get("hits")))
            if total is not None and hits is not None:
                found.append((str(name), int(total), int(hits)))
        if found:
            return found
    matrix = confusion_of(result)
    if matrix is None:
        return []
    return [(names[place], sum(row), row[place]) for place, row in enumerate(matrix)]


def worst_classes_table(result: Json, most: int = 10) -> Table | None:
    """The classes with the lowest accuracy, and what each is mostly taken for.

    Accuracy within a class is its recall; precision, F1 and AUC are of results that have them.
    """
    classes = [entry for entry in per_class(result) if entry[1] > 0]
    if not classes:
        return None
    matrix, names = confusion_of(result), evaluated_classes(result)
    further = {
        str(row["class"]): row
        for row in result.get("per_class") or ()
        if isinstance(row, Mapping) and "class" in row
    }
    ordered = sorted(classes, key=lambda entry: (entry[2] / entry[1], entry[0]))[:most]
    records = []
    for name, total, hits in ordered:
        low, high = intervals.wilson_interval(hits, total)
        taken = "–"
        if matrix is not None and name in names:
            place = names.index(name)
            wrong = [(-value, j) for j, value in enumerate(matrix[place]) if j != place and value]
            taken = ", ".join(f"{names[j]} ({-value})" for value, j in sorted(wrong)[:3]) or "–"
        records.append(
            {
                "class": name,
                "images": formats.count(total),
                "right": formats.count(hits),
                "accuracy %": formats.percent(hits / total),
                "95 % interval": f"{formats.percent(low)} – {formats.percent(high)}",
                **{
                    f"{label} %": formats.percent(formats.number(further.get(name, {}).get(which)))
                    for label, which in (("precision", "precision"), ("F1", "f1"), ("AUC", "auc"))
                },
                "mostly taken for": taken,
            }
        )
    some = "All classes" if len(ordered) == len(classes) else f"The {len(ordered)} weakest classes"
    return table_of(
        records,
        list(records[0]),
        caption=f"{some} of {len(classes)}, weakest first",
        left=("class", "mostly taken for"),
        drop_empty=("precision %", "F1 %", "AUC %", "mostly taken for"),
    )


def confused_table(result: Json, most: int = 15) -> Table | None:
    """The most frequent mistakes, each also as a share of the images of its class."""
    entries = result.get("most_confused")
    if not isinstance(entries, list) or not entries:
        return None
    images = {name: n for name, n, _ in per_class(result)}
    records = []
    for entry in entries[:most]:
        n = images.get(str(entry.get("true")))
        share = formats.percent(entry["count"] / n) if n else formats.NOTHING
        records.append(
            {
                "true class": formats.words(entry.get("true")),
                "taken for": formats.words(entry.get("predicted")),
                "images": formats.count(entry.get("count")),
                "% of the class": share,
            }
        )
    return table_of(
        records,
        list(records[0]),
        caption="The most frequent mistakes",
        left=("true class", "taken for"),
        drop_empty=("% of the class",),
    )


def accuracies(results: Sequence[Json], split: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(hits, images) on ``split`` by (model, precision). A latency takes its accuracy from the
    same precision only; of several engines the first by name stands for it."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for result in sorted(results, key=lambda row: str(row.get("engine"))):
        if str(result.get("split")) == split:
            used, hits, _ = evaluation_counts(result)
            found.setdefault((str(result.get("model")), str(result.get("precision"))), (hits, used))
    return found


def predictions_table(records: Sequence[Json]) -> Table:
    """The first predictions: file, best answers with their scores, or why there is none."""
    rows = []
    for record in records:
        if record.get("error"):
            answer, score, others = f"not read: {record['error']}", "–", "–"
        else:
            names = record.get("label_names") or record.get("class_ids") or []
            pairs = list(zip(map(str, names), record.get("scores") or [], strict=False))
            answer = pairs[0][0] if pairs else "–"
            score = f"{float(pairs[0][1]):.3f}" if pairs else "–"
            others = ", ".join(f"{name} {float(value):.3f}" for name, value in pairs[1:3]) or "–"
        rows.append(
            {
                "file": formats.words(record.get("file_name")),
                "answer": answer,
                "score": score,
                "next": others,
            }
        )
    columns = ["file", "answer", "score", "next"]
    return table_of(rows, columns, left=("file", "answer", "next"), code=("file",))
