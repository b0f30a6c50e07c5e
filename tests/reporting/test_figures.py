from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_inputs import CLASSES, HOSTILE, confusion

from hgnetv2_pipeline.reporting import figures, svg

SVG = "{http://www.w3.org/2000/svg}"


def _dots() -> str:
    rows = [
        figures.Dots(HOSTILE, (77.9, 81.6, 79.7), ("seed 0", "seed 1", "seed 2")),
        figures.Dots("one", (88.0,), ("seed 0",)),
    ]
    return figures.dot_plot(rows, x_label="top-1, %", reference=79.7)


def _lines() -> str:
    series = [
        figures.Series(HOSTILE, ((0.0, 2.3), (1.0, 1.0))),
        figures.Series("b", ((1.0, 1.1),), colour=1),
    ]
    return figures.line_chart(series, title="t", x_label="epoch", y_label="loss")


def _heat() -> str:
    return figures.heat_map(confusion(611), CLASSES)


def _bars() -> str:
    return figures.bars([(HOSTILE, 3.0), ("b", 0.0)], x_label="images")


def _scatter() -> str:
    marks = [
        figures.Mark(1.9, 87.3, HOSTILE, "ort", (84.6, 89.6)),
        figures.Mark(1.95, 87.1, "second", "ort"),
        figures.Mark(30.0, 90.0, "third", "torch"),
    ]
    return figures.scatter(marks, x_label="ms", y_label="%")


def _shares() -> str:
    rows = [
        figures.CountedShare(HOSTILE, 3, 4, (0.3, 0.95)),
        figures.CountedShare("b", 0, 2, (0, 1)),
    ]
    return figures.share_bars(rows, x_label="right, %")


ALL = pytest.mark.parametrize("draw", [_dots, _lines, _heat, _bars, _scatter, _shares])


@ALL
def test_a_figure_is_well_formed_and_shows_hostile_names_as_text(draw: Callable[[], str]) -> None:
    root = ElementTree.fromstring(draw())  # noqa: S314 - our own text
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert any(text.startswith(HOSTILE[:4]) for text in texts)
    assert not root.findall(f".//{SVG}b")


@ALL
def test_a_figure_is_the_same_bytes_every_time(draw: Callable[[], str]) -> None:
    assert draw() == draw()


@ALL
def test_every_shape_lies_inside_its_drawing(draw: Callable[[], str]) -> None:
    root = ElementTree.fromstring(draw())  # noqa: S314
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for element in root.iter():
        for name, limit in (
            ("cx", width),
            ("x", width),
            ("x2", width),
            ("cy", height),
            ("y", height),
        ):
            if name in element.attrib:
                assert 0 <= float(element.attrib[name]) <= limit, element.attrib


def test_the_mean_is_written_beside_its_dots() -> None:
    root = ElementTree.fromstring(_dots())  # noqa: S314
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "79.7" in texts
    assert len(list(root.iter(f"{SVG}circle"))) == 4


def test_dots_stand_in_the_order_of_their_values() -> None:
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', _dots())]
    assert xs[0] < xs[2] < xs[1] < xs[3]


def test_a_line_of_one_point_is_a_dot() -> None:
    drawing = _lines()
    assert drawing.count("<path") == 1
    assert drawing.count("<circle") == 1


def test_a_heat_map_has_a_cell_a_pair_and_the_counts_of_the_matrix() -> None:
    root = ElementTree.fromstring(_heat())  # noqa: S314
    cells = list(root.iter(f"{SVG}rect"))
    assert len(cells) == 100
    titles = [title.text or "" for cell in cells for title in cell.iter(f"{SVG}title")]
    assert sum(int(title.rsplit(": ", 1)[1].split(" of ")[0]) for title in titles) == 700


def test_no_cell_of_a_heat_map_is_too_strong_for_its_count() -> None:
    strengths = [float(each) for each in re.findall(r'fill-opacity="([0-9.]+)"', _heat())]
    assert 0.5 < max(strengths) <= 0.55  # ink on it has 4.5:1 on white paper and on a dark screen


def test_lines_that_end_together_are_named_one_below_the_other() -> None:
    ends = {"a": 0.0, "b": 0.001, "far": 2.0}
    series = [figures.Series(n, ((0.0, 3.0), (9.0, y)), end=n) for n, y in ends.items()]
    text = figures.labelled_lines(series, title="t", x_label="x", y_label="y", height=110)
    root = ElementTree.fromstring(text)  # noqa: S314
    groups = [[each.text for each in group] for group in root.iter(f"{SVG}g")]
    assert groups == [["a", "b"], ["far"]]
    first, second = (each for each in root.iter(f"{SVG}text") if each.text in ("a", "b"))
    assert first.get("x") == second.get("x")
    assert float(second.get("y", 0)) - float(first.get("y", 0)) == 13


def test_close_points_get_labels_that_do_not_cover_each_other() -> None:
    marks = [figures.Mark(1.0 + i / 500, 80.0 + i / 50, f"model {i}", "g") for i in range(9)]
    root = ElementTree.fromstring(figures.scatter(marks, x_label="ms", y_label="%"))  # noqa: S314
    boxes = []
    for element in root.iter(f"{SVG}text"):
        if not (element.text or "").startswith("model "):
            continue
        wide = svg.text_width(element.text or "", 11)
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[element.attrib["text-anchor"]]
        boxes.append((left, y - 10, left + wide, y + 2))
    assert len(boxes) == 9
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 9))
def test_ticks_are_round_and_inside(low: float, span: float, about: int) -> None:
    high = low + span
    found = svg.ticks(low, high, about)
    slack = (high - low) * 1e-6 + 1e-9
    assert all(low - slack <= value <= high + slack for value in found)
    assert len(found) <= 2.6 * about + 1


def test_log_ticks_are_one_two_and_five() -> None:
    assert svg.log_ticks(0.4, 6.0) == [0.5, 1.0, 2.0, 5.0]


@given(st.integers(1, 2000))
def test_thinning_keeps_the_last_point_and_the_limit(n: int) -> None:
    points = [(float(i), float(i * i)) for i in range(n)]
    kept = figures.thin(points, most=50)
    assert len(kept) == min(n, 50)
    assert kept[-1] == points[-1]
    assert list(kept) == sorted(kept)


def test_a_thinned_line_keeps_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1001)]
    assert all(0.3 <= y <= 0.7 for _, y in figures.thin(points, most=101)[:-1])


def test_equal_values_still_make_a_drawing() -> None:
    figures_of_equals = [
        figures.dot_plot([figures.Dots("a", (50.0, 50.0), ("x", "y"))], x_label="%"),
        figures.scatter([figures.Mark(1.0, 50.0, "a", "g")], x_label="ms", y_label="%"),
        figures.line_chart(
            [figures.Series("a", ((1.0, 0.0), (2.0, 0.0)))], title="t", x_label="x", y_label="y"
        ),
        figures.bars([("a", 0.0)], x_label="images"),
    ]
    assert all("nan" not in drawing and "inf" not in drawing for drawing in figures_of_equals)


def test_control_signs_do_not_reach_the_drawing() -> None:
    drawing = figures.bars([("a\x00\x1bb", 1.0)], x_label="images")
    assert ElementTree.fromstring(drawing) is not None  # noqa: S314
    assert "\x1b" not in drawing
