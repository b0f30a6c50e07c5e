"""Whole commands beside each other, and killed ones: the first stays whole, the next finishes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hgnetv2_pipeline.commands.init import write_environment
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw
from hgnetv2_pipeline.project.params import DataParams
from hgnetv2_pipeline.project.run import Run
from killed_chain import held, kill_again_and_again, left, results, started
from other_process import other, tree
from own_tree import write_classes, write_pool
from project_copies import copy_project, kedro, run_here
from run_params import loader

SECONDS = 900
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, nothing is written there
TRAIN = ("--env", "tiny", "--pipeline", "train", "--params")
SHORT = (
    "mlflow=false,train.epochs=2,train.warmup_epochs=0,train.threads=1,train.workers=1,"
    "train.eval_every=1"
)
CHAIN = (
    "mlflow=false,train_teacher.recipe.epochs=2,train_teacher.recipe.warmup_epochs=0,"
    "train_teacher.recipe.threads=1,train_teacher.jobs=2,ssld_stage1.epochs=2,"
    "ssld_stage1.warmup_epochs=0,ssld_stage1.workers=1,ssld_stage2.epochs=1,mining.processes=2,"
    "mining.shard_rows=8,latency.warmup=1,latency.runs=2"
)


@dataclass(frozen=True)
class Place:
    """Folders of a user, and projects whose environment ``tiny`` is about them."""

    base: Path

    def project(self, name: str) -> Path:
        project = copy_project(self.base / name)
        write_environment(
            project, "tiny", labelled=self.base / "labelled", pool=self.base / "pool", test=None,
            variant=None,
        )  # fmt: skip
        return project


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("runs")
    write_classes(base / "labelled", ("ab", "cd"), per_class=10)
    write_pool(base / "pool", 16)
    return Place(base)


# Beside another command.


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    from kedro.framework.startup import bootstrap_project

    project = place.project("here")
    monkeypatch.chdir(project)
    bootstrap_project(project)
    yield project
    shutil.rmtree(project)


def test_a_run_of_the_same_name_is_refused_before_its_first_node_from_another_clone(
    here: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the run makes the folder; what else differs does not matter."""
    clone = place.project("clone")
    (clone / "data").symlink_to(here / "data")
    run = here / "data" / "06_models" / "tiny" / "train" / "b0" / "lr"
    with other(f"held = ownership.take(Path({str(run)!r}))") as first:
        before = tree(here)
        monkeypatch.chdir(clone)
        code, line = run_here(*TRAIN, f"run=lr,train.lr=0.5,{SHORT.partition(',')[2]}")
        assert code == 2
        assert f"/train/b0/lr: process {first.pid} on " in line
        assert tree(here) == before, "nothing was written, not even the lists"
        assert not (clone / "mlflow.db").exists()
        assert len(held(here)) == 1


