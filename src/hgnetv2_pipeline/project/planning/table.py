"""The table of a plan: a row a part of the chain, and their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hgnetv2_pipeline.printable import Lines, lines
from hgnetv2_pipeline.progress import duration

if TYPE_CHECKING:
    from hgnetv2_pipeline.training.plan import Plan


@dataclass(frozen=True)
class Row:
    """One part of the chain; ``waiting``: the share of its time spent waiting for images."""

    part: str
    state: str
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    waiting: float | None = None
    disk: int = 0
    memory: int = 0
    shared_memory: str = ""


def row_of(part: str, plan: Plan, *, times: int = 1, copies: int = 1) -> Row:
    """``copies`` trainings of one ``plan``, one after another ``times`` times."""
    return Row(
        part,
        "to do",
        images=plan.images,
        steps=plan.steps * copies,
        seconds=plan.seconds * times,
        waiting=plan.loader_share,
        disk=plan.disk_bytes * copies,
        memory=plan.memory_bytes,
        shared_memory=plan.shared_memory,
    )


def as_text(rows: Sequence[Row], assumed: Sequence[str], free: int, slow: Sequence[str]) -> Lines:
    """The table, the disk that is free, what was assumed, and what is ``slow`` on this machine."""
    from hgnetv2_pipeline.reporting.terminal import terminal_table

    disk = sum(row.disk for row in rows)
    total = Row(
        "all that is timed",
        "",
        steps=sum(row.steps for row in rows),
        seconds=sum(row.seconds for row in rows),
        disk=disk,
        memory=max((row.memory for row in rows), default=0),
    )
    return lines(
        "what is to be done, projected from a few steps of each part on this machine:",
        terminal_table([_cells(row) for row in [*rows, total]]),
        "waiting: the share of the time spent waiting for images",
        f"disk free: {_bytes(free)}" + ("; IT IS NOT ENOUGH" if disk > free else ""),
        *(
            f"NOT ENOUGH SHARED MEMORY: {what}"
            for what in dict.fromkeys(row.shared_memory for row in rows if row.shared_memory)
        ),
        *(f"assumed: {what}" for what in assumed),
        *(f"slow here: {what}" for what in slow),
    )


def _cells(row: Row) -> dict[str, str]:
    return {
        "part": row.part,
        "state": row.state,
        "images": f"{row.images:,}" if row.images else "",
        "steps": f"{row.steps:,}" if row.steps else "",
        "time": duration(row.seconds) if row.seconds else "",
        "waiting": f"{row.waiting:.0%}" if row.waiting is not None else "",
        "disk": _bytes(row.disk) if row.disk else "",
        "memory": _bytes(row.memory) if row.memory else "",
    }


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
