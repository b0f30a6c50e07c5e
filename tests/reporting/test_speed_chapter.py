"""The chapter on latency: what it says of its measurements, and when it draws."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_inputs import evaluation, latency

from hgnetv2_pipeline.reporting.blocks import Block, Figure, Notice, Table, Text
from hgnetv2_pipeline.reporting.chapters.speed import latency_blocks
from hgnetv2_pipeline.reporting.inputs import FileLedger, ReportInputs


def blocks_of(
    folder: Path, rows: list[dict[str, Any]], models: tuple[str, ...] = (), **changes: Any
) -> list[Block]:
    def written(kind: str, values: list[dict[str, Any]]) -> tuple[Path, ...]:
        paths = tuple(folder / f"{kind}{place}.json" for place in range(len(values)))
        for path, value in zip(paths, values, strict=True):
            path.write_text(json.dumps(value), encoding="utf-8")
        return paths

    inputs = ReportInputs(
        dataset="d", model="m", latencies=written("latency", rows),
        evaluations=written("evaluation", [evaluation(model, 611) for model in models]),
    )  # fmt: skip
    return latency_blocks(dataclasses.replace(inputs, **changes), FileLedger())


def words(blocks: list[Block]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Text | Notice))


@pytest.mark.parametrize(
    ("load", "processors", "said"),
    [
        (None, None, "is not recorded"),
        (6.9, None, "6.9; of how many processors is not recorded"),
        (2.0, 2, "2.0 on 2 processors: not too busy"),
        (2.1, 2, "Other work was running while the models were timed (load 2.1 on 2 processors)"),
    ],
)
def test_the_load_is_shown_and_judged(
    tmp_path: Path, load: float | None, processors: int | None, said: str
) -> None:
    row = latency("m", 2.0, load_average=load, processors=processors)
    assert said in words(blocks_of(tmp_path, [row]))


def test_a_load_without_its_processors_hides_no_other(tmp_path: Path) -> None:
    rows = [
        latency("m", 2.0, load_average=30.0), latency("n", 2.0, load_average=9.0, processors=64),
        latency("o", 2.0, load_average=8.0, processors=2),
    ]  # fmt: skip
    assert "(load 8.0 on 2 processors)" in words(blocks_of(tmp_path, rows))


def test_another_image_size_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    rows = [latency("m", 1.0), latency("timm:resnet18", 50.0, image_size=224)]
    blocks = blocks_of(tmp_path, rows)
    [notice] = [b for b in blocks if isinstance(b, Notice) and "not comparable" in b.text]
    assert "m at 32 px on" in notice.text
    assert "timm:resnet18 at 224 px on" in notice.text
    assert notice.command == "kedro run --pipeline latency"
    assert "not comparable" not in words(blocks_of(tmp_path, rows[:1]))
    published = [latency("m", 1.0), latency("b4.ssld_stage2", 50.0, image_size=224)]
    blocks = blocks_of(tmp_path, published)  # brings its own size: no command changes that
    [notice] = [b for b in blocks if isinstance(b, Notice) and "not comparable" in b.text]
    assert notice.command is None


def test_shares_above_100_are_explained_once(tmp_path: Path) -> None:
    rows = [
        latency("m", 1.0, percent_of_bandwidth=382.0),
        latency("n", 1.0, percent_of_bandwidth=120.0),
        latency("o", 1.0, percent_of_bandwidth=20.0, image_size=224),
    ]
    assert words(blocks_of(tmp_path, rows)).count("Over 100") == 1
    assert "Over 100" not in words(blocks_of(tmp_path, rows[2:]))


@pytest.mark.parametrize(("size", "drawn"), [(32, True), (64, False)])
def test_a_drawing_needs_three_points_of_one_image_size(
    tmp_path: Path, size: int, drawn: bool
) -> None:
    rows = [latency("m", 1.0), latency("n", 2.0), latency("o", 3.0, image_size=size)]
    blocks = blocks_of(tmp_path, rows, ("m", "n", "o"))
    figures = [block for block in blocks if isinstance(block, Figure)]
    assert bool(figures) == drawn
    assert ("is drawn where at least 3 models" in words(blocks)) != drawn
    assert sum(isinstance(block, Table) for block in blocks) == (2 if drawn else 3)
    if drawn:
        assert "published B0-B6 are not drawn" in figures[0].caption


@pytest.mark.parametrize(
    ("comparable", "size", "grey"), [(True, 224, 2), (False, 224, 0), (True, 192, 0)]
)
def test_published_accuracies_lie_behind_only_where_both_axes_agree(
    tmp_path: Path, comparable: bool, size: int, grey: int
) -> None:
    names = ("m", "n", "o")
    rows = [latency(name, float(at + 1), image_size=size) for at, name in enumerate(names)]
    rows.append(latency("scratch:b4", 4.0, image_size=size, variant="b4"))
    blocks = blocks_of(tmp_path, rows, names, comparable=comparable)
    [figure] = [block for block in blocks if isinstance(block, Figure)]
    # A hollow circle in the drawing and one in the legend.
    assert figure.svg.count("<circle") - figure.svg.count('class="f0"') == grey
    assert ("published accuracy at the time measured here" in figure.caption) == bool(grey)
    assert ("scratch:b4" in words(blocks)) != bool(grey)
