"""Figures as SVG text: dots by arm, learning curves, heat maps, bars, accuracy against latency.

Pure functions of their data; the bytes depend on nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hgnetv2_pipeline.reporting import svg

WIDTH = 470.0  # two drawings fill a line of the page, one a telephone's screen
_GREY = len(svg.PALETTE) - 2
_NEAR = 6  # places for a label right at its point
_TOGETHER = 9.0  # pixels between the ends of lines that are named together
NARROW = 326.0  # three of them fill a line, and one a telephone
CALIBRATION_BINS = 15  # of an evaluation
_Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
_LONGEST = 150.0  # of labels left of their bars; longer ones are above them


@dataclass(frozen=True)
class Dots:
    """A row of the dot plot: one value per run."""

    label: str
    values: tuple[float, ...]
    names: tuple[str, ...]  # of the runs, shown where the pointer rests
    colour: int = 6  # grey; a colour for the rows that the drawing is about


@dataclass(frozen=True)
class Series:
    """A named line through (x, y) points; ``band`` gives a (low, high) around each of them."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    colour: int = 0
    legend: bool = True
    band: tuple[tuple[float, float], ...] = ()
    bold: bool = False
    end: str = ""  # written at the last point by ``labelled_lines``


@dataclass(frozen=True)
class Mark:
    """A labelled point of a scatter with an optional vertical interval; ``faint``: hollow grey."""

    x: float
    y: float
    label: str
    group: str
    interval: tuple[float, float] | None = None
    faint: bool = False


def dot_plot(rows: Sequence[Dots], *, x_label: str, reference: float | None = None) -> str:
    """One dot per run, a bar at the mean of each row, a dashed line at ``reference``."""
    height = 40.0
    values = [value for row in rows for value in row.values]
    frame = svg.Frame(
        14, 8, WIDTH - 54, 8 + height * len(rows),
        svg.pad_range(values, least=0.5), (0.0, float(len(rows))),
    )  # fmt: skip
    parts = []
    for value in svg.ticks(*frame.x_range, 6):
        at = frame.x(value)
        label = svg.tick_label(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, css="faint"))
    if reference is not None:
        at = frame.x(reference)
        parts.append(svg.line(at, frame.top, at, frame.bottom, css="axis", dash="4 3"))
    for place, row in enumerate(rows):
        y = frame.top + height * place + 27
        label = svg.text(frame.left, y - 15, svg.clip_text(row.label, WIDTH - 28))
        parts.append(svg.over_lines(label))
        mean = math.fsum(row.values) / len(row.values)
        parts.append(svg.bar(frame.x(mean) - 1, y - 9, 2, 18, row.colour))
        for value, run in zip(row.values, row.names, strict=True):
            title = f"{row.label}, {run}: {svg.tick_label(round(value, 2))}"
            parts.append(svg.dot(frame.x(value), y, row.colour, title=title))
        parts.append(svg.text(frame.right + 10, y + 4, f"{mean:.1f}", bold=True))
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, css="axis"))
    middle = (frame.left + frame.right) / 2
    parts.append(svg.text(middle, frame.bottom + 34, x_label, anchor="middle", css="faint"))
    return svg.drawing(WIDTH, frame.bottom + 44, x_label, parts)


