"""Run the notebooks from top to bottom in a copy of the project, and keep what they print.

    python tests/notebook_runs.py            make notebooks: all, in their order
    python tests/notebook_runs.py 01 03      some

They share the copy: 03 exports what 01 trained. On two quiet cores it takes about six minutes.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import default

from project_copies import ROOT, copy_project, quiet_environment

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_LIMIT = 3600  # seconds a cell may take: only a hang reaches it
# A path from the root of a file system; not the end of a URL or of a relative path.
_PATH = re.compile(r"(?<![\w.:/<~#-])/[A-Za-z][\w.+-]*/|\b[A-Z]:\\")


class _ThisPython(KernelSpecManager):
    """Whatever kernels a user has installed under the name python3, the one meant is this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class _Manager(AsyncKernelManager):
    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return _ThisPython()


def run_notebook(path: Path, project: Path) -> nbformat.NotebookNode:
    """The notebook ``path`` with the outputs it has when it is run in ``project``.

    Raises ``CellExecutionError`` where a cell fails, a command in it included.
    """
    notebook = nbformat.read(path, as_version=4)
    base = project.parent
    own = {
        name: str(base / name)
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "TMPDIR")
    }
    for folder in own.values():
        Path(folder).mkdir(exist_ok=True)
    known = quiet_environment(**own)
    known["PYTHONPATH"] = os.pathsep.join([str(project / "src"), known["PYTHONPATH"]])
    with mock.patch.dict(os.environ, known, clear=True):
        NotebookClient(
            notebook,
            kernel_manager_class=_Manager,
            timeout=_LIMIT,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(project)}},
        ).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def shown(cell: nbformat.NotebookNode) -> str:
    """The text of the outputs of a cell, both streams and results."""
    found = []
    for output in cell.get("outputs", ()):
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "".join(found)


def machine_traces(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """What outputs say of the machine they were made on: absolute paths, its name, its user's."""
    names = {socket.gethostname(), getpass.getuser()} - {"root", "localhost"}
    for cell in notebook.cells:
        text = shown(cell)
        yield from (text[max(0, at.start() - 40) : at.end() + 40] for at in _PATH.finditer(text))
        yield from (name for name in names if re.search(rf"\b{re.escape(name)}\b", text))


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="hgnetv2-notebooks-") as folder:
        project = copy_project(Path(folder) / "project")
        for path in NOTEBOOKS:
            if wanted and not path.name.startswith(tuple(wanted)):
                continue
            done = run_notebook(path, project)
            if traces := list(machine_traces(done)):
                sys.exit(f"{path.name} shows what is of this machine: {traces[0]}")
            nbformat.write(done, path)
            sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
