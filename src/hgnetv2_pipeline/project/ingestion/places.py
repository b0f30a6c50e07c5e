"""Keys and messages in the user's terms: below the one root of a dataset, by parameter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hgnetv2_pipeline.errors import DataError

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.scan.folders import Scan


@contextmanager
def name_parameter(key: str) -> Iterator[None]:
    """Name the parameter that an error is about: paths show links in the project, not its value."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data.{key}: {error}") from error


def relative_to_raw(raw: Path, root: Path, scan: Scan) -> Scan:
    """``scan`` of ``root`` with keys and paths relative to ``raw``."""
    prefix = root.relative_to(raw).as_posix() + "/"
    samples = scan.samples.assign(
        key=prefix + scan.samples["key"], path=prefix + scan.samples["path"]
    )
    phash = scan.phash
    if phash is not None:
        phash = phash.set_axis(prefix + phash.index.astype(str))
    return replace(
        scan,
        samples=samples,
        phash=phash,
        quarantined=scan.quarantined.assign(key=prefix + scan.quarantined["key"].astype(str)),
        refused=scan.refused.assign(key=prefix + scan.refused["key"].astype(str)),
    )
