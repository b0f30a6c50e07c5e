"""What one command makes is its own from before its first node until its end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.ownership import HeldError, lock_file, refuse_held, take
from hgnetv2_pipeline.project.claims import MADE_BY, Claims, claims
from hgnetv2_pipeline.project.identity import FOLDERS
from hgnetv2_pipeline.project.results import Reuse
from other_process import other, tree
from tiny_project import identity

PARAMS: dict[str, Any] = {
    "redo": [],
    "split": "val",
    "evaluation": {"engine": "ort", "precision": "fp32", "resize_short": None, "fast": False},
}
CHAIN = {
    "ingestion.make_lists": {"train.train", "evaluation.evaluate", "ingestion.report_lists"},
    "ingestion.report_lists": set(),
    "train.train": {"evaluation.evaluate"},
    "evaluation.evaluate": set(),
}
NAME = "val-ort-fp32"


def after(*nodes: str) -> Mapping[str, frozenset[str]]:
    return {node: frozenset(CHAIN[node] & set(nodes)) for node in nodes}


@pytest.fixture
def mine() -> Iterator[Claims]:
    made = Claims()
    yield made
    made.end()


def begin(mine: Claims, project: Path, *nodes: str, run: str = "seed=0", **params: Any) -> None:
    who = identity(project).model_copy(update={"run": run})
    mine.begin(after(*(nodes or CHAIN)), identity=who, params={**PARAMS, **params})


def locks(project: Path) -> list[str]:
    return sorted(path.relative_to(project).as_posix() for path in project.rglob(".*.lock"))


LISTS = "data/02_intermediate/.mine.lock"
TRAIN = "data/06_models/mine/train/b0/.seed=0.lock"
EVALUATION = f"data/08_reporting/mine/evaluation/train/b0/seed=0/.{NAME}.lock"
QUARANTINE = "data/08_reporting/mine/quarantine/.ingestion.lock"
PAGES = "data/08_reporting/mine/.ingestion.lock"


def finish(project: Path, *nodes: str) -> None:
    who = identity(project)
    for node in nodes:
        for made in MADE_BY[node]:
            name = made.sign.replace("*", NAME)
            write_json(who.folder(made.folder) / name, {"outputs": {}})


def test_every_node_says_what_it_makes() -> None:
    from hgnetv2_pipeline.pipeline_registry import register_pipelines

    nodes = {node.name for pipeline in register_pipelines().values() for node in pipeline.nodes}
    assert nodes == set(MADE_BY)
    assert {made.folder for results in MADE_BY.values() for made in results} <= set(FOLDERS)


def test_on_a_fresh_project_all_is_claimed_and_given_back(tmp_path: Path, mine: Claims) -> None:
    begin(mine, tmp_path)
    assert locks(tmp_path) == sorted([LISTS, TRAIN, EVALUATION, QUARANTINE, PAGES])
    mine.end()
    assert locks(tmp_path) == []


def test_what_is_finished_is_not_claimed_until_its_node_finds_that_it_does_not_stand(
    tmp_path: Path, mine: Claims
) -> None:
    finish(tmp_path, *CHAIN)
    begin(mine, tmp_path)
    assert locks(tmp_path) == []
    mine.before_making()
    assert locks(tmp_path) == [], "no node runs yet"
    mine.at("train.train")
    mine.before_making()
    mine.before_making()
    assert locks(tmp_path) == sorted([TRAIN, EVALUATION]), "with what follows from it"


def test_what_is_missing_or_to_be_redone_is_claimed_with_what_follows(
    tmp_path: Path, mine: Claims
) -> None:
    finish(tmp_path, "ingestion.make_lists", "ingestion.report_lists", "evaluation.evaluate")
    begin(mine, tmp_path)
    assert locks(tmp_path) == sorted([TRAIN, EVALUATION])
    finish(tmp_path, "train.train")
    begin(mine, tmp_path, redo=["evaluation"])
    assert locks(tmp_path) == [EVALUATION]
    begin(mine, tmp_path, redo=["all"])
    assert len(locks(tmp_path)) == 5


# Row C11 of docs/reliability.md.
@pytest.mark.parametrize(
    ("run", "refused"), [("seed=0", True), ("seed=0-b", False), ("seed", False)]
)
def test_a_run_of_that_name_is_refused_and_has_changed_nothing_others_go_on(
    tmp_path: Path, mine: Claims, run: str, refused: bool
) -> None:
    finish(tmp_path, "ingestion.make_lists", "ingestion.report_lists")
    before = tree(tmp_path)
    folder = identity(tmp_path).folder("train")
    nodes = [node for node in CHAIN if node != "evaluation.evaluate"]
    with other(f"held = ownership.take(Path({str(folder)!r}))") as first:
        if refused:
            with pytest.raises(HeldError, match=f"process {first.pid}"):
                begin(mine, tmp_path, *nodes, run=run)
        else:
            begin(mine, tmp_path, *nodes, run=run)
            assert locks(tmp_path) == sorted([TRAIN, TRAIN.replace("seed=0.", f"{run}.")])
    assert tree(tmp_path) == before


def test_reading_a_finished_run_goes_on_while_another_is_trained(
    tmp_path: Path, mine: Claims
) -> None:
    finish(tmp_path, *CHAIN)
    with other(f"held = ownership.take(Path({str(identity(tmp_path).folder('train'))!r}))"):
        begin(mine, tmp_path, "ingestion.make_lists", "evaluation.evaluate")


def test_a_lock_of_a_dead_command_goes_though_its_result_is_finished(
    tmp_path: Path, mine: Claims
) -> None:
    finish(tmp_path, *CHAIN)
    with other(
        f"""
        held = [ownership.take(Path({str(tmp_path)!r}, name).with_name(
                Path(name).name[1:-5])) for name in {[LISTS, TRAIN]!r}]
        """
    ) as killed:
        assert locks(tmp_path) == sorted([LISTS, TRAIN])
        killed.kill()
        killed.wait()
        begin(mine, tmp_path)
        assert locks(tmp_path) == []


def test_the_node_that_makes_a_result_claims_what_follows_before_it_changes_anything(
    tmp_path: Path,
) -> None:
    finish(tmp_path, *CHAIN)
    who = identity(tmp_path)

    def make(aside: Path) -> None:
        assert lock_file(who.folder("evaluation"), NAME).is_file()
        (aside / "x").write_text("x")

    try:
        claims.begin(after(*CHAIN), identity=who, params=PARAMS)
        claims.at("train.train")
        how: dict[str, Any] = {
            "pipeline": "train", "inputs": {}, "params": {}, "outputs": ["x"], "make": make,
        }  # fmt: skip
        before = tree(tmp_path / "data" / "06_models")
        held = f"held = ownership.take(Path({str(who.folder('evaluation'))!r}), {NAME!r})"
        with other(held), pytest.raises(HeldError):
            Reuse(tmp_path).produce(who.folder("train"), **how)
        assert tree(tmp_path / "data" / "06_models") == before
        Reuse(tmp_path).produce(who.folder("train"), **how)
        assert locks(tmp_path) == sorted([TRAIN, EVALUATION]), "until the command ends"
    finally:
        claims.end()
    assert locks(tmp_path) == []


def test_a_folder_that_may_only_be_read_needs_no_lock(tmp_path: Path, mine: Claims) -> None:
    finish(tmp_path, *CHAIN)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        begin(mine, tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_two_that_begin_at_once_do_not_both_begin(tmp_path: Path, mine: Claims) -> None:
    """All of the places or none: what was taken before the refusal is given back."""
    who = identity(tmp_path)
    with take(who.folder("lists")):  # this process's own does not stand in its way
        refuse_held([(who.folder("lists"), "")])
        begin(mine, tmp_path)
        mine.end()
    with other(f"held = ownership.take(Path({str(who.folder('train'))!r}))"):
        with pytest.raises(HeldError):
            begin(mine, tmp_path)
        assert locks(tmp_path) == [TRAIN]
    assert os.getpid()
