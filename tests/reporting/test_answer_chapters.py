"""Class by class, how sure the answers are, and mistakes: each figure shows its data."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic_inputs import HOSTILE, N, error_analysis, evaluation, write_error_analysis
from test_multi_label_report import result

from hgnetv2_pipeline.evaluation.thresholds import threshold_curves
from hgnetv2_pipeline.reporting import figures, svg, tables
from hgnetv2_pipeline.reporting.blocks import Block, Bullets, Figure, Fold, Notice, Table, Text
from hgnetv2_pipeline.reporting.chapters.classes import class_blocks, class_shares
from hgnetv2_pipeline.reporting.chapters.confidence import confidence_blocks, filled_bins
from hgnetv2_pipeline.reporting.chapters.mistakes import mistake_blocks
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

SVG = "{http://www.w3.org/2000/svg}"
MODEL = "ssld_stage1/b0/seed=0"


def drawn(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - our own text


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name) or 0) for name in names]


def coloured(root: ElementTree.Element, kind: str, css: str) -> list[ElementTree.Element]:
    return [each for each in root.iter(f"{SVG}{kind}") if each.get("class") == css]


def words(blocks: list[Block]) -> str:
    """All text of blocks, those of folds too."""
    said = []
    for block in blocks:
        match block:
            case Text(text) | Notice(text):
                said.append(text)
            case Bullets(items):
                said += items
            case Figure(_, caption):
                said.append(caption)
            case Fold(_, inner):
                said.append(words(list(inner)))
    return "\n".join(said)


def figure(blocks: list[Block]) -> Figure:
    return next(block for block in blocks if isinstance(block, Figure))


def test_a_bar_is_as_long_as_its_share_and_its_interval_is_below_it() -> None:
    rows = [
        figures.CountedShare("a", 1, 4, (0.05, 0.7)), figures.CountedShare("b", 3, 3, (0.44, 1.0)),
    ]  # fmt: skip
    root = drawn(figures.share_bars(rows, x_label="right, %"))
    bars = coloured(root, "rect", "f0")
    grid = sorted({numbers(each, "x1")[0] for each in coloured(root, "line", "grid")})
    left, right = grid[0], grid[-1]  # 0 and 100 %
    wide = right - left
    assert [numbers(bar, "width")[0] / wide for bar in bars] == pytest.approx([0.25, 1], abs=1e-3)
    whiskers = [
        numbers(each, "x1", "x2") for each in coloured(root, "line", "axis")
        if each.get("y1") == each.get("y2")
    ]  # fmt: skip
    shares = [[(x - left) / wide for x in ends] for ends in whiskers]
    assert shares == [pytest.approx(row.interval, abs=1e-3) for row in rows]
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert "1 of 4 (25 %)" in texts and "3 of 3 (100 %)" in texts


def test_the_weakest_classes_come_first_and_only_thirty_are_drawn(tmp_path: Path) -> None:
    names = [f"class {place:04d}" for place in range(1000)]
    classes = [
        {"class": name, "n": 50, "correct": 50 - place % 40} for place, name in enumerate(names)
    ]
    right = sum(row["correct"] for row in classes)
    many = evaluation(
        MODEL, right, n_used=50_000, n_listed=50_000, n_quarantined=0, top5_count=None,
        classes=names, per_class=classes, confusion=None,
        most_confused=[{"true": names[39], "predicted": names[0], "count": 20}],
    )  # fmt: skip
    path = tmp_path / "e.json"
    path.write_text(json.dumps(many))
    inputs = ReportInputs(dataset="m", model=MODEL, evaluations=(path,))
    blocks = class_blocks(inputs, FileLedger())
    drawings = [coloured(drawn(each), "rect", "f0") for each in figure(blocks).drawings]
    assert [len(bars) for bars in drawings] == [10, 10, 10]
    bars = drawings[0]
    assert (bars[0].find(f"{SVG}title").text or "").startswith("class 0039: 11 of 50")  # type: ignore[union-attr]
    assert figure(blocks).caption.startswith("The 30 weakest of 1000 classes")
    table = blocks[1]
    assert isinstance(table, Table)
    assert table.records() == [
        {"true class": names[39], "taken for": names[0], "images": "20", "% of the class": "40.0"}
    ]


def test_with_several_labels_a_bar_is_what_was_found_of_a_class() -> None:
    rows = class_shares(result(MODEL))
    by_name = {row["class"]: row for row in result(MODEL)["per_class"]}
    assert {row.label for row in rows} == {"<cat>", "dog"}, "gnu has no image"
    for row in rows:
        assert row.hits == by_name[row.label]["true_positives"]
        assert row.n == by_name[row.label]["n"]


def test_dots_of_the_reliability_diagram_are_confidence_and_accuracy() -> None:
    bins = filled_bins({"images": [0, 4, 16], "confidence": [0.0, 2.0, 15.2], "right": [0, 1, 12]})
    root = drawn(figures.reliability_diagram(bins))
    frame = svg.Frame(44, 44, figures.NARROW - 14, 284, (0, 100), (0, 100))
    dots = [numbers(each, "cx", "cy") for each in coloured(root, "circle", "f0")]
    expected = [(50, 25), (95, 75)]
    assert dots == [pytest.approx([frame.x(x), frame.y(y)], abs=0.01) for x, y in expected]
    whiskers = [numbers(each, "y1", "y2") for each in coloured(root, "line", "s0")]
    ends = [[frame.y(100 * bound) for bound in each.interval] for each in bins]
    assert whiskers == [pytest.approx(each, abs=0.01) for each in ends]
    heights = [numbers(each, "height")[0] for each in coloured(root, "rect", "f6")]
    assert heights == [10, 40], "4 and 16 images"
    assert numbers(root, "width") == [figures.NARROW]


def test_the_sentences_say_what_the_counts_say(report_inputs: ReportInputs) -> None:
    blocks = confidence_blocks(report_inputs, FileLedger())
    said = words(blocks)
    # 90 + 594 of 700 is the mean confidence, 611 of 700 are right; |90 - 60| + |594 - 551| = 73.
    assert "the mean confidence is 97.7 %, 87.3 % of 700 images are right" in said
    assert "the model is more sure than it is right" in said
    assert "(ECE) is 10.4 points" in said
    assert "96.6 % of the surest 80 % (confidence from 0.950)" in said
    assert "temperature of 1.31" in said and "from 4.1 to 1.2 points" in said
    assert "fitted on these same images (val)" in said
    curve = drawn(figure(blocks).drawings[1]).find(f"{SVG}path")
    assert curve is not None and (curve.get("d") or "").count("L") == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_temperature_to_be_used_is_fitted_on_val(report_inputs: ReportInputs, split: str) -> None:
    for path in (*report_inputs.evaluations, *report_inputs.error_analyses):
        value = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(value | {"split": split}))
    said = words(confidence_blocks(report_inputs, FileLedger()))
    assert f"fitted on these same images ({split})" in said
    assert ("To use one, fit it on val (kedro run" in said) == (split == "test")


def test_an_evaluation_of_before_is_to_be_made_again(report_inputs: ReportInputs) -> None:
    for path in report_inputs.evaluations:
        value = json.loads(path.read_text(encoding="utf-8"))
        value.pop("temperature_scaling", None)
        path.write_text(json.dumps(value))
    notice = next(
        block for block in confidence_blocks(report_inputs, FileLedger())
        if isinstance(block, Notice)
    )  # fmt: skip
    assert notice.command == "kedro run --pipeline evaluation --params redo=evaluation"


def test_without_an_analysis_of_the_model_it_is_named(report_inputs: ReportInputs) -> None:
    other = dataclasses.replace(report_inputs, model="train/b1/seed=0")
    with pytest.raises(AbsentError, match="error analysis of train/b1/seed=0: not made yet"):
        mistake_blocks(other, FileLedger())


def test_a_mistake_is_shown_with_its_pictures_truth_and_answer(report_inputs: ReportInputs) -> None:
    blocks = mistake_blocks(report_inputs, FileLedger(report_inputs.root))
    first, second = map(drawn, figure(blocks).drawings)
    assert first.get("aria-label") == (
        f"Mistake 1: {HOSTILE} answered as eight, 0.980; the nearest training image is of 四, "
        "cosine 0.91"
    )
    images = list(first.iter(f"{SVG}image"))
    assert len(images) == 3
    assert all((each.get("href") or "").startswith("data:image/jpeg;base64,") for each in images)
    assert len({each.get("href") for each in images}) == 3
    texts = [each.text or "" for each in second.iter(f"{SVG}text")]
    assert texts[:3] == ["2. answered not six", "0.040", "in truth one, two"]
    assert texts.count("none") == 2, "no map and no nearest image"
    said = words(blocks)
    assert "The 2 wrong answers that ssld_stage1/b0/seed=0 was surest of, of 89" in said
    assert "08_reporting/error_analysis/val-torch-fp32/mistakes/" in said, "where the pictures are"
    assert "Grad-CAM on the feature map stages.1 (4 x 4 positions)" in said
    assert "among 40 labelled training images" in said
    fold = blocks[-1]
    assert isinstance(fold, Fold) and isinstance(fold.blocks[0], Table)
    row = fold.blocks[0].records()[0]
    assert (row["image"], row["nearest training image"]) == ("val/7.png", "train/3.png")


def test_a_picture_that_is_gone_leaves_its_place_empty(report_inputs: ReportInputs) -> None:
    folder = report_inputs.error_analyses[0].parent / "mistakes"
    (folder / "01-map.jpg").unlink()
    (folder / "01-nearest.jpg").write_text("no picture")
    card = figure(mistake_blocks(report_inputs, FileLedger())).drawings[0]
    assert card.count("<image") == 1 and card.count(">none<") == 2


def test_another_file_that_is_broken_is_passed_over(report_inputs: ReportInputs) -> None:
    broken = report_inputs.error_analyses[0].with_name("broken.json")
    broken.write_text("{")
    inputs = dataclasses.replace(
        report_inputs, error_analyses=(broken, *report_inputs.error_analyses)
    )
    assert len(figure(mistake_blocks(inputs, FileLedger())).drawings) == 2


def test_a_model_without_a_mistake_is_said_to_be_right(tmp_path: Path) -> None:
    path = write_error_analysis(
        tmp_path / "analysis.json", error_analysis(MODEL, mistakes=[], wrong=0)
    )
    inputs = ReportInputs(dataset="m", model=MODEL, error_analyses=(path,))
    (block,) = mistake_blocks(inputs, FileLedger())
    assert block == Text(f"{MODEL} is right on all {N} images of val.")


def ranges(curves: list[dict[str, Any]], columns: tuple[int, int]) -> list[tuple[float, float]]:
    """What the axes of a chart of these columns span, in per cent."""
    every = 100 * np.concatenate([curve["points"] for curve in curves])[:, columns]
    return [
        svg.pad_range(every[:, 0].tolist(), 0, 0.5), svg.pad_range(every[:, 1].tolist(), least=1e-3)
    ]  # fmt: skip


def test_with_several_labels_the_curves_are_those_of_the_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 12)) < 0.4).astype(np.int64)
    probabilities = rng.random((80, 12))
    names = [f"c{place}" for place in range(12)]
    curves = threshold_curves(probabilities, truth, names, [0.5] * 12)
    value: dict[str, Any] = error_analysis(
        MODEL, task="multi_label", threshold_curves=curves, mistakes=[]
    )
    path = write_error_analysis(tmp_path / "analysis.json", value)
    inputs = ReportInputs(dataset="m", model=MODEL, error_analyses=(path,))
    blocks = confidence_blocks(inputs, FileLedger())
    recall, f1 = map(drawn, figure(blocks).drawings)
    for root in (recall, f1):
        paths = list(root.iter(f"{SVG}path"))
        assert len(paths) == len(curves) == 7
        assert [bool(each.get("stroke-dasharray")) for each in paths] == [False] + [True] * 6
        assert len({each.get("stroke") for each in paths}) == 7
        assert "#56b4e9" not in {each.get("stroke") for each in paths}, "too pale for a line"
    frame = svg.Frame(52, 44, figures.NARROW - 22, 214, *ranges(curves, (0, 3)))
    _, *points = re.split(r"[ML]", list(f1.iter(f"{SVG}path"))[1].get("d") or "")
    expected = [[frame.x(100 * t), frame.y(100 * f)] for t, _, _, f in curves[1]["points"]]
    np.testing.assert_allclose([list(map(float, at.split())) for at in points], expected, atol=0.01)
    table = blocks[1]
    assert isinstance(table, Table)
    for record, curve in zip(table.records(), curves, strict=True):
        best = max(point[3] for point in curve["points"])
        assert record["F1 %"] == f"{100 * best:.1f}"


def test_confused_pairs_without_counts_of_the_class_have_no_share() -> None:
    bare = {"most_confused": [{"true": "a", "predicted": "b", "count": 2}]}
    table = tables.confused_table(bare)
    assert table is not None and table.columns == ("true class", "taken for", "images")
