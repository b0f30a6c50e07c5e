"""The last words of a run on the terminal: the banner and one small table."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from hgnetv2_pipeline.printable import Lines, lines, printable
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.comparison import (
    ArmSummary,
    Difference,
    compared_with,
    difference,
)


def banner_text(*, is_sample: bool) -> str | None:
    """What a reader must know before any figure; None for a user's own data."""
    if not is_sample:
        return None
    return (
        "EMBEDDED SAMPLE: small handwritten digits, a few minutes of training. These figures show "
        "that the whole chain works on this machine; they say nothing about ImageNet, nor about "
        "your own images."
    )


def summary_rows(summaries: Sequence[ArmSummary]) -> list[dict[str, str]]:
    """The honest table as short rows for a terminal."""
    splits = {arm.split for arm in summaries}
    accuracy = "top-1 %" if len(splits) > 1 else f"top-1 %, {min(splits)}"
    processor = next((arm.processor for arm in summaries if arm.processor), None)
    bases = {
        split: compared_with([arm for arm in summaries if arm.split == split]) for split in splits
    }
    rows = []
    for arm in summaries:
        base = bases[arm.split]
        gain = difference(arm, base) if base is not None and base is not arm else None
        low, high = formats.percent(min(arm.top1), arm.n), formats.percent(max(arm.top1), arm.n)
        rows.append(
            {
                "training": arm.label,
                **({"split": arm.split} if len(splits) > 1 else {}),
                "runs": str(len(arm.top1)),
                "steps": " / ".join(map(formats.count, arm.steps)) or "-",
                **({f"{processor} s": formats.count(arm.seconds)} if processor else {}),
                accuracy: formats.percent(arm.mean, arm.n),
                "min - max": f"{low} - {high}" if len(arm.top1) > 1 else "-",
                "gain": formats.points(gain.gain, arm.n) if gain else "-",
                "+/-": _margin(gain, arm.n) if gain else "-",
            }
        )
    return rows


def _margin(gain: Difference, n: int) -> str:
    return "?" if gain.margin is None else formats.percent(gain.margin, n)


def _width(text: str) -> int:
    """Columns a text takes on a terminal: East Asian wide signs take two, accents none."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def terminal_table(rows: Sequence[Mapping[str, object]]) -> Lines:
    """Rows as aligned plain text; columns are the keys of the first row, numbers to the right.

    >>> print(terminal_table([{"model": "b0", "top-1 %": "77.8"}]))
    model  top-1 %
    -----  -------
    b0        77.8
    """
    if not rows:
        return lines("(nothing to show)")
    columns = list(rows[0])
    cells = [[printable(row.get(name, "-")) for name in columns] for row in rows]
    widths = [
        max(_width(line[place]) for line in [columns, *cells]) for place in range(len(columns))
    ]
    right = [all(_is_number(line[place]) for line in cells) for place in range(len(columns))]

    def one(line: Sequence[str]) -> str:
        parts = []
        for text, width, to_right in zip(line, widths, right, strict=True):
            gap = " " * (width - _width(text))
            parts.append(gap + text if to_right else text + gap)
        return "  ".join(parts).rstrip()

    return lines(one(columns), one(["-" * width for width in widths]), *map(one, cells))


def _is_number(text: str) -> bool:
    return all(sign in "0123456789.,+-−– " for sign in text)
