"""Prediction where only the packages of the extra ``predict`` are (docs/deployment.md)."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import hgnetv2_pipeline
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.predict import iter_predictions
from hgnetv2_pipeline.deployment.prediction_formats import format_predict_cls
from project_copies import ROOT

COMMAND = "from hgnetv2_pipeline.commands.main import main; main()"


def link(requirement: Requirement, packages: Path) -> None:
    """What a distribution installed, and all that it requires, linked into ``packages``."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    found = distribution(requirement.name)
    for file in found.files or ():
        top = file.parts[0]
        if top not in ("..", "__pycache__") and not (packages / top).exists():
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
    for line in found.requires or ():
        link(Requirement(line), packages)


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with this package and its extra ``predict`` alone."""
    folder = tmp_path_factory.mktemp("slim")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["predict"]
    assert set(extra) <= {*project["dependencies"]}
    for line in extra:
        link(Requirement(line), packages)
    (packages / "hgnetv2_pipeline").symlink_to(Path(hgnetv2_pipeline.__file__).parent)
    installed = {path.name for path in packages.iterdir()}
    assert not installed & {"torch", "kedro", "pandas", "pyarrow", "tqdm", "onnx", "scipy", "yaml"}
    return folder / "bin" / "python"


def typed(slim: Path, *words: object, code: int = 0) -> tuple[list[str], str]:
    """Lines of standard output, and the last one of standard error."""
    done = subprocess.run(
        [slim, "-c", COMMAND, *map(str, words)],
        capture_output=True, text=True, check=False, env={"PATH": ""},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout.splitlines(), ([""] + done.stderr.splitlines())[-1]


def test_prediction_answers_as_with_everything_installed(
    slim: Path, precisions: Path, pictures: Path
) -> None:
    lines, _ = typed(slim, "predict", "--model", precisions, pictures)
    with load_engine(precisions, "ort") as engine:
        expected = list(map(format_predict_cls, iter_predictions(engine, pictures)))
    assert lines == expected and len(lines) == 5
    rows, _ = typed(slim, "predict", "--model", precisions, "--format", "jsonl", pictures)
    assert [json.loads(row)["file_name"] for row in rows][0] == str(pictures / "a.jpg")


def test_on_a_terminal_it_needs_no_progress_bar(
    slim: Path, precisions: Path, pictures: Path
) -> None:
    """tqdm is not among the four packages."""
    ours, theirs = pty.openpty()
    words: Sequence[object] = ("predict", "--model", precisions, pictures)
    done = subprocess.run(
        [slim, "-c", COMMAND, *map(str, words)],
        stdout=subprocess.PIPE, stderr=theirs, check=False, env={"PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count(b"\n") == 5
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--features {new}/x.parquet", "--features needs pyarrow, .*pip install pyarrow"),
        ("--format parquet --out {new}/x.parquet", "needs pyarrow, .*pip install pyarrow"),
        ("--sheet {new}/x.png", "--sheet needs pandas, .*pip install pandas"),
        ("--engine openvino", "openvino is not installed .pip install openvino"),
        ("--engine torch", "torch is not installed .pip install torch"),
    ],
)
def test_what_needs_more_says_so_before_the_first_image(
    slim: Path, precisions: Path, pictures: Path, tmp_path: Path, words: str, said: str
) -> None:
    options = words.format(new=tmp_path).split()
    lines, error = typed(slim, "predict", "--model", precisions, *options, pictures, code=2)
    assert lines == []
    assert re.search(said, error), error


def test_another_command_names_what_is_not_installed(slim: Path, pictures: Path) -> None:
    _, error = typed(slim, "init", "mine", "--labelled", pictures, code=2)
    assert error == (
        "pandas is not installed here, which this needs: pip install pandas, or hgnetv2-pipeline "
        "with all that it depends on"
    )
    lines, _ = typed(slim, "engines")
    assert any(line.startswith("ort  ") and "not here" not in line for line in lines)
