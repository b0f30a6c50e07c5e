"""The notebooks as they are committed, with outputs; and a run of each from top to bottom."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebook_runs import NOTEBOOKS, machine_traces, run_notebook, shown
from project_copies import copy_project

OURS = "hgnetv2_pipeline"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def by_name(path: Path) -> str:
    return path.stem


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_tour", "02_own_data", "03_deploy"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_a_notebook_is_short_and_begins_with_words(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 15
    assert notebook.cells[0].cell_type == "markdown"
    assert "make notebooks" in notebook.cells[0].source
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_its_outputs_are_those_of_one_run_without_errors_or_a_trace_of_the_machine(
    path: Path,
) -> None:
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell for cell in cells[1:] if not cell.outputs and "print" in cell.source] == []
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds and len(kinds) > 1
    assert "Traceback" not in "".join(map(shown, cells))
    assert list(machine_traces(notebook)) == []
    pictures = [out for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})]
    assert 1 <= len(pictures) <= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_what_it_imports_of_the_package_exists(path: Path) -> None:
    sources = [cell.source for cell in code_cells(read(path)) if not cell.source.startswith("%%")]
    for node in ast.walk(ast.parse("\n".join(sources))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                known = hasattr(module, name.name)
                assert known or importlib.import_module(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Import):
            for each in node.names:
                importlib.import_module(each.name)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("wrote /home/ann/project/conf", True),
        ("in /tmp/a/b.png", True),
        (r"C:\Users", True),
        ("'/data/x'", True),
        ("details: data/08_reporting/sample/logs", False),
        ("http://127.0.0.1:5000/#/experiments/1", False),
        ("1.5 step/s, 3/4 right", False),
    ],
)
def test_a_trace_of_a_machine_is_an_absolute_path(said: str, found: bool) -> None:
    output = nbformat.v4.new_output("stream", name="stdout", text=said)
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    assert bool(list(machine_traces(nbformat.v4.new_notebook(cells=[cell])))) == found


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each notebook prints, all run in one copy of the project, as ``make notebooks`` does."""
    project = copy_project(tmp_path_factory.mktemp("notebooks") / "project")
    found = {}
    for path in NOTEBOOKS:
        notebook = run_notebook(path, project)
        assert list(machine_traces(notebook)) == [], path.stem
        found[path.stem] = "".join(map(shown, notebook.cells))
    return found


@pytest.mark.slow
def test_the_tour_says_what_the_tables_say(printed: dict[str, str]) -> None:
    said = printed["01_tour"]
    assert "5,996,550" in said and "75,256,776" in said and "86.30" in said
    assert "[(1, 256, 28, 28), (1, 512, 14, 14), (1, 1024, 7, 7)]" in said
    assert float(re.findall(r"largest difference (\S+)", said)[0]) < 1e-4
    assert "mined: 600 of" in said and "of 400 right on test" in said


@pytest.mark.slow
def test_own_data_finds_wrong_answers_and_wrong_labels(printed: dict[str, str]) -> None:
    said = printed["02_own_data"]
    assert "found 600 labelled images of 10 classes" in said and "plan_only" in said
    assert "True" in said, "none of the surest mistakes is a planted one"
    caught, planted = map(int, re.findall(r"(\d+) of the (\d+) wrong labels are among", said)[0])
    assert caught > planted / 2


@pytest.mark.slow
def test_the_deployed_model_answers_alike_everywhere(printed: dict[str, str]) -> None:
    said = printed["03_deploy"]
    script, int8, package = re.findall(r"class id\(s\): \[(\d), .*?score\(s\): \[([\d.]+)", said)
    (alone,) = re.findall(r"\{'(\w+)': ([\d.]+)", said)
    ((server, score),) = re.findall(r'"class_ids":\[(\d),.*?"scores":\[([\d.]+)', said)
    assert script == package and script[0] == int8[0] == server
    assert (
        float(script[1]) == pytest.approx(float(alone[1])) == pytest.approx(float(score), abs=0.01)
    )
    assert "ms per batch" in said
