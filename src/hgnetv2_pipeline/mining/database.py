"""DuckDB within a stated memory: what does not fit goes to a folder that is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.ownership import scratch

if TYPE_CHECKING:
    import duckdb


@contextmanager
def database(threads: int = 1, memory_limit: str = "1GB") -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that spills to disk beyond ``memory_limit``."""
    import duckdb

    with (
        scratch("mining") as spill,
        duckdb.connect(
            config={"threads": threads, "memory_limit": memory_limit, "temp_directory": str(spill)}
        ) as base,
    ):
        base.execute("set enable_progress_bar = false")
        yield base


def quoted(path: Path) -> str:
    """A path as a string of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
