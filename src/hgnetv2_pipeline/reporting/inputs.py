"""The paths that a report takes (``project/report_files``), and the ledger of what was read."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.printable import csv_value

_log = logging.getLogger(__name__)


class AbsentError(DataError):
    """A file the report would read was not given, is not there or cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Paths of everything a report may show; each may be None, empty or not there yet.

    ``model`` is the one that is evaluated, exported and timed.
    ``comparable`` says that the evaluated images are ImageNet-1k's validation set, so that
    measured and published accuracies are the same quantity. ``root`` is the folder against which
    paths are shown; ``run_command`` is how this project is run (``kedro run --env NAME``), used
    where the page says how to make what is missing. ``home`` is the folder where the report
    will be in the end: links to other pages start there. ``revision`` and ``versions`` are printed
    as given, nothing is looked up.
    """

    dataset: str
    model: str = ""
    is_sample: bool = False
    comparable: bool = False
    run_command: str = "kedro run"
    root: Path | None = None
    home: Path | None = None
    revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    dataset_summary: Path | None = None
    mining_audit: Path | None = None
    mining_classes: Path | None = None
    mining_page: Path | None = None
    mining_sheets: tuple[Path, ...] = ()
    mining_purity: Path | None = None
    comparison: Path | None = None
    histories: Mapping[str, Path] = field(default_factory=dict)  # run id -> history.csv
    results: Mapping[str, Path] = field(default_factory=dict)  # run id -> result.json of it
    views: Mapping[str, Path] = field(default_factory=dict)  # run id -> views.png
    evaluations: tuple[Path, ...] = ()
    error_analyses: tuple[Path, ...] = ()
    exports: tuple[Path, ...] = ()
    latencies: tuple[Path, ...] = ()
    tensorrt: tuple[Path, ...] = ()  # results that a kit's run.py wrote on a target machine
    predictions: Path | None = None
    prediction_sheet: Path | None = None
    own: Mapping[str, Path] = field(default_factory=dict)  # what a chapter asks for in build.OWN


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: what for, as which path, with which content, of which run."""

    used_for: str
    shown: str
    sha256: str
    run: str


class FileLedger:
    """Reads files and remembers each once, in the order of reading."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root.resolve() if root else None
        self._sources: dict[Path, SourceFile] = {}

    @property
    def sources(self) -> list[SourceFile]:
        """What was read so far."""
        return list(self._sources.values())

    def shown(self, path: Path) -> str:
        """The path below the root; of a file elsewhere only the name, to stay machine-free."""
        resolved = path.resolve()
        if self._root is not None and resolved.is_relative_to(self._root):
            return resolved.relative_to(self._root).as_posix()
        return path.name

    def existing(self, path: Path | None, what: str, run: str = "") -> Path:
        """Note ``path`` as a source.

        Raises:
            AbsentError: it was not given or is no file.
        """
        if path is None:
            raise AbsentError(f"{what}: not made yet, no file was given to the report")
        if not path.is_file():
            raise AbsentError(f"{what}: {self.shown(path)} does not exist")
        if path not in self._sources:
            self._sources[path] = SourceFile(what, self.shown(path), sha256_file(path), run)
        return path

    def read_json(self, path: Path | None, what: str) -> dict[str, Any]:
        """A JSON object; the run it names (``model`` or ``run``) goes into the ledger.

        Raises:
            AbsentError: the file is missing, no JSON, or not an object.
        """
        found = self.existing(path, what)
        try:
            value = json.loads(found.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._unreadable(found, what, str(error)) from error
        if not isinstance(value, dict):
            raise self._unreadable(found, what, f"a JSON {type(value).__name__}, not an object")
        source = self._sources[found]
        run = str(value.get("model") or value.get("run") or source.run)
        self._sources[found] = SourceFile(source.used_for, source.shown, source.sha256, run)
        return value

    def read_csv(self, path: Path | None, what: str, run: str = "") -> list[dict[str, str]]:
        """The rows of a CSV file with a header.

        Raises:
            AbsentError: the file is missing, not text, or has no row.
        """
        found = self.existing(path, what, run)
        try:
            with found.open(encoding="utf-8", newline="") as file:
                rows = [
                    {name: csv_value(cell or "") for name, cell in row.items() if name is not None}
                    for row in csv.DictReader(file)
                ]
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(found, what, str(error)) from error
        if not rows:
            raise self._unreadable(found, what, "no rows")
        return rows

    def read_jsonl(self, path: Path | None, what: str, first: int) -> tuple[list[Any], int]:
        """The ``first`` records of a JSON-lines file and the number of all of them.

        Raises:
            AbsentError: the file is missing or a line of it is no JSON object.
        """
        found = self.existing(path, what)
        records: list[Any] = []
        total = 0
        try:
            with found.open(encoding="utf-8") as file:
                for line in file:
                    if not line.strip():
                        continue
                    total += 1
                    if total <= first:
                        records.append(json.loads(line))
        except (OSError, ValueError) as error:
            raise self._unreadable(found, what, f"line {total}: {error}") from error
        if not all(isinstance(record, dict) for record in records):
            raise self._unreadable(found, what, "a line is not a JSON object")
        return records, total

    def _unreadable(self, path: Path, what: str, reason: str) -> AbsentError:
        error = AbsentError(f"{what}: {self.shown(path)} cannot be read: {reason}")
        _log.warning("%s", error)
        return error
