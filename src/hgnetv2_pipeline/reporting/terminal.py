"""The last words of a run on the terminal: the banner and one small table."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from hgnetv2_pipeline.printable import Lines, lines, printable
from hgnetv2_pipeline.progress import columns
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


def terminal_table(rows: Sequence[Mapping[str, object]], width: int | None = None) -> Lines:
    """Rows as aligned plain text; columns are the keys of the first row, numbers to the right.

    Columns without any text are left out. ``width``: columns of the terminal, by default those of
    this one; where the table is wider, the widest texts are broken between words.

    >>> print(terminal_table([{"model": "b0", "top-1 %": "77.8"}]))
    model  top-1 %
    -----  -------
    b0        77.8
    """
    if not rows:
        return lines("(nothing to show)")
    cells = [[printable(row.get(name, "-")) for name in rows[0]] for row in rows]
    shown = [place for place in range(len(rows[0])) if any(row[place] for row in cells)]
    table = [[row[place] for place in shown] for row in [list(rows[0]), *cells]]
    right = [all(_is_number(row[place]) for row in table[1:]) for place in range(len(shown))]
    widths = [max(_width(row[place]) for row in table) for place in range(len(shown))]
    over = sum(widths) + 2 * (len(widths) - 1) - (width or columns())
    for place in sorted(range(len(shown)), key=lambda place: -widths[place]):
        amounts = all(row[place][:1].isdigit() or not row[place] for row in table[1:])
        if over > 0 and not right[place] and not amounts:  # "11 min 4 s" is one word
            words = [_width(word) for row in table for word in row[place].split()]
            narrower = max(widths[place] - over, *words)
            over -= widths[place] - narrower
            widths[place] = narrower
    table.insert(1, ["-" * width for width in widths])

    def one(parts: Sequence[str]) -> str:
        found = []
        for text, width, to_right in zip(parts, widths, right, strict=True):
            gap = " " * (width - _width(text))
            found.append(gap + text if to_right else text + gap)
        return "  ".join(found).rstrip()

    broken = ([_broken(text, width) for text, width in zip(row, widths, strict=True)]
              for row in table)  # fmt: skip
    return lines(*(one(parts) for row in broken for parts in zip_longest(*row, fillvalue="")))


def _broken(text: str, width: int) -> list[str]:
    """``text`` between words in lines of at most ``width`` columns; a longer word stays whole."""
    found = [""]
    for word in text.split() if _width(text) > width else [text]:
        if found[-1] and _width(found[-1]) + 1 + _width(word) > width:
            found.append(word)
        else:
            found[-1] = f"{found[-1]} {word}" if found[-1] else word
    return found


def _is_number(text: str) -> bool:
    return all(sign in "0123456789.,+-−– " for sign in text)
