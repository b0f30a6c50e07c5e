"""The plots and the few numbers of a run for DVC: SVG files and a JSON, in which nothing is loaded.

DVC draws plots of data by scripts from a public server; pictures it shows as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import write_json, write_text
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import figures, formats, svg, tables
from hgnetv2_pipeline.reporting.blocks import Block, Figure
from hgnetv2_pipeline.reporting.chapters import curves, mining
from hgnetv2_pipeline.reporting.choice import read_choice, used_candidate
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.sections import MISSHAPEN

PLOTS = ("learning_curves.svg", "arms.svg", "confusion.svg", "purity.svg")
METRICS = "metrics.json"
_TITLE, _GAP = 34.0, 12.0
_SIZE = re.compile(r'<svg [^>]*width="([0-9.]+)" height="([0-9.]+)"')
_MOST_CLASSES = 40


def write_plots(inputs: ReportInputs, split: str, out: Path) -> None:
    """Write every one of ``PLOTS`` into the folder ``out``; one without data says what is missing.

    ``split`` is the set that the model was evaluated on. The bytes depend on the files of
    ``inputs`` alone.
    """
    drawn: dict[str, tuple[str, Callable[[], Sequence[str]]]] = {
        "learning_curves.svg": ("Learning curves", lambda: _curves(inputs)),
        "arms.svg": ("Accuracy on val by way of training", lambda: _arms(inputs)),
        "confusion.svg": (
            f"Confusion of {inputs.model} on {split}",
            lambda: _confusion(inputs, split),
        ),
        "purity.svg": ("Purity of the mined list by k", lambda: _purity(inputs)),
    }
    for name, (title, draw) in drawn.items():
        try:
            drawings = draw()
        except MISSHAPEN as error:
            drawings = [_sentence(str(error))]
        write_text(out / name, stack(title, drawings))


def write_metrics(inputs: ReportInputs, split: str, out: Path) -> None:
    """Write the numbers that runs are compared by; those that are not known are left out.

    ``top1`` (or ``map``) and ``ece`` of the model that is used on ``split``, ``gain`` in points
    over supervised training on val, ``mined`` images and the estimated ``purity`` of their list.
    """
    found: dict[str, float | int | None] = {}
    ledger = FileLedger(inputs.root)
    for read in (
        lambda: _of_model(inputs, split, ledger),
        lambda: _of_choice(inputs, ledger),
        lambda: _of_mining(inputs, ledger),
    ):
        try:
            found |= read()
        except AbsentError:
            continue
    known = {name: value for name, value in found.items() if value is not None}
    write_json(
        out,
        {name: round(v, 3) if isinstance(v, float) else v for name, v in known.items()},
    )


def stack(title: str, drawings: Sequence[str]) -> str:
    """One SVG of several, two on a line, below a title, on white."""
    sizes = [tuple(map(float, found.groups())) for d in drawings if (found := _SIZE.match(d))]
    columns = min(2, len(drawings))
    wide = max(width for width, _ in sizes)
    parts, y = [svg.text(10, 22, title, size=15, bold=True)], _TITLE
    for first in range(0, len(drawings), columns):
        for place in range(first, min(first + columns, len(drawings))):
            x = (wide + _GAP) * (place - first)
            at = f'<svg x="{svg.n(x)}" y="{svg.n(y)}" '
            parts.append(drawings[place].replace("<svg ", at, 1))
        y += max(height for _, height in sizes[first : first + columns]) + _GAP
    width = max(wide * columns + _GAP * (columns - 1), svg.text_width(title, 15) + 20)
    ground = f'<rect width="{svg.n(width)}" height="{svg.n(y)}" fill="#ffffff"/>'
    return svg.drawing(width, y, title, [ground, *parts]) + "\n"


def _sentence(said: str) -> str:
    said = said[:1].upper() + said[1:]
    return svg.drawing(figures.WIDTH, 30, said, [svg.text(10, 18, said, css="faint")])


def _figures(blocks: Sequence[Block], otherwise: str) -> list[str]:
    found = [each for block in blocks if isinstance(block, Figure) for each in block.drawings]
    return found or [_sentence(otherwise)]


def _curves(inputs: ReportInputs) -> list[str]:
    blocks = curves.curve_blocks(inputs, FileLedger(inputs.root))
    return _figures(blocks, "no training has a history yet")


def _purity(inputs: ReportInputs) -> list[str]:
    ledger = FileLedger(inputs.root)
    audit = ledger.read_json(inputs.mining_audit, "mining audit")
    blocks = mining.purity_blocks(inputs.mining_purity, audit, ledger)
    return _figures(blocks, "how pure the mined list is, is not known")


def _arms(inputs: ReportInputs) -> list[str]:
    choice = read_choice(inputs, FileLedger(inputs.root))
    if choice is None:
        raise AbsentError("no best model has been chosen yet")
    rows = [
        figures.Dots(each["label"], (100 * each["value"],), (each["run"],))
        for each in choice["candidates"]
    ]
    metric = "mAP" if choice["metric"] == "map" else "top-1"
    return [figures.dot_plot(rows, x_label=f"{metric} on {choice['n']:,} val images, %")]


def _evaluation(inputs: ReportInputs, split: str, ledger: FileLedger) -> dict[str, Any]:
    """What the model that is used answered in PyTorch."""
    wanted = {"model": inputs.model, "split": split, "engine": "torch"}
    for path in inputs.evaluations:
        result = ledger.read_json(path, "evaluation")
        if wanted.items() <= {key: result.get(key) for key in wanted}.items():
            return result
    raise AbsentError(f"{inputs.model} has not been evaluated on {split} yet")


def _confusion(inputs: ReportInputs, split: str) -> list[str]:
    result = _evaluation(inputs, split, FileLedger(inputs.root))
    matrix, names = tables.confusion_of(result), tables.evaluated_classes(result)
    if matrix is None:
        raise DataError("with several labels per image there is no confusion of classes")
    if len(matrix) > _MOST_CLASSES:
        raise DataError(f"{len(matrix):,} classes are too many to draw; the report has the pairs")
    return [figures.heat_map(matrix, names)]


def _of_model(inputs: ReportInputs, split: str, ledger: FileLedger) -> dict[str, float | None]:
    result = _evaluation(inputs, split, ledger)
    return {name: formats.number(result.get(name)) for name in ("top1", "map", "ece")}


def _of_choice(inputs: ReportInputs, ledger: FileLedger) -> dict[str, float | None]:
    choice = read_choice(inputs, ledger)
    by_arm = {each["arm"]: each for each in (choice or {}).get("candidates", ())}
    base = by_arm.get("supervised") or by_arm.get("train")
    if choice is None or base is None:
        return {}
    return {"gain": round(100 * (used_candidate(choice)["value"] - base["value"]), 2)}


def _of_mining(inputs: ReportInputs, ledger: FileLedger) -> dict[str, float | int | None]:
    audit: Mapping[str, Any] = ledger.read_json(inputs.mining_audit, "mining audit")
    estimate = audit.get("estimate") or {}
    return {"mined": audit.get("selected"), "purity": formats.number(estimate.get("estimate"))}