def test_an_ingestion_that_is_killed_is_finished_by_the_next_one(
    here: Path, tmp_path: Path
) -> None:
    arguments = ("--env", "tiny", "--pipeline", "ingestion", "--params")
    process = started(here, *arguments, "mlflow=false")
    deadline = time.monotonic() + SECONDS
    lists = here / "data" / "02_intermediate"
    while not list(lists.glob(".partial-tiny-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert held(here), "killed while it held them"
    assert run_here(*arguments, "")[0] == 0
    assert left(here) == []
    # Undisturbed, elsewhere.
    params = loader("tiny", here / "conf")["parameters"]
    told = params["this_run"]
    run = Run.model_validate({**told, "identity": {**told["identity"], "project": tmp_path}})
    data = DataParams.model_validate(params["data"])
    expected = make_lists(run, data, provide_raw(run, data))
    assert tree(lists / "tiny") == tree(expected)


@dataclass(frozen=True)
class Undisturbed:
    """The results of a command that nothing disturbed, and how long it held its claims."""

    results: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> Undisturbed:
    project = place.project("undisturbed")
    process, begun = started(project, *TRAIN, f"{SHORT},run=lr"), 0.0
    while process.poll() is None:
        begun = begun or (time.monotonic() if held(project) else 0.0)
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert begun, said
    return Undisturbed(results(project), seconds)


# Row C11 of docs/reliability.md.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "clone"),
    [
        ("run=lr,train.lr=0.5", False),
        ("run=lr", False),
        ("run=lr-2", False),
        ("run=l", False),
        ("run=lr", True),
        ("run=lr,train.lr=0.5", True),
    ],
)
def test_the_first_finishes_as_if_alone_and_the_second_has_changed_nothing(
    place: Place, undisturbed: Undisturbed, tmp_path: Path, second: str, clone: bool
) -> None:
    project = copy_project(tmp_path / "project")
    shutil.copytree(place.project(tmp_path.name) / "conf", project / "conf", dirs_exist_ok=True)
    (tmp_path / "shared").mkdir()
    (project / "data").symlink_to(tmp_path / "shared")
    beside = project
    if clone:
        beside = copy_project(tmp_path / "clone")
        shutil.copytree(project / "conf", beside / "conf", dirs_exist_ok=True)
        (beside / "data").symlink_to(tmp_path / "shared")
    first = started(project, *TRAIN, f"{SHORT},run=lr")
    deadline = time.monotonic() + SECONDS
    while not held(project) and time.monotonic() < deadline:
        time.sleep(0.01)
    # Stopped at a random moment, so that what changes now is the second one's doing.
    time.sleep(random.uniform(0, undisturbed.seconds / 2))  # noqa: S311
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert held(project), "it ended before the second began"
        before = tree(tmp_path / "shared")
        done = kedro(beside, "run", *TRAIN, f"{SHORT.partition(',')[2]},{second}", check=False)
        assert tree(tmp_path / "shared") == before
        assert not (beside / "mlflow.db").exists()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert done.returncode == 2, done.stdout
    assert f"process {first.pid} on " in done.stdout
    assert "Completed node" not in done.stdout
    said = first.communicate(timeout=SECONDS)[0]
    assert first.returncode == 0, said
    assert results(project) == undisturbed.results
    assert left(project) == []


@pytest.mark.slow
def test_of_two_that_start_at_the_same_moment_one_finishes_as_if_alone(
    place: Place, undisturbed: Undisturbed
) -> None:
    for attempt in range(3):
        project = place.project(f"same moment {attempt}")
        both = [started(project, *TRAIN, f"{SHORT},run=lr") for _ in range(2)]
        said = [one.communicate(timeout=SECONDS)[0] for one in both]
        assert sorted(one.returncode for one in both) == [0, 2], said
        assert results(project) == undisturbed.results
        assert left(project) == []


@pytest.mark.slow
def test_runs_of_other_names_go_on_side_by_side_once_the_lists_are_there(place: Place) -> None:
    project = place.project("side by side")
    kedro(project, "run", "--env", "tiny", "--pipeline", "ingestion", "--params", "mlflow=false")
    both = [started(project, *TRAIN, f"{SHORT},run={name}") for name in ("lr", "lr-2")]
    said = [one.communicate(timeout=SECONDS)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    runs = project / "data" / "06_models" / "tiny" / "train" / "b0"
    assert (runs / "lr" / "history.csv").read_bytes() == (
        runs / "lr-2" / "history.csv"
    ).read_bytes()
    assert left(project) == []


# Killed.


@pytest.fixture(scope="module")
def whole(place: Place) -> tuple[dict[str, bytes], dict[str, float]]:
    """The results of an undisturbed chain; and the seconds of each node."""
    project = place.project("whole")
    process = started(project, "--env", "tiny", "--params", CHAIN)
    seconds, lines, before = {}, [], time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "Completed node: " in line:
            now = time.monotonic()
            seconds[line.split("Completed node: ")[1].strip()] = now - before
            before = now
    assert process.wait() == 0, "".join(lines)
    assert left(project) == []
    return results(project), seconds


@pytest.mark.slow
@pytest.mark.parametrize("kills", [30])
def test_a_chain_that_is_killed_again_and_again_ends_as_the_undisturbed_one(
    place: Place, whole: tuple[dict[str, bytes], dict[str, float]], kills: int
) -> None:
    """Kill -9 of the command at random moments, inside every stage; what it had started ends.

    Five such kills are among the tests of one's own data, which have an undisturbed chain anyway.
    """
    expected, seconds = whole
    project = place.project(f"killed {kills}")
    memory = sorted(SHARED_MEMORY.iterdir())
    seed = random.randrange(10**9)
    inside = kill_again_and_again(
        project, "--env", "tiny", "--params", CHAIN, seconds=seconds, kills=kills, seed=seed
    )
    done = kedro(project, "run", "--env", "tiny", "--params", CHAIN)
    found = results(project)
    assert {n: found.get(n) for n in expected if "archive" not in n} == expected, f"seed {seed}"
    assert left(project) == [], done.stdout
    assert not list((project / "data").rglob("archive")), "nothing unfinished was archived"
    assert sorted(SHARED_MEMORY.iterdir()) == memory
    assert len(inside) >= kills - 3, (inside, f"seed {seed}")
    again = kedro(project, "run", "--env", "tiny", "--params", CHAIN)
    assert results(project) == found, again.stdout
