"""Mistakes of a user: one clear line that names the thing, the right exit code, nothing half-made.

Most run ``kedro run`` inside this process; one does by a process of its own, as a user's shell.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from own_tree import draw, write_classes
from project_copies import copy_project, quiet_environment, run_here

CLASSES = ("Äpfel", "birnen")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the environments ``mine`` (folders, no pool) and ``listed`` (list files)."""
    from kedro.framework.startup import bootstrap_project

    from hgnetv2_pipeline.commands.init import write_environment

    project = copy_project(tmp_path_factory.mktemp("bad") / "project")
    images = project / "my images"
    write_classes(images, CLASSES)
    write_environment(project, "mine", labelled=images, pool=None, test=None, variant=None)
    listed = project / "conf" / "listed"
    listed.mkdir()
    (listed / "globals.yml").write_text("dataset: listed\n")
    (listed / "parameters.yml").write_text(
        "data:\n  layout: imagenet\n  root: lists here\n  leaks: report\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        bootstrap_project(project)
        yield project


@pytest.fixture
def project(made: Path) -> Iterator[Path]:
    """The same with fresh images and lists and nothing made yet."""
    root = made / "lists here"
    for name in ("train", "val"):
        write_classes(root / name, CLASSES, per_class=4)
        lines = [
            f"{name}/{folder}/{number}.png {label}\n"
            for label, folder in enumerate(CLASSES)
            for number in range(4)
        ]
        (root / f"{name}_list.txt").write_text("".join(lines), encoding="utf-8")
    (root / "class_map.txt").write_text("0 Äpfel\n1 birnen\n", encoding="utf-8")
    shutil.copytree(made / "my images", made / "spare")
    yield made
    for name in ("lists here", "data", "empty"):
        shutil.rmtree(made / name, ignore_errors=True)
    shutil.rmtree(made / "my images")
    (made / "spare").rename(made / "my images")


def finished(project: Path) -> list[str]:
    """Files below data/ other than hashes, links and logs: results, whole or half."""
    return sorted(
        path.relative_to(project / "data").as_posix()
        for path in (project / "data").rglob("*")
        if path.is_file()
        and "01_raw" not in path.parts
        and ".hashes" not in path.name
        and path.suffix != ".log"
    )


MINE = ("--env", "mine", "--pipeline")
LISTED = ("--env", "listed", "--pipeline", "ingestion")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--params", "variant=b7"], 2,
         "unknown variant 'b7'; choose one of b0, b1, b2, b3, b4, b5, b6 .--params variant="),
        (["--params", "varient=b4"], 2, "'varient' .did you mean 'variant'"),
        (["--params", "ssld_stage1.lrr=1"], 2, "of ssld_stage1 'lrr' .did you mean 'lr'"),
        (["--params", "train.optimizer.momentm=1"], 2, "train.optimizer 'momentm'.*'momentum'"),
        (["--pipeline", "trian"], 2, "unknown pipeline 'trian' .did you mean 'train'"),
        (["--env", "mien"], 2, "unknown environment 'mien' .did you mean 'mine'.*hgnetv2 init"),
        (["--env", "own"], 2, "unknown environment 'own'"),
        ([*MINE, "__default__"], 3, "mines a pool and data.pool is empty.*conf/mine/param"),
        ([*MINE, "ssld_stage1"], 3, "pipeline ssld_stage1 mines a pool and data.pool is empty"),
        ([*MINE, "finetune", "--params", "finetune.init=ssld_stage1/b0/seed=0"], 3, "data.pool is"),
        ([*MINE, "train", "--params", "data.root=nowhere"], 3,
         "data.root: nowhere does not exist .conf/mine/parameters.yml or --params data.root"),
        ([*MINE, "mining", "--params", "data.pool=nowhere"], 3, "data.pool: nowhere does not exis"),
        ([*MINE, "mining", "--params", "data.pool=empty"], 3,
         "data.pool: .*0 images found.*expected jpg"),
    ],
)  # fmt: skip
def test_it_is_told_before_anything_is_made(
    project: Path, arguments: list[str], code: int, said: str
) -> None:
    (project / "empty").mkdir()
    found = run_here(*arguments)
    assert found[0] == code, found
    assert re.search(said, found[1]), found[1]
    assert finished(project) == []


def cut(root: Path) -> None:
    path = root / "train" / "birnen" / "1.png"
    path.write_bytes(path.read_bytes()[:100])


def relabel(root: Path) -> None:
    path = root / "train_list.txt"
    path.write_text(path.read_text("utf-8").replace("birnen/3.png 1", "birnen/3.png 7"), "utf-8")