def thin(points: Sequence[tuple[float, float]], most: int = 300) -> tuple[tuple[float, float], ...]:
    """At most ``most`` points: the means of equal stretches, the last point kept as it is."""
    if len(points) <= most:
        return tuple(points)
    stretches = most - 1
    kept = []
    for place in range(stretches):
        first = place * (len(points) - 1) // stretches
        last = (place + 1) * (len(points) - 1) // stretches
        part = points[first:last]
        kept.append(
            (
                math.fsum(x for x, _ in part) / len(part),
                math.fsum(y for _, y in part) / len(part),
            )
        )
    return (*kept, points[-1])


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    width: float = WIDTH,
    dots: bool = False,
    log_x: bool = False,
    mark: tuple[float, str] | None = None,
) -> str:
    """Lines over one axis; a line of a single point is drawn as a dot, as are all with ``dots``.

    ``mark`` is an x with a word for it, drawn as an upright dashed line.
    """
    points = [point for line in series for point in line.points]
    bounds = [bound for line in series for pair in line.band for bound in pair]
    xs = [x for x, _ in points]
    x_range = (min(xs), max(xs) * 1.05) if log_x else svg.pad_range(xs, 0.0, 0.5)
    y_range = svg.pad_range([*(y for _, y in points), *bounds], least=1e-3)
    rows = [line for line in series if line.legend]
    wide, columns = _legend_layout([line.name for line in rows], width)
    legend_height = 17.0 * math.ceil(len(rows) / columns) if rows else 0.0
    frame = svg.Frame(52, 44, width - 22, 214, x_range, y_range, log_x)
    parts = [svg.text(8, 16, svg.clip_text(title, width - 16), bold=True)]
    parts += frame.grid(x_label, y_label, 6)
    if mark is not None:
        at = frame.x(mark[0])
        parts.append(svg.line(at, frame.top, at, frame.bottom, css="axis", dash="4 3"))
    parts += _draw_lines(series, frame, dots=dots)
    if mark is not None:
        taken = _lines_and_edges(series, frame, width)
        parts.append(_placed_label(at, frame.bottom - 11, [mark[1]], taken))
    for place, line in enumerate(rows):
        x = 12 + wide * (place % columns)
        y = frame.bottom + 54 + 17 * (place // columns)
        css = f"s{line.colour % len(svg.PALETTE)}"
        parts.append(svg.line(x, y - 4, x + 16, y - 4, css=css, dash="5 3" * line.dashed))
        parts.append(svg.text(x + 22, y, svg.clip_text(line.name, wide - 34, 11), size=11))
    return svg.drawing(width, frame.bottom + 46 + legend_height, title, parts)


def _draw_lines(series: Sequence[Series], frame: svg.Frame, *, dots: bool) -> list[str]:
    parts = []
    for line in series:
        colour = line.colour % len(svg.PALETTE)
        if line.band:
            ends = list(zip(line.points, line.band, strict=True))
            parts.append(
                svg.band(
                    [(frame.x(x), frame.y(high)) for (x, _), (_, high) in ends],
                    [(frame.x(x), frame.y(low)) for (x, _), (low, _) in ends],
                    colour,
                )
            )
        pixels = [(frame.x(x), frame.y(y)) for x, y in thin(line.points)]
        if len(pixels) > 1:
            dash = "5 3" if line.dashed else ""
            parts.append(svg.path(pixels, colour, dash=dash, bold=line.bold))
        if len(pixels) == 1 or dots:
            for (px, py), (x, y) in zip(pixels, thin(line.points), strict=True):
                tooltip = (
                    f"{line.name}: {svg.tick_label(round(y, 4))} at {svg.tick_label(round(x, 4))}"
                )
                radius = 5 if line.bold else 3.5
                parts.append(svg.dot(px, py, colour, radius=radius, title=tooltip))
    return parts


def labelled_lines(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    height: float,
) -> str:
    """Lines from x = 0, named where they end: no legend to look up, no colour to tell apart."""
    points = [point for line in series for point in line.points]
    named = [line for line in series if line.end]
    room = min(WIDTH / 3, max((svg.text_width(line.end, 11) for line in named), default=0.0))
    frame = svg.Frame(
        52, 44, WIDTH - 18 - room, 44 + height, (0.0, max(x for x, _ in points) or 1.0),
        svg.pad_range([y for _, y in points]),
    )  # fmt: skip
    parts = [svg.text(8, 16, svg.clip_text(title, WIDTH - 16), bold=True)]
    parts += frame.grid(x_label, y_label, 5)
    parts += _draw_lines(series, frame, dots=False)
    taken = _lines_and_edges(series, frame, WIDTH)
    ends: dict[tuple[float, float], list[str]] = {}  # lines that end together are named together
    for line in named:
        x, y = frame.x(line.points[-1][0]), frame.y(line.points[-1][1])
        near = next((at for at in ends if math.dist(at, (x, y)) < _TOGETHER), (x, y))
        ends.setdefault(near, []).append(svg.clip_text(line.end, WIDTH / 3, 11))
    parts += [_placed_label(x, y, names, taken) for (x, y), names in ends.items()]
    return svg.drawing(WIDTH, frame.bottom + 46, title, parts)


def _lines_and_edges(series: Sequence[Series], frame: svg.Frame, width: float) -> list[_Box]:
    """Where no label may be: on a line, above, below and left of the frame."""
    taken = [
        _box(0, -200, width, 196 + frame.top),
        _box(0, frame.bottom - 2, width, 200),
        _box(0, 0, frame.left, frame.bottom),
    ]
    for line in series:
        taken += _boxes_along([(frame.x(x), frame.y(y)) for x, y in thin(line.points)])
    return taken


def _boxes_along(pixels: Sequence[tuple[float, float]]) -> list[_Box]:
    """Small squares that cover a line, so that no label is placed on it."""
    every = list(pixels[-1:])
    for (x1, y1), (x2, y2) in itertools.pairwise(pixels):
        steps = math.ceil(max(abs(x2 - x1), abs(y2 - y1)) / 6)
        every += [
            (x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps) for step in range(steps)
        ]
    return [_box(x - 3, y - 3, 6, 6) for x, y in every]


def _legend_layout(names: Sequence[str], width: float) -> tuple[float, int]:
    """Width of a legend entry and how many fit in a row."""
    if not names:
        return 0.0, 1
    widest = min(width - 24, max(svg.text_width(name, 11) for name in names) + 42)
    columns = max(1, min(len(names), int((width - 12) // widest)))
    return widest, columns


def heat_map(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix, a row per true class: right answers blue, wrong ones orange, each as
    strong as the root of its share of the row, so that a few wrong answers are seen; never so
    strong that its number could not be read, on paper or on a dark screen."""
    size = len(names)
    cell = max(17.0, min(38.0, 400.0 / size))
    margin = min(170.0, max(svg.text_width(name, 11) for name in names) + 14)
    slanted = max(svg.text_width(name, 11) for name in names) > cell - 4
    # A text slanted by 60 degrees is 0.87 of its length high.
    top = 0.87 * (margin - 12) + 34 if slanted else 44.0
    font = 11.0 if cell >= 24 else 8.5
    parts = [
        svg.text(margin + cell * size / 2, 14, "predicted", anchor="middle", css="faint"),
        svg.text(margin - 8, 14, "true", anchor="end", css="faint"),
    ]
    for place, name in enumerate(names):
        shown = svg.clip_text(name, margin - 12, 11)
        y = top + cell * (place + 0.5) + 4
        parts.append(svg.text(margin - 8, y, shown, anchor="end", size=11))
        x = margin + cell * (place + 0.5)
        if slanted:
            parts.append(svg.text(x + 4, top - 7, shown, size=11, rotate=-60))
        else:
            parts.append(svg.text(x, top - 7, shown, anchor="middle", size=11))
    for i, row in enumerate(counts):
        total = sum(row)
        for j, value in enumerate(row):
            x, y = margin + cell * j, top + cell * i
            share = value / total if total else 0.0
            opacity = 0.06 if not value else 0.14 + 0.41 * math.sqrt(share)
            tooltip = f"{names[i]} taken for {names[j]}: {value} of {total}"
            colour = 6 if not value else (0 if i == j else 1)
            parts.append(svg.bar(x, y, cell - 1, cell - 1, colour, opacity=opacity, title=tooltip))
            if value:
                mark = svg.text(
                    x + (cell - 1) / 2, y + cell / 2 + font * 0.34, str(value),
                    anchor="middle", size=font,
                )  # fmt: skip
                parts.append(mark)
    side = margin + cell * size + (50 if slanted else 10)
    return svg.drawing(side, top + cell * size + 8, "confusion matrix", parts)


def bars(rows: Sequence[tuple[str, float]], *, x_label: str, colour: int = 0) -> str:
    """Horizontal bars with their values behind them, their labels before or, if long, above."""
    widest = max(svg.text_width(label) for label, _ in rows)
    above = widest > _LONGEST
    height = 38.0 if above else 20.0 if len(rows) > 12 else 23.0
    high = max(max(value for _, value in rows), 1e-9)
    left = 8.0 if above else widest + 16
    frame = svg.Frame(
        left, 8, WIDTH - 64, 8 + height * len(rows), (0.0, high), (0.0, float(len(rows)))
    )
    parts = []
    for place, (label, value) in enumerate(rows):
        y = frame.top + height * (place + 1) - 8  # the lower edge of the bar
        if above:
            parts.append(svg.text(left, y - 18, svg.clip_text(label, WIDTH - 16)))
        else:
            parts.append(svg.text(left - 10, y - 2, label, anchor="end"))
        tooltip = f"{label}: {svg.tick_label(value)}"
        wide = frame.x(value) - frame.left
        parts.append(svg.bar(left, y - 14, wide, 14, colour, title=tooltip))
        shown = svg.tick_label(round(value, 4))
        parts.append(svg.text(frame.x(value) + 6, y - 2, shown, size=11, css="faint"))
    parts.append(svg.line(frame.left, frame.top, frame.left, frame.bottom, css="axis"))
    parts.append(svg.text(frame.left, frame.bottom + 17, x_label, css="faint"))
    return svg.drawing(WIDTH, frame.bottom + 26, x_label, parts)


@dataclass(frozen=True)
class CountedShare:
    """A row of bars: ``hits`` of ``n``, and the ends of its interval, shares."""

    label: str
    hits: int
    n: int
    interval: tuple[float, float]


def share_bars(rows: Sequence[CountedShare], *, x_label: str) -> str:
    """Bars of shares in per cent: above each its name and counts, below it its interval."""
    height, x_range = 36.0, (0.0, 100.0)
    frame = svg.Frame(6, 4, NARROW - 14, 4 + height * len(rows), x_range, (0.0, 1.0))
    parts = []
    for value in svg.ticks(*x_range):
        at = frame.x(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        label = svg.tick_label(value)
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, css="faint"))
    for place, row in enumerate(rows):
        y, share = frame.top + height * place, 100 * row.hits / row.n
        said = f"{row.hits} of {row.n} ({share:.0f} %)"
        room = frame.right - frame.left - svg.text_width(said, 11) - 10
        parts.append(svg.text(frame.left, y + 13, svg.clip_text(row.label, room)))
        parts.append(svg.text(frame.right, y + 13, said, anchor="end", size=11))
        title, wide = f"{row.label}: {said}", frame.x(share) - frame.left
        parts.append(svg.bar(frame.left, y + 17, wide, 8, 0, title=title))
        low, high = (frame.x(100 * bound) for bound in row.interval)
        parts.append(svg.line(low, y + 29, high, y + 29, css="axis"))
        parts += [svg.line(end, y + 26, end, y + 32, css="axis") for end in (low, high)]
    middle = (frame.left + frame.right) / 2
    parts.append(svg.text(middle, frame.bottom + 32, x_label, anchor="middle", css="faint"))
    return svg.drawing(NARROW, frame.bottom + 40, x_label, parts)


@dataclass(frozen=True)
class CalibrationBin:
    """Answers of similar confidence: how many, their mean confidence, how many are right."""

    images: int
    confidence: float
    right: int
    interval: tuple[float, float]


def reliability_diagram(bins: Sequence[CalibrationBin]) -> str:
    """Accuracy by confidence, in per cent, with intervals, beside the diagonal of a model that is
    as sure as it is right; below, how many images are in each bin.
    """
    frame = svg.Frame(44, 44, NARROW - 14, 284, (0.0, 100.0), (0.0, 100.0))
    parts = [svg.text(8, 16, "Is it as sure as it is right?", bold=True)]
    parts += frame.grid("confidence of the answer, %", "right answers, %", 5)
    most = max(each.images for each in bins)
    wide, foot = (frame.right - frame.left) / CALIBRATION_BINS, frame.bottom + 106
    for each in bins:
        place = min(CALIBRATION_BINS, max(1, math.ceil(each.confidence * CALIBRATION_BINS)))
        left, high = frame.left + wide * (place - 1), 40 * each.images / most
        title = f"{each.images} images"
        parts.append(svg.bar(left + 1, foot - high, wide - 2, high, 6, title=title))
    parts.append(svg.line(frame.left, foot, frame.right, foot, css="axis"))
    below = f"images by confidence, at most {most:,}"
    parts.append(svg.text(frame.left, foot - 48, below, size=11, css="faint"))
    ends = frame.x(0), frame.y(0), frame.x(100), frame.y(100)
    parts.append(svg.line(*ends, css="axis", dash="4 3"))
    points = [
        (frame.x(100 * each.confidence), frame.y(100 * each.right / each.images)) for each in bins
    ]
    parts.append(svg.path(points, 0))
    for each, (x, y) in zip(bins, points, strict=True):
        low, high = (frame.y(100 * bound) for bound in each.interval)
        parts.append(svg.line(x, low, x, high, css="s0"))
        said = f"confidence {100 * each.confidence:.1f} %: {each.right} of {each.images} right"
        parts.append(svg.dot(x, y, 0, title=said))
    return svg.drawing(NARROW, foot + 8, "Reliability diagram: right answers by confidence", parts)


def pareto_front(marks: Sequence[Mark]) -> list[Mark]:
    """The marks that no other beats in both, lower x and higher y, from left to right."""
    front: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.x, -mark.y)):
        if not front or mark.y > front[-1].y:
            front.append(mark)
    return front


def scatter(
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    limit: tuple[float, str] | None = None,
    front: bool = False,
) -> str:
    """Labelled points in groups, intervals as whiskers; x is logarithmic where it spans over 4x.

    A single group without a name gets no legend. ``limit`` is an x with a word for it, drawn as an
    upright dashed line; ``front`` joins the points of the Pareto front.
    """
    xs = [mark.x for mark in marks] + ([limit[0]] if limit else [])
    ys = [bound for mark in marks for bound in (mark.y, *(mark.interval or ()))]
    log_x = min(xs) > 0 and max(xs) / min(xs) > 4
    if log_x:
        x_range = (min(xs) / 1.25, max(xs) * 1.6)
    else:
        low, high = svg.pad_range(xs, 0.15, max(xs) * 0.1)
        x_range = (max(0.0, low), high)
    frame = svg.Frame(56, 34, WIDTH - 20, 366, x_range, svg.pad_range(ys, 0.1, 0.5), log_x)
    groups = list(dict.fromkeys(mark.group for mark in sorted(marks, key=lambda m: m.faint)))
    faint = {mark.group for mark in marks if mark.faint}
    parts = frame.grid(x_label, y_label, 7)
    if limit is not None:
        at = frame.x(limit[0])
        parts.append(svg.line(at, frame.top, at, frame.bottom, css="axis", dash="4 3"))
        parts.append(
            svg.over_lines(svg.text(at + 5, frame.bottom - 7, limit[1], size=11, css="faint"))
        )
    if front:
        own = [mark for mark in marks if not mark.faint]
        edge = [(frame.x(mark.x), frame.y(mark.y)) for mark in pareto_front(own)]
        parts.append(svg.path(edge, _GREY, dash="2 3"))
    taken = [_box(frame.x(mark.x) - 6, frame.y(mark.y) - 6, 12, 12) for mark in marks]
    if limit is not None:
        taken.append(_box(frame.x(limit[0]) - 2, frame.top, 4, frame.bottom - frame.top))
    for mark in marks:
        colour = groups.index(mark.group) % len(svg.PALETTE)
        x, y = frame.x(mark.x), frame.y(mark.y)
        if mark.interval:
            low, high = (frame.y(bound) for bound in mark.interval)
            parts.append(svg.line(x, low, x, high, css=f"s{colour}"))
            taken.append(_box(x - 2, high, 4, low - high))
        group = f" ({mark.group})" if mark.group else ""
        tooltip = f"{mark.label}{group}: {mark.y:.2f} at {svg.tick_label(round(mark.x, 4))}"
        look = _GREY if mark.faint else colour
        parts.append(svg.dot(x, y, look, radius=5.5, title=tooltip, hollow=mark.faint))
    for mark in marks:
        x, y = frame.x(mark.x), frame.y(mark.y)
        parts.append(_placed_label(x, y, [svg.clip_text(mark.label, 260, 11)], taken))
    shown = [] if groups == [""] else groups
    for place, group in enumerate(shown):
        y = frame.bottom + 58 + 18 * place
        look = _GREY if group in faint else place % len(svg.PALETTE)
        parts.append(svg.dot(62, y - 4, look, hollow=group in faint))
        parts.append(svg.text(74, y, svg.clip_text(group, WIDTH - 90)))
    return svg.drawing(WIDTH, frame.bottom + 48 + 18 * len(shown), f"{y_label} by {x_label}", parts)


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return x, y, x + width, y + height


def _placed_label(x: float, y: float, names: Sequence[str], taken: list[_Box]) -> str:
    """The names, one below the other, at the first free place around their point; right of it where
    none is free."""
    wide, high = max(svg.text_width(name, 11) for name in names), 13.0 * len(names)
    places: list[tuple[float, float, str]] = [  # x, upper edge, anchor
        (x + 9, y - 0.5 - high / 2, "start"),
        (x - 9, y - 0.5 - high / 2, "end"),
        (x, y - 9 - high, "middle"),
        (x, y + 9, "middle"),
        (x + 7, y - 7 - high, "start"),
        (x + 7, y + 7, "start"),
    ]
    # Where all of these are taken: further away, with a thin line back to the point.
    for far in range(30, 160, 16):
        for side, anchor in ((14, "start"), (-14, "end"), (70, "start"), (-70, "end")):
            for top in (y - far + 2 - high, y + far - 11):
                places.append((x + side, top, anchor))

    def box(at: tuple[float, float, str]) -> _Box:
        return _box(at[0] - wide * {"start": 0, "middle": 0.5, "end": 1}[at[2]], at[1], wide, high)

    def free(one: _Box) -> bool:
        inside = one[0] >= 4 and one[2] <= WIDTH - 4
        return inside and not any(
            one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
            for other in taken
        )

    chosen = next((i for i, place in enumerate(places) if free(box(place))), 0)
    at_x, top, anchor = places[chosen]
    taken.append(box(places[chosen]))
    leader = svg.line(x, y, at_x, top + high - 6, css="axis") if chosen >= _NEAR else ""
    rows = enumerate(names)
    said = [svg.text(at_x, top + 11 + 13 * n, name, anchor=anchor, size=11) for n, name in rows]
    return leader + svg.over_lines("".join(said))


_FEW = 40  # classes that can still be named one by one


@dataclass(frozen=True)
class Spread:
    """One class: where its values begin, where half of them are, where they end."""

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
    margin = min(_LONGEST, max(svg.text_width(row.label) for row in rows) + 16)
    height = 22.0
    frame = svg.Frame(
        margin, 8, WIDTH - 30, 8 + height * len(rows),
        svg.pad_range([value for row in rows for value in (row.low, row.high)], 0.02, 1e-3),
        (0.0, float(len(rows))),
    )  # fmt: skip
    parts = []
    for value in svg.ticks(*frame.x_range, 8):
        at = frame.x(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        label = svg.tick_label(value)
        parts.append(svg.text(at, frame.bottom + 16, label, anchor="middle", size=11, css="faint"))
    for place, row in enumerate(rows):
        y = frame.top + height * place
        name = svg.clip_text(row.label, margin - 12)
        parts.append(svg.text(margin - 10, y + height / 2 + 4, name, anchor="end"))
        tooltip = f"{row.label}: {row.low:.3f} to {row.high:.3f}, median {row.middle:.3f}"
        left, wide = frame.x(row.low), frame.x(row.high) - frame.x(row.low)
        parts.append(
            svg.bar(left, y + 6, max(wide, 1.5), height - 12, 0, opacity=0.45, title=tooltip)
        )
        parts.append(svg.bar(frame.x(row.middle) - 1.5, y + 3, 3, height - 6, 0, title=tooltip))
    middle = (frame.left + frame.right) / 2
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, css="axis"))
    parts.append(svg.text(middle, frame.bottom + 34, x_label, anchor="middle", css="faint"))
    return svg.drawing(WIDTH, frame.bottom + 44, x_label, parts)


def _curves(rows: Sequence[Spread], x_label: str) -> str:
    ordered = sorted(rows, key=lambda row: (row.middle, row.low))
    lines = (
        ("highest", [row.high for row in ordered]),
        ("median", [row.middle for row in ordered]),
        ("lowest (the cut-off)", [row.low for row in ordered]),
    )
    series = [
        Series(name, tuple(enumerate(map(float, values), start=1)), colour=place)
        for place, (name, values) in enumerate(lines)
    ]
    return line_chart(
        series, title=x_label, x_label="class, by its median", y_label="",
        width=WIDTH,
    )  # fmt: skip
