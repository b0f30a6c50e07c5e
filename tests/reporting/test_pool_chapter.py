"""The pool beside the labelled images: each figure by its data, each gap by a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.data.likeness import compare_sets
from hgnetv2_pipeline.data.scan.tones import count_tones
from hgnetv2_pipeline.reporting.blocks import Figure, Notice, Text
from hgnetv2_pipeline.reporting.build import build_report
from hgnetv2_pipeline.reporting.chapters.pool import (
    balance_blocks,
    likeness_blocks,
    pool_map_blocks,
)
from hgnetv2_pipeline.reporting.chapters.pool_figures import Cloud, point_map
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs
from hgnetv2_pipeline.reporting.style import CSS

KINDS = ("val", "passed over", "mined", "train", "removed")  # as they are drawn


def write_map(folder: Path, points: pd.DataFrame, **facts: object) -> Path:
    points.to_csv(folder / "map.csv", index=False)
    sizes = {kind: int((points["kind"] == kind).sum()) for kind in KINDS}
    known = {"images": 3000, "all": sizes, "variance": [0.31, 0.125]} | facts
    (folder / "map.json").write_text(json.dumps(known), encoding="utf-8")
    return folder / "map.csv"


def some_points(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "key": [f"{n}.png" for n in range(count)],
            "kind": [KINDS[n % 5] for n in range(count)],
            "x": rng.normal(size=count).round(4),
            "y": rng.normal(size=count).round(4),
        }
    )


def places_in(drawing: str) -> list[np.ndarray]:
    """Of each cloud the places of its points in pixels; the one in the legend is not among them."""
    found = [re.findall(r"M([\d.-]+) ([\d.-]+)", d) for d in re.findall(r' d="([^"]+)"', drawing)]
    return [np.array(places, float) for places in found if len(places) > 1]


def test_every_image_is_where_its_features_say(tmp_path: Path) -> None:
    points = some_points(500)
    (figure,) = pool_map_blocks(write_map(tmp_path, points), FileLedger(), "kedro run")
    assert isinstance(figure, Figure)
    (drawing,) = figure.drawings
    ElementTree.fromstring(drawing)  # noqa: S314
    clouds = places_in(drawing)
    drawn = np.concatenate(clouds)
    values = np.concatenate([points.loc[points["kind"] == kind, ["x", "y"]] for kind in KINDS])
    assert [len(cloud) for cloud in clouds] == [100] * 5
    # One scale for both axes, y upwards.
    scale, _ = np.polyfit(values[:, 0], drawn[:, 0], 1)
    assert np.allclose(
        drawn[:, 0] - scale * values[:, 0], drawn[0, 0] - scale * values[0, 0], atol=0.2
    )
    assert np.allclose(
        drawn[:, 1] + scale * values[:, 1], drawn[0, 1] + scale * values[0, 1], atol=0.2
    )
    assert "31.0 % of the variance" in drawing and "12.5 %" in drawing
    assert len(set(re.findall(r'stroke-linecap="round" class="(s\d)"', drawing))) == 5


def test_the_legend_says_how_many_of_how_many_are_shown(tmp_path: Path) -> None:
    sizes = {"passed over": 12_345, "mined": 4, "removed": 0, "train": 4, "val": 4}
    points = some_points(20)
    path = write_map(tmp_path, points[points["kind"] != "removed"], all=sizes)
    (figure,) = pool_map_blocks(path, FileLedger(), "kedro run")
    (drawing,) = figure.drawings
    assert "passed over: 4 of 12,345" in drawing and "mined: all 4" in drawing
    assert "removed" not in drawing and "drawn at random" in figure.caption
    (all_shown,) = pool_map_blocks(write_map(tmp_path, points), FileLedger(), "kedro run")
    assert isinstance(all_shown, Figure) and "drawn at random" not in all_shown.caption


def test_three_thousand_points_are_a_small_drawing(tmp_path: Path) -> None:
    (figure,) = pool_map_blocks(write_map(tmp_path, some_points(3000)), FileLedger(), "kedro run")
    assert len(figure.drawings[0]) < 150_000


def test_colours_of_signs_are_told_from_the_paper_by_three_to_one() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    drawing = point_map(
        [Cloud(kind, ((0.0, 0.0), (1.0, 1.0)), "dot", colour)
         for kind, colour in zip(KINDS, (3, 6, 0, 2, 1), strict=True)], x_label="x", y_label="y",
    )  # fmt: skip
    used = set(re.findall(r'class="s(\d)"', drawing))
    for values in re.findall(r"--paper:(#\w{6})(.*?)}", CSS, re.S)[:2]:
        paper, rest = values
        for number in used:
            colour = re.search(rf"--c{number}:(#\w{{6}})", rest)
            assert colour is not None
            low, high = sorted((light(paper), light(colour[1])))
            assert (high + 0.05) / (low + 0.05) >= 3, (number, paper)


def test_where_there_is_no_map_the_page_says_what_makes_one(tmp_path: Path) -> None:
    (notice,) = pool_map_blocks(tmp_path / "map.csv", FileLedger(), "kedro run --env mine")
    assert isinstance(notice, Notice) and notice.command == "kedro run --env mine --pipeline mining"
    path = write_map(tmp_path, some_points(0), images=0)
    (text,) = pool_map_blocks(path, FileLedger(), "kedro run")
    assert isinstance(text, Text) and "mining.map_images is 0" in text.text


@pytest.mark.parametrize(
    ("points", "facts"),
    [
        (some_points(5).assign(x="left"), {}),
        (some_points(5).assign(kind="other"), {}),
        (some_points(5), {"variance": [0.5]}),
        (some_points(5), {"all": None}),
    ],
)
def test_a_damaged_map_is_named(
    tmp_path: Path, points: pd.DataFrame, facts: dict[str, object]
) -> None:
    (notice,) = pool_map_blocks(write_map(tmp_path, points, **facts), FileLedger(), "kedro run")
    assert isinstance(notice, Notice) and notice.kind == "warning"
    assert "Map of the pool: map.csv" in notice.text


def compared(factor: float) -> dict[str, object]:
    """200 dark pictures of 32 pixels, and a pool that is brighter by ``factor``."""
    dark = np.random.default_rng(0).normal(60, 15, 200).clip(0, 120)
    square = pd.DataFrame({"width": np.full(200, 32), "height": np.full(200, 32)})
    sides = [
        count_tones([(int(level),) * 4 + (False,) for level in (dark * times).tolist()])
        for times in (1, factor)
    ]
    return {"likeness": compare_sets(square, square, (sides[0], sides[1]))}


def test_a_pool_twice_as_bright_is_said_and_drawn() -> None:
    summary = compared(2)
    blocks = likeness_blocks(summary, "kedro run")
    said = [block.text for block in blocks if isinstance(block, Notice)]
    # One sentence: a brighter picture has more of every colour.
    assert len(said) == 1 and said[0].startswith("The images of the pool are brighter than the lab")
    assert "% of pairs of one image of each (medians 1" in said[0]
    (figure,) = [block for block in blocks if isinstance(block, Figure)]
    (drawing,) = figure.drawings  # sizes are one number, so that only tones are drawn
    root = ElementTree.fromstring(drawing)  # noqa: S314
    bars = [node for node in root.iter() if node.tag.endswith("rect")]
    dots = [float(node.get("cx", "")) for node in root.iter() if node.tag.endswith("circle")]
    assert len(dots) == 8 and len(bars) == 16
    measures = [m for m in summary["likeness"]["measures"] if m["unit"] == "mean level"]  # type: ignore[index]
    values = np.array([m[side] for m in measures for side in ("labelled", "pool")])
    scale, start = np.polyfit(values[:, 2], dots, 1)
    np.testing.assert_allclose(dots, scale * values[:, 2] + start, atol=0.1)
    for at, (low, high) in ((0, (0, 4)), (1, (1, 3))):
        left = np.array([float(bar.get("x", "")) for bar in bars[at::2]])
        wide = np.array([float(bar.get("width", "")) for bar in bars[at::2]])
        np.testing.assert_allclose(left, scale * values[:, low] + start, atol=0.1)
        np.testing.assert_allclose(left + wide, scale * values[:, high] + start, atol=0.1)
    (table,) = blocks[-1].blocks  # type: ignore[union-attr]
    assert len(table.rows) == 12


def test_what_does_not_differ_is_said_too_and_what_is_not_known() -> None:
    blocks = likeness_blocks(compared(1), "kedro run")
    assert isinstance(blocks[0], Text) and "does not differ clearly" in blocks[0].text
    summary = compared(1)
    del summary["likeness"]["grey"]  # type: ignore[attr-defined]
    notices = [b for b in likeness_blocks(summary, "kedro run") if isinstance(b, Notice)]
    assert [notice.command for notice in notices] == ["kedro run --params redo=ingestion"]
    assert isinstance(likeness_blocks({}, "kedro run")[0], Text)


@pytest.mark.parametrize("classes", [3, 30, 31, 1000])
def test_shares_of_classes_are_bars_of_each_set_or_lines(classes: int) -> None:
    rng = np.random.default_rng(classes)
    counts = {name: rng.integers(1, 50, classes) for name in ("train", "val", "test")}
    names = [f"class {n}" for n in range(classes)]
    sets = {name: list(zip(names, each.tolist(), strict=True)) for name, each in counts.items()}
    (figure,) = balance_blocks(sets | {"pool": []})
    assert isinstance(figure, Figure)
    root = ElementTree.fromstring(figure.drawings[0])  # noqa: S314
    bars = [node for node in root.iter() if node.tag.endswith("rect")]
    if classes > 30:
        assert len([node for node in root.iter() if node.tag.endswith("path")]) == 3
        return
    wide = np.array([float(bar.get("width", "")) for bar in bars[:-3]]).reshape(classes, 3)
    shares = np.stack([each / each.sum() for each in counts.values()], axis=1)
    np.testing.assert_allclose(wide / wide.max(), shares / shares.max(), atol=1e-3)
    assert [bar.get("class") for bar in bars[:3]] == ["f2", "f3", "f4"]


def test_classes_of_equal_size_are_a_sentence() -> None:
    equal = {"train": [("a", 4), ("b", 4)], "val": [("a", 9), ("b", 9)], "pool": []}
    (text,) = balance_blocks(equal)
    assert isinstance(text, Text)
    assert text.text == "Each of the 2 classes has 4 images in train and 9 in val."
    assert balance_blocks({"pool": []}) == []


def test_the_report_says_what_differs_clearly_beside_what_was_mined(
    report_inputs: ReportInputs, tmp_path: Path
) -> None:
    assert report_inputs.dataset_summary is not None
    path = report_inputs.dataset_summary
    summary = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(summary | compared(2)), encoding="utf-8")
    text = build_report(report_inputs, tmp_path).read_text(encoding="utf-8")
    chapter = text[text.index('<section id="mining">') : text.index('<section id="curves">')]
    assert "The images of the pool are brighter than the labelled ones" in chapter
    path.write_text("{", encoding="utf-8")
    text = build_report(report_inputs, tmp_path).read_text(encoding="utf-8")
    assert "Map of the pool" in text and "are brighter" not in text