# Every kind of bad list: tests/pipelines/test_ingestion_nodes.py, without Kedro around the nodes.
def test_an_unreadable_image_stops_ingestion_and_leaves_no_lists(project: Path) -> None:
    cut(project / "lists here")
    code, line = run_here(*LISTED)
    assert code == 3, line
    said = r"1 of 8 images cannot be used, 0 may.*birnen/1\.png: .*raise data\.max_bad"
    assert re.search(said, line), line
    assert finished(project) == []


def test_a_failure_leaves_the_finished_lists_in_use(project: Path) -> None:
    assert run_here(*LISTED)[0] == 0
    before = finished(project)
    assert "02_intermediate/listed/train_list.txt" in before
    relabel(project / "lists here")
    assert run_here(*LISTED)[0] == 3
    assert finished(project) == before


def test_a_class_with_one_image_cannot_be_split(project: Path) -> None:
    lone = project / "my images" / "lone"
    lone.mkdir()
    draw(2, np.random.default_rng(1)).save(lone / "1.png")
    code, line = run_here(*MINE, "ingestion", "--params", "data.min_per_class=1")
    assert code == 3
    assert re.search("class 'lone' has one image and cannot be split.*data.min_per_class", line)
    assert finished(project) == []
    # With the template's min_per_class it is refused, said so, and the rest goes on.
    assert run_here(*MINE, "ingestion")[0] == 0
    kept = (project / "data/02_intermediate/mine/class_map.txt").read_text("utf-8")
    assert kept == "0 birnen\n1 Äpfel\n"
    refused = (project / "data/02_intermediate/mine/quarantine.csv").read_text("utf-8")
    assert "3 are needed (data.min_per_class)" in refused


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("train/b0/seed=3", 4, "no finished run 'train/b0/seed=3' of dataset mine; there are: non"),
        ("b4.ssld_stage2", 4, "b4.ssld_stage2 are not here: put PPHGNetV2_B4_ssld_pretrained.pdpa"),
        ("b4.ssld_stage3", 2, "unknown model 'b4.ssld_stage3' .did you mean 'b4.ssld_stage2'"),
        ("../x/y", 2, "model '../x/y' is no run id"),
    ],
)
def test_a_model_that_is_not_there(project: Path, model: str, code: int, said: str) -> None:
    found = run_here(*MINE, "export", "--params", f"model={model},download=false")
    assert found[0] == code, found
    assert re.search(said, found[1]), found[1]
    assert not [name for name in finished(project) if name.startswith("07_")]


def test_weights_to_fine_tune_from_need_no_pool(project: Path) -> None:
    code, line = run_here(*MINE, "finetune", "--params", "download=false")
    assert code == 4
    assert re.search("b0.ssld_stage1 are not here: put PPHGNetV2_B0_ssld_stage1", line)


def test_without_a_pool_one_trains_evaluates_and_exports(project: Path) -> None:
    short = "train.epochs=2,train.threads=1"
    model = "model=train/b0/seed=0"
    assert run_here(*MINE, "train", "--params", short) == (0, "")
    assert run_here(*MINE, "evaluation", "--params", model) == (0, "")
    resized = f"{model},evaluation.resize_short=72,evaluation.fast=true"
    assert run_here(*MINE, "evaluation", "--params", resized) == (0, "")
    assert run_here(*MINE, "export", "--params", model) == (0, "")
    made = finished(project)
    assert "08_reporting/mine/evaluation/train/b0/seed=0/test-torch-fp32.json" in made
    results = project / "data/08_reporting/mine/evaluation/train/b0/seed=0"
    other_size = json.loads((results / "test-torch-fp32-resize=72-fast.json").read_text())
    assert other_size["preprocess"]["resize_short"] == 72
    assert other_size["exact"] is False
    assert "07_model_output/mine/train/b0/seed=0/model.onnx" in made
    # A plan of another recipe leaves the finished run in its place.
    other = f"{short},train.lr=0.1,plan_only=true"
    assert run_here(*MINE, "train", "--params", other)[0] == 0
    assert finished(project) == made


def test_in_a_shell_the_error_stream_has_one_line_and_no_traceback(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", *MINE, "ingestion", "--params",
         "data.min_per_class=99"],
        cwd=project, env=quiet_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stderr + done.stdout
    # Log lines start with a time; what is left is the answer.
    lines = [x for x in done.stderr.splitlines() if x and not re.match(r"\d\d:\d\d:\d\d ", x)]
    assert len(lines) == 1, done.stderr
    assert "every class has fewer than 99 images (data.min_per_class)" in lines[0]
    assert "ERROR" not in done.stderr
