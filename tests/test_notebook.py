"""The tour runs from top to bottom in a folder of its own, with this Python and no network."""

from __future__ import annotations

import re
import sys
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import default

from project_copies import ROOT, copy_project

TOUR = ROOT / "notebooks" / "01_tour.ipynb"


class _ThisPython(KernelSpecManager):
    """Whatever kernels a user has installed under the name python3, the one meant is this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class _Manager(AsyncKernelManager):
    @default("kernel_spec_manager")
    def _this_python(self) -> KernelSpecManager:
        return _ThisPython()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each code cell of the tour printed, run in a copy of the project without results."""
    base = tmp_path_factory.mktemp("tour")
    project = copy_project(base / "project")
    notebook = nbformat.read(TOUR, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "TMPDIR"):
            (base / name).mkdir()
            patch.setenv(name, str(base / name))
        patch.setenv("PYTHONPATH", str(project / "src"))
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # a download would fail at once
        NotebookClient(
            notebook,
            kernel_manager_class=_Manager,
            timeout=120,
            resources={"metadata": {"path": str(project)}},
        ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(_text(output) for output in cell.outputs) for cell in cells]


def _text(output: Any) -> str:
    # Log lines go to stderr; what a cell says goes to stdout.
    return str(output["text"]) if output.get("name") == "stdout" else ""


def test_the_tour_runs_and_says_what_the_tables_say(printed: list[str]) -> None:
    _, table, maps, batch, weights, folded, onnx, results, rows = printed
    assert "5,996,550" in table and "75,256,776" in table and "86.30" in table
    assert "[(1, 256, 28, 28), (1, 512, 14, 14), (1, 1024, 7, 7)]" in maps
    assert "(1, 3, 224, 224) float32" in batch
    assert "names of paddle" in weights and "does not fit b1" in weights
    assert float(re.findall(r"difference (\S+) of", folded)[0]) < 1e-4
    assert onnx.startswith("ort: ") and "picture.png" in onnx
    assert "nothing yet; kedro run makes the sample" in results
    assert rows == ""


def test_no_output_is_committed() -> None:
    for cell in nbformat.read(TOUR, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_code_cell_has_words_before_it() -> None:
    kinds = [cell.cell_type for cell in nbformat.read(TOUR, as_version=4).cells]
    assert 10 <= len(kinds) <= 18
    assert kinds[0] == "markdown"
    assert TOUR.stat().st_size < 20_000
