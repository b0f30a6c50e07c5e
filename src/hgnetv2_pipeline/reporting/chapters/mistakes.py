"""The chapter of mistakes: the surest wrong answers, each beside what may explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.reporting import figures, formats, svg
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Table, Text, table_of
from hgnetv2_pipeline.reporting.chapters.confidence import read_error_analysis
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.pictures import data_uri

Json = Mapping[str, Any]
_SIDE, _GAP = 102.0, 10.0
_WIDTH = figures.NARROW
_BELOW = {"picture": "image", "map": "evidence", "nearest": "nearest in train"}


def mistake_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """A card per mistake with its pictures, and a table of the files."""
    analysis = read_error_analysis(inputs, ledger)
    records = analysis["mistakes"]
    model, split = analysis["model"], analysis["split"]
    images = formats.count(analysis["images"])
    if not records:
        return [Text(f"{model} is right on all {images} images of {split}.")]
    file = _file_of(analysis, inputs, ledger)
    folder = file.parent / "mistakes"
    cards = tuple(mistake_card(record, _pictures(record, folder, ledger)) for record in records)
    shown = ledger.shown(folder)
    caption = (
        f"The {len(records)} wrong answers that {model} was surest of, of "
        f"{formats.count(analysis['wrong'])} images on which it is wrong, of {images} of {split} "
        f"({file.parent.name}). The pictures are in {shown}/, the table is {shown}.csv."
    )
    return [
        Text(" ".join([*_explanation(analysis), _ADVICE])),
        Figure(cards, caption),
        Fold("The files of these mistakes", (_table(records),)),
    ]


def _file_of(analysis: Json, inputs: ReportInputs, ledger: FileLedger) -> Path:
    for path in inputs.error_analyses:
        with suppress(AbsentError):
            if ledger.read_json(path, "error analysis") == analysis:
                return path
    raise AbsentError("error analysis: its file has changed since it was read")


_ADVICE = (
    "Where the nearest training image shows the same thing under another label, one of the two "
    "labels may be wrong."
)


def _explanation(analysis: Json) -> list[str]:
    """How the pictures beside a mistake were found, or why there are none."""
    said = []
    how = analysis["map"]
    if how is not None:
        said.append(
            f"Orange is where the evidence for the wrong class is: {how['method']} on the feature "
            f"map {how['layer']} ({how['rows']} x {how['columns']} positions), over what the "
            "network sees of the image, in grey."
        )
    else:
        said.append(
            "No activation maps: they need engine torch and a network with feature maps of at "
            "least 4 x 4 positions."
        )
    if analysis["compared"]:
        said.append(
            "The nearest training image is the one with the highest cosine in the model's own "
            f"embedding, among {formats.count(analysis['compared'])} labelled training images of "
            "the classes in question."
        )
    return said


def _pictures(record: Json, folder: Path, ledger: FileLedger) -> dict[str, str]:
    """Data URIs of those that are there."""
    found = {}
    for name, file in record["files"].items():
        try:
            found[name] = data_uri(folder / file, "picture of a mistake", ledger)
        except AbsentError:
            continue  # the card says so in its place
    return found


def answer_of(record: Json) -> str:
    """What the model said, in words."""
    return str(record["about"]) if record["said"] else f"not {record['about']}"


def mistake_card(record: Json, pictures: Mapping[str, str]) -> str:
    """One mistake as a drawing: its answer and its truth above, three pictures, captions below."""
    true = ", ".join(record["true"]) or "no class"
    score = f"{record['score']:.3f}"
    head = f"{record['number']}. answered {answer_of(record)}"
    parts = [
        svg.text(0, 14, svg.clip_text(head, _WIDTH - 46, 13), size=13, bold=True),
        svg.text(_WIDTH, 14, score, anchor="end", size=13),
        svg.text(0, 32, svg.clip_text(f"in truth {true}", _WIDTH)),
    ]
    top = 40.0
    below = _BELOW | {"map": f"for {record['about']}"}
    other = record["nearest"]
    near = ""
    if other:
        below["nearest"] = f"train: {', '.join(other['true'])}"
        near = (
            f"; the nearest training image is of {', '.join(other['true'])}, cosine "
            f"{other['cosine']:.2f}"
        )
    for place, (name, words) in enumerate(below.items()):
        x = place * (_SIDE + _GAP)
        if name in pictures:
            parts.append(svg.image(x, top, _SIDE, pictures[name]))
        else:
            middle = x + _SIDE / 2
            parts.append(svg.text(middle, top + _SIDE / 2, "none", anchor="middle", css="faint"))
        label = svg.clip_text(words, _SIDE, 11)
        parts.append(svg.text(x, top + _SIDE + 15, label, size=11, css="faint"))
    said = f"Mistake {record['number']}: {true} answered as {answer_of(record)}, {score}{near}"
    return svg.drawing(_WIDTH, top + _SIDE + 22, said, parts)


def _table(records: Sequence[Json]) -> Table:
    rows = [
        {
            "": str(record["number"]),
            "image": str(record["key"]),
            "in truth": ", ".join(record["true"]) or formats.NOTHING,
            "answer": answer_of(record),
            "probability": f"{record['score']:.3f}",
            "nearest training image": str((record["nearest"] or {}).get("key", formats.NOTHING)),
            "its class": ", ".join((record["nearest"] or {}).get("true", ())) or formats.NOTHING,
            "cosine": formats.significant((record["nearest"] or {}).get("cosine")),
        }
        for record in records
    ]
    return table_of(
        rows, list(rows[0]), left=("in truth", "answer", "its class"),
        code=("image", "nearest training image"),
        drop_empty=("nearest training image", "its class", "cosine"),
    )  # fmt: skip
