"""Figures of a pool beside labelled images: a map of points, and quantiles in pairs.

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
