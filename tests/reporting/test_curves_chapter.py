"""The chapter of learning curves against histories written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hgnetv2_pipeline.reporting import figures, svg
from hgnetv2_pipeline.reporting.blocks import Block, Figure, Fold, Notice, Table
from hgnetv2_pipeline.reporting.chapters.curves import curve_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs

SVG = "{http://www.w3.org/2000/svg}"
HEAD = "epoch,step,loss,lr,val_loss,val_top1,val_top1_ema,teacher_agreement\n"
ONE = "ssld_stage1/b0/seed=0"
OTHER = "comparison/b0/seed=0/stage1,seed=1"
EQUAL = "comparison/b0/seed=0/equal_steps,seed=0"
STUDENT = HEAD + "1,5,4,0.002,,0.5,,0.1\n2,10,2,0.001,0.4,0.9,,0.8\n"
SECOND = HEAD + "1,5,6,0.002,,0.3,,0.1\n2,10,4,0.001,0.6,0.8,,0.8\n"
LABELS = HEAD + "1,20,1,0.002,,,,\n2,40,0.5,0.001,0.8,0.7,,\n"


def read(
    folder: Path, histories: Mapping[str, str], *, images: int = 64
) -> tuple[dict[str, ElementTree.Element], list[dict[str, str]], list[Block]]:
    """Drawings by their label, the rows of the table, and all blocks."""
    paths, results = {}, {}
    for place, (run, text) in enumerate(histories.items()):
        paths[run] = folder / f"{place}.csv"
        paths[run].write_text(text)
        results[run] = folder / f"{place}.json"
        steps = int(text.strip().rsplit("\n", 1)[-1].split(",")[1])
        results[run].write_text(json.dumps({"steps": steps, "images_seen": images * steps}))
    inputs = ReportInputs(dataset="d", histories=paths, results=results)
    blocks = curve_blocks(inputs, FileLedger())
    drawings = [each for block in blocks if isinstance(block, Figure) for each in block.drawings]
    roots = [ElementTree.fromstring(each) for each in drawings]  # noqa: S314
    tables = [block.blocks[0] for block in blocks if isinstance(block, Fold)]
    rows = [row for table in tables if isinstance(table, Table) for row in table.records()]
    return {str(root.get("aria-label")): root for root in roots}, rows, blocks


def words(root: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


def paths_of(root: ElementTree.Element) -> list[tuple[list[float], str, str]]:
    """Coordinates, class and width of each line."""
    return [
        (
            [float(number) for number in re.findall(r"-?[\d.]+", each.get("d") or "")],
            each.get("class") or "",
            each.get("stroke-width") or "",
        )
        for each in root.iter(f"{SVG}path")
    ]


def test_one_chart_has_every_arm_named_at_its_end_by_images_seen(tmp_path: Path) -> None:
    drawings, rows, _ = read(tmp_path, {ONE: STUDENT, OTHER: SECOND, EQUAL: LABELS})
    chart = drawings["Accuracy on val: top-1 by images seen"]
    assert {"stage 1 85.0", "equal steps 70.0", "images seen", "top-1 on val, %"} <= {*words(chart)}
    seen = [
        tuple(each.text or "" for each in dot) for dot in chart.iter(f"{SVG}circle")
    ]  # fmt: skip
    assert ("equal steps: 70 at 2,560",) in seen
    assert [(row["run"], row["images seen"]) for row in rows] == [
        (EQUAL, "2,560"), (ONE, "640"), (OTHER, "640"),
    ]  # fmt: skip


def test_seeds_are_thin_and_their_mean_is_bold_and_only_ssld_is_coloured(tmp_path: Path) -> None:
    drawings, _, _ = read(tmp_path, {ONE: STUDENT, OTHER: SECOND, EQUAL: STUDENT})
    drawn = paths_of(drawings["Accuracy on val: top-1 by images seen"])
    assert sorted((css, wide) for _, css, wide in drawn) == [
        ("s0", "1.6"), ("s0", "1.6"), ("s0", "2.6"), ("s6", "2.6"),
    ]  # fmt: skip
    thin = [points for points, css, wide in drawn if (css, wide) == ("s0", "1.6")]
    (mean,) = (points for points, css, wide in drawn if (css, wide) == ("s0", "2.6"))
    assert mean == pytest.approx([(a + b) / 2 for a, b in zip(*thin, strict=True)], abs=0.02)


def test_losses_against_labels_and_teachers_are_drawn_apart(tmp_path: Path) -> None:
    drawings, rows, _ = read(tmp_path, {ONE: STUDENT, EQUAL: LABELS})
    names = {"stage 1", "equal steps"}
    for title, found in (
        ("Training loss, against the labels", {"equal steps"}),
        ("Training loss, against the teacher's answers", {"stage 1"}),
        ("Loss on val, against the labels", names),
        ("Learning rate", names),
    ):
        assert names & {*words(drawings[title])} == found, title
    assert [(row["loss on val"], row["training loss"]) for row in rows] == [
        ("0.800", "0.500"), ("0.400", "2.00"),
    ]  # fmt: skip


def test_averaged_weights_count_where_they_are_better(tmp_path: Path) -> None:
    text = HEAD + "1,5,4,0.1,,0.5,0.25,\n2,10,2,0.1,,0.75,0.875,\n3,15,2,0.1,,0.5,0.625,\n"
    _, [row], _ = read(tmp_path, {"train/b0/seed=0": text})
    shown = [row[name] for name in ("training", "evaluations", "last top-1 %", "best top-1 %")]
    assert shown == ["labels only", "3", "62.5", "87.5"]
    assert row["best after images"] == "640"


def test_seeds_evaluated_at_other_images_are_each_named(tmp_path: Path) -> None:
    later = SECOND.replace("\n1,5,", "\n1,6,").replace("\n2,10,", "\n2,11,")
    drawings, _, _ = read(tmp_path, {ONE: STUDENT, OTHER: later})
    assert {"stage 1 90.0", "stage 1 80.0"} <= {
        *words(drawings["Accuracy on val: top-1 by images seen"])
    }


def test_a_history_without_its_result_is_left_out_and_named(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text(STUDENT)
    inputs = ReportInputs(dataset="d", histories={ONE: history})
    [notice] = curve_blocks(inputs, FileLedger())
    assert isinstance(notice, Notice) and ONE in notice.text and notice.kind == "warning"


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    ends = [f"arm number {place}" for place in range(6)]
    series = [
        figures.Series(end, ((1.0, 2.0), (9.0, place / 50)), end=end)
        for place, end in enumerate(ends)
    ]
    drawn = figures.labelled_lines(series, title="t", x_label="x", y_label="y", height=150)
    root = ElementTree.fromstring(drawn)  # noqa: S314
    high = float((root.get("viewBox") or "").split()[3])
    boxes = []
    for each in root.iter(f"{SVG}text"):
        if each.text in ends:
            x, y = float(each.get("x") or 0), float(each.get("y") or 0)
            wide = svg.text_width(each.text, 11)
            x -= wide * (each.get("text-anchor") == "end")
            assert x >= 0 and x + wide <= figures.WIDTH and 0 < y < high
            boxes.append((x, y, x + wide, y + 11))
    assert len(boxes) == len(ends)
    for place, (left, top, right, bottom) in enumerate(boxes):
        for x, y, end, low in boxes[:place]:
            assert left >= end or x >= right or top >= low or y >= bottom
