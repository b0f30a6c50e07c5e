"""The project's ``conf/logging.yml``, wherever in the project, or outside of it, a run starts."""

from __future__ import annotations

import os
from pathlib import Path

from kedro.framework.project import LOGGING, configure_logging
from kedro.utils import find_kedro_project


def use_project_logging(conf_source: str | None = None) -> None:
    """Log as ``logging.yml`` of ``conf_source`` says; of the project's conf/ for None.

    Kedro itself looks in the current folder alone, so that a run from a subfolder, a notebook's
    kernel or a packaged project would log as Kedro does by default. ``KEDRO_LOGGING_CONFIG`` goes
    before; without a file all stays as it is.
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


def _read(conf_source: str) -> str | None:
    from hgnetv2_pipeline.project.config_loader import open_configuration

    files, root = open_configuration(conf_source)
    path = f"{root}/logging.yml"
    return files.read_text(path, encoding="utf-8") if files.isfile(path) else None
