"""What all chapters share: how one is made or replaced by what is missing, and its sources.

Each chapter takes the inputs and the ledger and gives blocks. What is missing raises
``AbsentError``, what does not add up another ``DataError``; ``section`` turns either into a
sentence on the page, so that one bad file never takes the rest of the report with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.reporting import comparison as compare
from hgnetv2_pipeline.reporting import formats
from hgnetv2_pipeline.reporting.blocks import (
    Block,
    Fold,
    Notice,
    Section,
    Table,
    Text,
)
from hgnetv2_pipeline.reporting.inputs import AbsentError, FileLedger, ReportInputs

Json = Mapping[str, Any]
# What a JSON of another shape than its writer's contract raises when it is read.
MISSHAPEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_log = logging.getLogger(__name__)


def section(
    title: str, anchor: str, command: str | None, build: Callable[[], Sequence[Block]]
) -> Section:
    """The chapter, or in its place what is missing and the ``command`` that makes it."""
    try:
        blocks = tuple(build())
    except AbsentError as error:
        said = str(error)
        blocks = (Notice(said[:1].upper() + said[1:], command),)
    except DataError as error:
        _log.warning("report, %s: %s", title, error)
        blocks = (Notice(f"Not shown, because it does not add up: {error}", kind="warning"),)
    except MISSHAPEN as error:
        _log.warning("report, %s: %r", title, error, exc_info=True)
        said = f"Not shown: a file of this chapter has an unexpected form ({error!r})"
        blocks = (Notice(said, command, kind="warning"),)
    return Section(title, anchor, blocks)


def read_all(
    paths: Sequence[Path], what: str, ledger: FileLedger
) -> tuple[list[Json], list[Block]]:
    """The readable ones of several JSON files, and a warning for each other.

    Raises:
        AbsentError: none was given, or none can be read.
    """
    if not paths:
        raise AbsentError(f"{what}: none was given to the report")
    found: list[Json] = []
    troubles: list[Block] = []
    for path in sorted(paths):
        try:
            found.append(ledger.read_json(path, what))
        except AbsentError as error:
            troubles.append(Notice(str(error), kind="warning"))
    if not found:
        raise AbsentError("; ".join(b.text for b in troubles if isinstance(b, Notice)))
    return found, troubles


def preferred(results: Sequence[Json], model: str, what: str) -> Json:
    """Of several results about ``model`` the one to show: of the final test where there is one, in
    PyTorch and float32, since others differ by what an engine rounds.

    Raises:
        AbsentError: there is none about this model.
    """
    ours = [result for result in results if result.get("model") == model]
    if not ours:
        raise AbsentError(f"{what} of {model}: not made yet")
    return min(ours, key=lambda one: (one["split"] != "test", one["engine"] != "torch"))


def read_comparison(
    inputs: ReportInputs, ledger: FileLedger
) -> tuple[list[Json], list[compare.ArmSummary]]:
    """The rows of the comparison file and their summaries; the errors of both."""
    value = ledger.read_json(inputs.comparison, "comparison of trainings")
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows:
        raise AbsentError("comparison of trainings: the file has no rows")
    return rows, compare.summarise_arms(rows, value.get("pairs") or ())


def busy_notice(load: float | None, processors: Any, then: str, command: str) -> Notice | None:
    """A warning where more work than ``processors`` ran before a timing; ``then``: what of it."""
    known = formats.number(processors)
    if load is None or known is None or load <= known:
        return None
    return Notice(
        f"Other work was running while the models were timed (load {load:.1f} on {known:.0f} "
        f"processors): {then}. Times of a quiet machine",
        command,
        kind="warning",
    )


def provenance_blocks(inputs: ReportInputs, ledger: FileLedger) -> list[Block]:
    """Which file each chapter was read from, with its hash; revision and versions as given."""
    blocks: list[Block] = []
    if inputs.revision:
        blocks.append(Text(f"Revision of the code: {inputs.revision}."))
    if inputs.versions:
        rows = tuple((name, inputs.versions[name]) for name in sorted(inputs.versions))
        blocks.append(Table(("package", "version"), rows, "Versions", ("package", "version")))
    sources = sorted(ledger.sources, key=lambda source: (source.used_for, source.shown))
    if not sources:
        raise AbsentError("no file was read")
    files = Table(
        ("used for", "file", "run", "SHA-256"),
        tuple(
            (source.used_for, source.shown, source.run or formats.NOTHING, source.sha256)
            for source in sources
        ),
        "Every measured number above was read from one of these files; sha256sum checks them",
        left=("used for",),
        code=("file", "run", "SHA-256"),
    )
    read = f"The {len(sources)} files that were read, with their SHA-256"
    blocks.append(Fold(read, (files,), printed=False))
    return blocks
