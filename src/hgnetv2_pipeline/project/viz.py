"""Kedro-Viz of this project: it asks nobody on the network, and opens on one screen of stages.

Viz starts its server, and its build, in a process of its own. What is changed here must be changed
there, so the functions that those processes call are replaced by ours (``use_ours``), which change
it first.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline
from kedro_viz import server
from kedro_viz.launchers.cli import utils

# As they are before ``use_ours``, in whichever process.
_serve, _build = server.run_server, utils._load_and_deploy_viz
# Fonts that the page of Viz would fetch from elsewhere.
_FOREIGN = re.compile(r'\s*<link[^>]*href="https?://[^>]*>')
# Nothing but the server itself may be asked, whatever a library within the page would like. Stages
# without what is between them are one screen; the filter "Datasets" shows the rest.
_HEAD = """<meta http-equiv="Content-Security-Policy"
 content="default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:">
<script>
if (!location.search) history.replaceState(null, "", "?types=nodes");
if (!localStorage.getItem("KedroViz"))
  localStorage.setItem("KedroViz", JSON.stringify({showFeatureHints: false}));
</script>
"""


def use_ours() -> None:
    """Have ``kedro viz`` start its processes with ours; nothing is looked up in this one either."""
    _name_no_newer_version()
    server.run_server = serve_viz
    utils._load_and_deploy_viz = build_viz


def serve_viz(**options: Any) -> None:
    """Kedro-Viz's server, as this project has it."""
    _adapt()
    _serve(**options)


def build_viz(*options: Any) -> None:
    """Kedro-Viz's static site, as this project has it."""
    _adapt()
    _build(*options)


def _adapt() -> None:
    """Change Kedro-Viz in the process that serves or builds."""
    _name_no_newer_version()
    from kedro_viz.api import apps
    from kedro_viz.data_access import data_access_manager
    from kedro_viz.integrations.deployment import base_deployer

    # Where page and assets are read from: the same, but for the page.
    apps._HTML_DIR = base_deployer._HTML_DIR = _offline_page(apps._HTML_DIR)
    data_access_manager.modular_pipelines.default_factory = _stages()


def _name_no_newer_version() -> None:
    """Viz asks the package index for its newest version at every start and in every page."""
    import kedro_viz
    from kedro_viz.integrations import pypi
    from packaging.version import parse

    pypi.get_latest_version = lambda: parse(kedro_viz.__version__)


def _offline_page(html: Path) -> Path:
    """A folder as ``html``, whose page fetches nothing from elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="kedro-viz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for entry in html.iterdir():
        (folder / entry.name).symlink_to(entry)
    page = folder / "index.html"
    text = _FOREIGN.sub("", page.read_text(encoding="utf-8"))
    page.unlink()
    page.write_text(text.replace("<head>", f"<head>\n{_HEAD}", 1), encoding="utf-8")
    return folder


def _stages() -> type:
    """Viz's tree of stages, in which what no other stage reads stays inside the one that made it.

    Viz would draw all of it beside the stages, ten times as wide as high.
    """
    from kedro_viz.data_access.repositories import ModularPipelinesRepository

    class Stages(ModularPipelinesRepository):  # type: ignore[misc]
        def populate_tree(self, pipeline: Pipeline) -> None:
            self._read = {name for node in pipeline.nodes for name in node.inputs}
            super().populate_tree(pipeline)

        def _add_outputs(self, modular_pipeline_id: str, outputs: Set[str]) -> None:
            super()._add_outputs(modular_pipeline_id, outputs & self._read)

    return Stages
