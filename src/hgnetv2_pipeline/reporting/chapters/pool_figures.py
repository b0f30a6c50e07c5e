"""Figures of sets beside each other: a map of points, quantiles in pairs, bars by class.

Pure functions of their data, as ``figures``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hgnetv2_pipeline.reporting import svg

WIDTH = 470.0  # what a telephone shows legibly
_SIGNS = {
    "dot": ("h0", 4.0),
    "disc": ("h0", 6.0),
    "cross": ("m-3-3l6 6m0-6l-6 6", 1.7),
    "triangle": ("m0-5l4.6 8h-9.2z", 2),
    "square": ("m-2.5-2.5h5v5h-5z", 1.1),
}
"""The path of a sign from its place on, and the width of its stroke."""


@dataclass(frozen=True)
class Cloud:
    """Points of one kind, drawn by one sign (a key of ``_SIGNS``) in one colour."""

    label: str
    points: tuple[tuple[float, float], ...]
    sign: str
    colour: int


def point_map(clouds: Sequence[Cloud], *, x_label: str, y_label: str) -> str:
    """The clouds over each other in their order, both axes to one scale, and a legend."""
    xs = [x for cloud in clouds for x, _ in cloud.points]
    ys = [y for cloud in clouds for _, y in cloud.points]
    frame = svg.Frame(24, 8, WIDTH - 6, 388, *_one_scale(xs, ys, (WIDTH - 30) / 380))
    left, top, right, bottom = frame.left, frame.top, frame.right, frame.bottom
    parts = [
        svg.line(*ends, css="axis")
        for ends in ((left, top, right, top), (left, bottom, right, bottom),
                     (left, top, left, bottom), (right, top, right, bottom))
    ]  # fmt: skip
    parts += [
        _signs(
            [(frame.x(x), frame.y(y)) for x, y in cloud.points],
            cloud,
        )
        for cloud in clouds
        if cloud.points
    ]
    middle = (left + right) / 2
    parts.append(svg.text(middle, bottom + 17, x_label, anchor="middle", css="faint"))
    parts.append(
        svg.text(16, (top + bottom) / 2, y_label, anchor="middle", css="faint", rotate=-90)
    )
    for place, cloud in enumerate(clouds):
        x, y = left + (right - left) / 2 * (place % 2) + 6, bottom + 40 + 19 * (place // 2)
        parts.append(_signs([(x, y - 4)], cloud))
        parts.append(svg.text(x + 12, y, svg.clip_text(cloud.label, (right - left) / 2 - 20)))
    height = bottom + 30 + 19 * math.ceil(len(clouds) / 2)
    return svg.drawing(WIDTH, height, f"{y_label} by {x_label}", parts)


def _one_scale(
    xs: Sequence[float], ys: Sequence[float], shape: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges with all of the values, that of x ``shape`` times as wide as that of y."""
    (left, right), (low, high) = svg.pad_range(xs, 0.03), svg.pad_range(ys, 0.03)
    tall = max(high - low, (right - left) / shape) / 2
    x, y = (left + right) / 2, (low + high) / 2
    return (x - tall * shape, x + tall * shape), (y - tall, y + tall)


def _signs(places: Sequence[tuple[float, float]], cloud: Cloud) -> str:
    """One path for all points of a cloud: an element for each would take five times the bytes."""
    step, wide = _SIGNS[cloud.sign]
    marks = "".join(f"M{x:.1f} {y:.1f}{step}" for x, y in places)
    return (
        f'<path d="{marks}" fill="none" stroke="{svg.PALETTE[cloud.colour]}" '
        f'stroke-width="{wide:g}" stroke-linecap="round" class="s{cloud.colour}"/>'
    )


@dataclass(frozen=True)
class Quantiles:
    """A row: the 10th, 25th, 50th, 75th and 90th percentile of one measure of one set."""

    label: str
    values: tuple[float, float, float, float, float]
    colour: int


def quantile_lines(rows: Sequence[Quantiles], *, x_label: str) -> str:
    """A thin line from the first to the last, a thick one for the middle half, a ring at the
    median; a row below the other. x is logarithmic where it spans over 4x.
    """
    values = [value for row in rows for value in row.values]
    log_x = min(values) > 0 and max(values) / min(values) > 4
    x_range = (min(values) / 1.1, max(values) * 1.1) if log_x else svg.pad_range(values, 0.04)
    margin = max(svg.text_width(row.label) for row in rows) + 16
    frame = svg.Frame(
        margin, 6, WIDTH - 14, 6 + 21.0 * len(rows), x_range, (0.0, float(len(rows))), log_x
    )
    parts = []
    for value in svg.log_ticks(*x_range) if log_x else svg.ticks(*x_range, 5):
        at, label = frame.x(value), svg.tick_label(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, css="faint"))
    for place, row in enumerate(rows):
        y = frame.top + 21 * place + 11
        low, first, median, third, high = (frame.x(value) for value in row.values)
        said = " / ".join(svg.tick_label(round(value, 2)) for value in row.values)
        parts.append(svg.text(margin - 10, y + 4, row.label, anchor="end"))
        parts.append(svg.bar(low, y - 0.8, max(high - low, 1.6), 1.6, row.colour))
        parts.append(
            svg.bar(first, y - 4, max(third - first, 1.6), 8, row.colour,
                    title=f"{row.label}: {said}")
        )  # fmt: skip
        parts.append(svg.dot(median, y, row.colour, radius=6))
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, css="axis"))
    middle = (frame.left + frame.right) / 2
    parts.append(svg.text(middle, frame.bottom + 33, x_label, anchor="middle", css="faint"))
    return svg.drawing(WIDTH, frame.bottom + 42, x_label, parts)


def grouped_bars(
    rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[tuple[str, int]], *, x_label: str
) -> str:
    """Of each row a thin bar for each of ``names`` (what it is, its colour), and a legend."""
    margin = min(150.0, max(svg.text_width(label) for label, _ in rows) + 16)
    thick = 7.0
    height = thick * len(names) + 7
    frame = svg.Frame(
        margin, 6, WIDTH - 16, 6 + height * len(rows),
        (0.0, max(max(values) for _, values in rows) or 1.0), (0.0, float(len(rows))),
    )  # fmt: skip
    parts = []
    for value in svg.ticks(*frame.x_range, 5):
        at, label = frame.x(value), svg.tick_label(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, css="faint"))
    for place, (label, values) in enumerate(rows):
        top = frame.top + height * place + 3
        shown = svg.clip_text(label, margin - 12)
        parts.append(svg.text(margin - 10, top + thick * len(names) / 2 + 4, shown, anchor="end"))
        for number, ((name, colour), value) in enumerate(zip(names, values, strict=True)):
            title = f"{label}, {name}: {svg.tick_label(round(value, 2))}"
            wide = frame.x(value) - frame.left
            parts.append(
                svg.bar(frame.left, top + thick * number, wide, thick - 1, colour, title=title)
            )
    parts.append(svg.line(frame.left, frame.top, frame.left, frame.bottom, css="axis"))
    parts.append(svg.text(frame.left, frame.bottom + 33, x_label, css="faint"))
    for number, (name, colour) in enumerate(names):
        x = frame.left + 84 * number
        parts.append(svg.bar(x, frame.bottom + 45, 12, 8, colour))
        parts.append(svg.text(x + 17, frame.bottom + 53, svg.clip_text(name, 66)))
    return svg.drawing(WIDTH, frame.bottom + 62, x_label, parts)
