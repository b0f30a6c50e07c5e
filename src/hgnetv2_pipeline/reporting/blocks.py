"""What a report is made of, before it becomes HTML or Markdown. Text in here is never escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Short statements, one per line."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A sentence with a link to a file beside the page; ``href`` is a relative path."""

    before: str
    text: str
    href: str
    after: str = ""


@dataclass(frozen=True)
class Notice:
    """Something the reader must know: a hole and the command that fills it, or a warning."""

    text: str
    command: str | None = None
    kind: str = "missing"  # or 'warning'


@dataclass(frozen=True)
class Table:
    """A table of finished strings; ``left`` names the columns that are words, not numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    left: tuple[str, ...] = ()
    code: tuple[str, ...] = ()  # columns of hashes, paths and ids

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise AssertionError(f"a row does not fit the columns {self.columns}")

    def records(self) -> list[dict[str, str]]:
        """The rows as dicts by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """One or more drawings of ours (SVG text) under one caption."""

    drawings: tuple[str, ...]
    caption: str

    @property
    def svg(self) -> str:
        """All drawings, one after the other."""
        return "\n".join(self.drawings)


@dataclass(frozen=True)
class Picture:
    """An embedded image."""

    data_uri: str
    caption: str
    file: str


@dataclass(frozen=True)
class Cards:
    """The few figures to see first: (value, what it is, what it is based on)."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class KeyFigures:
    """What a reader asks first: (question, answer, what it is, what it is based on)."""

    items: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Steps:
    """What to do next, the most urgent first: (why, the command that does it)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fold:
    """Details that a reader may close; on paper they are open, or said to be left out."""

    title: str
    blocks: tuple[Block, ...]
    open: bool = False
    printed: bool = True


Block: TypeAlias = (
    Text | Link | Bullets | Notice | Table | Figure | Picture | Cards | KeyFigures | Steps | Fold
)


@dataclass(frozen=True)
class Section:
    """A chapter with its own anchor."""

    title: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole page."""

    title: str
    subtitle: str
    banner: str | None
    head: tuple[Block, ...]
    sections: tuple[Section, ...]


def table_of(
    records: Sequence[Mapping[str, str]],
    columns: Sequence[str],
    *,
    caption: str = "",
    left: Sequence[str] = (),
    code: Sequence[str] = (),
    drop_empty: Sequence[str] = (),
) -> Table:
    """A table from dicts; a column of ``drop_empty`` goes where no row says anything in it."""
    kept = [
        name
        for name in columns
        if name not in drop_empty or any(row.get(name, "–") not in ("", "–") for row in records)
    ]
    return Table(
        columns=tuple(kept),
        rows=tuple(tuple(row.get(name, "–") for name in kept) for row in records),
        caption=caption,
        left=tuple(left),
        code=tuple(code),
    )
