"""The pool beside the labelled images: each figure by its data, each gap by a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from hgnetv2_pipeline.reporting.blocks import Figure, Notice, Text
from hgnetv2_pipeline.reporting.chapters.pool import pool_map_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger
from hgnetv2_pipeline.reporting.pool_figures import Cloud, point_map
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
