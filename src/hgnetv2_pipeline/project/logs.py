"""Where a run's log goes: few lines to the terminal, all of them to a file of its own."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from logging.handlers import MemoryHandler
from pathlib import Path

from kedro.framework.project import LOGGING, configure_logging
from kedro.utils import find_kedro_project

from hgnetv2_pipeline.progress import SHOWN, TerminalHandler
from hgnetv2_pipeline.project.results import BEGINS

_log = logging.getLogger(__name__)


def use_project_logging(conf_source: str | None = None, *, verbose: bool | None = None) -> None:
    """Log as ``logging.yml`` of ``conf_source`` says; of the project's conf/ for None.

    Kedro itself looks in the current folder alone, so that a run from a subfolder, a notebook's
    kernel or a packaged project would log as Kedro does by default. ``KEDRO_LOGGING_CONFIG`` goes
    before; without a file all stays as it is. ``verbose``: whether the terminal shows details;
    None leaves that as it is.
    """
    if os.environ.get("KEDRO_LOGGING_CONFIG"):
        return
    import yaml

    if conf_source is None:
        project = find_kedro_project(Path.cwd())
        if project is None:
            return
        conf_source = str(project / "conf")
    text = _read(conf_source)
    if text is None:
        return
    wanted = yaml.safe_load(text)
    # Set up again, handlers of this process that were added since would be lost.
    if any(LOGGING.get(part) != wanted.get(part) for part in ("formatters", "handlers", "root")):
        configure_logging(wanted)
    for handler in logging.getLogger().handlers[:]:
        if type(handler) is logging.StreamHandler:
            _take_over(handler)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, TerminalHandler) and verbose is not None:
            handler.verbose = verbose
            handler.setLevel(logging.INFO if verbose else SHOWN)


def _take_over(console: logging.StreamHandler) -> None:  # type: ignore[type-arg]
    """Our handler in the place of ``logging.yml``'s, which Kedro sets up before it can import
    anything of this package."""
    ours = TerminalHandler(console.stream)
    ours.setLevel(console.level)
    ours.setFormatter(console.formatter)
    logging.getLogger().removeHandler(console)
    logging.getLogger().addHandler(ours)


def _read(conf_source: str) -> str | None:
    from hgnetv2_pipeline.project.config_loader import open_configuration

    files, root = open_configuration(conf_source)
    path = f"{root}/logging.yml"
    return files.read_text(path, encoding="utf-8") if files.isfile(path) else None


class RunLog(MemoryHandler):
    """All records of a run, in a file that is written from the moment when a result is begun or
    something is warned of: a run that finds all as it should be leaves no file.

    ``folder``: where it goes, by date and process. ``when_begun`` is called whenever a result is
    about to be made.
    """

    def __init__(self, folder: Path, project: Path, when_begun: Callable[[], None]) -> None:
        super().__init__(capacity=10_000, flushOnClose=False)
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}.log"
        self._path, self._project = folder / name, project
        self._closed = False
        self._when_begun = when_begun

    def emit(self, record: logging.LogRecord) -> None:
        """Keep or write the record."""
        super().emit(record)
        if getattr(record, BEGINS, False):
            self._when_begun()

    def shouldFlush(self, record: logging.LogRecord) -> bool:  # noqa: N802 - logging's name
        """Once the file is open, at every record."""
        return (
            self.target is not None
            or record.levelno >= logging.WARNING
            or getattr(record, BEGINS, False)
        )

    def flush(self) -> None:
        """Write what waits; the first time, open the file and say where it is."""
        if self._closed:
            return
        new = self.target is None
        if new:
            self.setTarget(_File(self._path))
        super().flush()
        if new and self._path.is_file():
            _log.log(SHOWN, "details: %s", self._path.relative_to(self._project))

    def close(self) -> None:
        """Close the file, and take no records any more."""
        self._closed = True
        logging.getLogger().removeHandler(self)
        if self.target is not None:
            self.target.close()
        super().close()


class _File(logging.FileHandler):
    """A log file; where it cannot be written the run goes on without it, and says so once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        self._lost = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        if self._lost:
            return
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)
        except OSError as error:
            self._give_up(error)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """What the library's ``emit`` caught."""
        self._give_up(sys.exc_info()[1])

    def _give_up(self, error: BaseException | None) -> None:
        self._lost = True
        _log.warning("the log cannot be written, and the run goes on without it: %s", error)
