"""The few SVG pieces our figures are drawn from; the same input gives the same bytes.

Every shape carries its colours for light paper as attributes and a class beside: a style sheet
around it (the report's, in dark mode) overrides the attributes, and alone it still looks right.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hgnetv2_pipeline.printable import Lines

# Okabe and Ito's palette, which colour-blind readers can tell apart, yellow left out.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b87f00", "#2787bf", "#6b6b6b", "#8c4d31")
INK, FAINT, GRID = "#1c1c1c", "#5f6670", "#dfe3e8"
INKS = {"ink": INK, "faint": FAINT}
"""Colours of text by class; ``style`` has those of a dark screen."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def escape(text: str) -> str:
    """Text for HTML and XML, in elements and in quoted attributes.

    Line ends are white space there; whatever else is not printable is shown, such as the control
    characters, which XML 1.0 has no way to write, and the signs that turn the order of letters.
    """
    return html.escape(Lines(text), quote=True)


def n(value: float) -> str:
    """A coordinate: two decimals at most, no trailing zeros, no minus zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    size: float = 12,
    css: str = "ink",
    bold: bool = False,
    rotate: float | None = None,
) -> str:
    """A text whose baseline starts, centres or ends at (x, y); ``css`` is a key of ``INKS``."""
    turn = f' transform="rotate({n(rotate)} {n(x)} {n(y)})"' if rotate is not None else ""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{n(x)}" y="{n(y)}" text-anchor="{anchor}" font-size="{n(size)}"{weight} '
        f'fill="{INKS[css]}" class="{css}"{turn}>{escape(content)}</text>'
    )


def over_lines(drawn: str) -> str:
    """Texts with an edge in the colour of the paper, legible across lines."""
    return (
        '<g class="halo" stroke="#ffffff" stroke-width="3" stroke-linejoin="round" '
        f'paint-order="stroke">{drawn}</g>'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, css: str = "grid", dash: str = "") -> str:
    """A thin straight line; ``css`` is grid, axis or s<colour>."""
    colour = PALETTE[int(css[1:])] if css[:1] == "s" else (GRID if css == "grid" else FAINT)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    wide = ' stroke-width="1.6"' if css[:1] == "s" else ""
    return (
        f'<line x1="{n(x1)}" y1="{n(y1)}" x2="{n(x2)}" y2="{n(y2)}" stroke="{colour}"{wide} '
        f'class="{css}"{dashes}/>'
    )


def path(
    points: Sequence[tuple[float, float]], colour: int, *, dash: str = "", bold: bool = False
) -> str:
    """A line through points in pixels."""
    steps = " ".join(f"{'L' if i else 'M'}{n(x)} {n(y)}" for i, (x, y) in enumerate(points))
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    wide = "2.6" if bold else "1.6"
    return (
        f'<path d="{steps}" fill="none" stroke="{PALETTE[colour]}" stroke-width="{wide}" '
        f'stroke-linejoin="round" class="s{colour}"{dashes}/>'
    )


def band(
    upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: int
) -> str:
    """The area between two lines through points in pixels, from left to right both."""
    steps = " ".join(
        f"{'L' if i else 'M'}{n(x)} {n(y)}" for i, (x, y) in enumerate([*upper, *reversed(lower)])
    )
    return f'<path d="{steps}Z" fill="{PALETTE[colour]}" fill-opacity="0.16" class="f{colour}"/>'


def dot(
    x: float, y: float, colour: int, *, radius: float = 4.5, title: str = "", hollow: bool = False
) -> str:
    """A circle, with a text that shows where the pointer rests on it."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    look = (
        f'fill="none" stroke="{PALETTE[colour]}" stroke-width="1.6" class="s{colour}"'
        if hollow
        else f'fill="{PALETTE[colour]}" class="f{colour}"'
    )
    return f'<circle cx="{n(x)}" cy="{n(y)}" r="{n(radius)}" {look}>{inner}</circle>'


def bar(
    x: float,
    y: float,
    width: float,
    height: float,
    colour: int,
    *,
    opacity: float = 1,
    title: str = "",
) -> str:
    """A filled rectangle."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{n(x)}" y="{n(y)}" width="{n(max(width, 0))}" height="{n(height)}" '
        f'fill="{PALETTE[colour]}" fill-opacity="{n(opacity)}" class="f{colour}">{inner}</rect>'
    )


def image(x: float, y: float, side: float, uri: str, *, pixels: bool = False) -> str:
    """A picture, as a data URI, as large as fits into a square; ``pixels``: not smoothed."""
    how = ' image-rendering="pixelated"' if pixels else ""
    return (
        f'<image x="{n(x)}" y="{n(y)}" width="{n(side)}" height="{n(side)}" '
        f'href="{escape(uri)}"{how}/>'
    )


_SMALLEST = 0.74  # of its size, so that no text of a drawing is below 8 pixels


def drawing(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """The whole SVG; ``label`` is what a screen reader says. It shrinks with a narrow screen."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {n(width)} {n(height)}" '
        f'width="{n(width)}" height="{n(height)}" role="img" aria-label="{escape(label)}" '
        f'font-family="{escape(FONT)}" style="min-width:{n(_SMALLEST * width)}px">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def text_width(content: str, size: float = 12) -> float:
    """About how wide a text is drawn; generous, for margins."""
    # Han, kana, Hangul and the like are about as wide as they are high.
    return sum(size * (1.0 if ord(sign) > 0x2E7F else 0.62) for sign in content)


def clip_text(content: str, width: float, size: float = 12) -> str:
    """The text, cut with an ellipsis where it would not fit."""
    if text_width(content, size) <= width:
        return content
    while content and text_width(content + "…", size) > width:
        content = content[:-1]
    return content + "…"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between ``low`` and ``high``: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive values; over a wide range 1 alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e4 else (1,)
    values = [round(factor * 10.0**power, 12) for power in powers for factor in factors]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def tick_label(value: float) -> str:
    """A tick as short as it can be said: 0.5, 20, 1,500, 3e-05."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:g}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Frame:
    """A plotting area in pixels and the values at its edges."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool = False

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.log_x:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.left + (self.right - self.left) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def grid(self, x_label: str, y_label: str, about: int = 5) -> list[str]:
        """Both axes with ticks, grid lines and their names."""
        parts = []
        across = log_ticks(*self.x_range) if self.log_x else ticks(*self.x_range, about)
        for value in across:
            at = self.x(value)
            parts.append(line(at, self.top, at, self.bottom))
            parts.append(
                text(at, self.bottom + 16, tick_label(value), anchor="middle", size=11, css="faint")
            )
        for value in ticks(*self.y_range, about):
            at = self.y(value)
            parts.append(line(self.left, at, self.right, at))
            parts.append(
                text(self.left - 7, at + 4, tick_label(value), anchor="end", size=11, css="faint")
            )
        parts.append(line(self.left, self.bottom, self.right, self.bottom, css="axis"))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.bottom + 34, x_label, anchor="middle", css="faint"))
        if y_label:
            parts.append(text(self.left - 7, self.top - 9, y_label, anchor="start", css="faint"))
        return parts


def pad_range(
    values: Sequence[float], share: float = 0.08, least: float = 1e-9
) -> tuple[float, float]:
    """A range a little wider than the values, never empty."""
    low, high = min(values), max(values)
    pad = max((high - low) * share, least)
    return low - pad, high + pad
