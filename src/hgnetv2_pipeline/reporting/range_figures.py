"""Lowest, median and highest of something by class: a bar a class, or three curves over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hgnetv2_pipeline.reporting import figures, svg

_FEW = 40  # classes that can still be named one by one


@dataclass(frozen=True)
class Spread:
    """One class: where its values begin, where half of them lie, where they end."""

    label: str
    low: float
    middle: float
    high: float


def spreads(rows: Sequence[Spread], *, x_label: str) -> str:
    """A bar from low to high a row with a stroke at the median; curves where there are many rows.

    The curves run over the rows sorted by median, so that they show how many classes are weak.
    """
    if len(rows) > _FEW:
        return _curves(rows, x_label)
    margin = min(300.0, max(svg.text_width(row.label) for row in rows) + 16)
    height = 22.0
    frame = svg.Frame(
        margin, 8, figures.WIDTH - 30, 8 + height * len(rows),
        svg.padded([value for row in rows for value in (row.low, row.high)], 0.02, 1e-3),
        (0.0, float(len(rows))),
    )  # fmt: skip
    parts = []
    for value in svg.ticks(*frame.x_range, 8):
        at = frame.x(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        label = svg.tick_label(value)
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, faint=True))
    for place, row in enumerate(rows):
        y = frame.top + height * place
        name = svg.clipped(row.label, margin - 12)
        parts.append(svg.text(margin - 10, y + height / 2 + 4, name, anchor="end"))
        told = f"{row.label}: {row.low:.3f} to {row.high:.3f}, median {row.middle:.3f}"
        left, wide = frame.x(row.low), frame.x(row.high) - frame.x(row.low)
        parts.append(svg.bar(left, y + 6, max(wide, 1.5), height - 12, 0, opacity=0.45, title=told))
        parts.append(svg.bar(frame.x(row.middle) - 1.5, y + 3, 3, height - 6, 0, title=told))
    middle = (frame.left + frame.right) / 2
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, css="axis"))
    parts.append(svg.text(middle, frame.bottom + 34, x_label, anchor="middle", faint=True))
    return svg.drawing(figures.WIDTH, frame.bottom + 44, x_label, parts)


def _curves(rows: Sequence[Spread], x_label: str) -> str:
    ordered = sorted(rows, key=lambda row: (row.middle, row.low))
    lines = (
        ("highest", [row.high for row in ordered]),
        ("median", [row.middle for row in ordered]),
        ("lowest (the cut-off)", [row.low for row in ordered]),
    )
    series = [
        figures.Series(name, tuple(enumerate(map(float, values), start=1)), colour=place)
        for place, (name, values) in enumerate(lines)
    ]
    return figures.line_chart(
        series, title=x_label, x_label="class, by its median", y_label="",
        width=figures.WIDTH,
    )  # fmt: skip
