"""Self-training as a result: who teaches afterwards, what is on record, and what makes it again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.pipelines.ingestion.nodes import make_lists, provide_raw
from hgnetv2_pipeline.pipelines.train_teacher.nodes import train_teacher
from hgnetv2_pipeline.project.params import DataParams, TeacherParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.teaching.probes import SelfTrained
from hgnetv2_pipeline.project.teaching.teacher import read_teacher
from own_tree import write_classes, write_pool
from run_params import parameters
from tiny_project import identity, run_of

POOL = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("own")
    write_classes(base / "labelled", ("ab", "cd"), per_class=10)
    write_pool(base / "pool", POOL)
    return base


def lists_of(run: Run, base: Path, *, pool: bool = True) -> Path:
    values = parameters("sample")["data"] | {
        "layout": "folders", "root": str(base / "labelled"), "test": None, "max_bad": 0.0,
        "pool": [str(base / "pool")] if pool else [], "min_per_class": 2,
    }  # fmt: skip
    values["split"] = values["split"] | {"val": 0.2, "test": 0.0}
    data = DataParams.model_validate(values)
    return make_lists(run, data, provide_raw(run, data))


def teacher(**given: Any) -> TeacherParams:
    values = parameters("sample")["train_teacher"] | {
        "members": 0, "source": [], "probes": ["simple"], "choose": "best",
        "self_training": {"rounds": 2, "images": 1000},
    }  # fmt: skip
    values["gate"] = {"action": "off", "baseline": "members"}
    return TeacherParams.model_validate(values | given)


def test_a_self_trained_probe_teaches_and_the_record_says_so(base: Path, tmp_path: Path) -> None:
    run = run_of(identity(tmp_path))
    lists = lists_of(run, base)
    folder = train_teacher(run, teacher(), lists)
    record = read_json(folder / "teacher.json")
    name = folder.relative_to(run.folder("models")).as_posix()
    assert record["members"] == [f"{name}/self_training/simple"]
    assert record["self_training"]["teaches"] is True
    assert record["self_training"]["pool_images"] == POOL
    assert 0 < record["self_training"]["learnt_from"] <= POOL
    assert set(record["candidates"]) == {f"{name}/probe=simple", f"{name}/self_training/simple"}
    assert "learnt from the pool as well" in record["candidates"][f"{name}/self_training/simple"]
    members = read_teacher(folder, run.identity).config.members
    assert all((run.identity.project / member).is_dir() for member in members)
    # The same again makes nothing; another number of rounds makes it again and keeps the old one.
    stamp = (folder / "self_training" / "self_training.json").stat().st_mtime_ns
    train_teacher(run, teacher(), lists)
    assert (folder / "self_training" / "self_training.json").stat().st_mtime_ns == stamp
    train_teacher(run, teacher(self_training={"rounds": 1, "images": 10}), lists)
    again = read_json(folder / "self_training" / "self_training.json")
    assert again["pool_images"] == 10
    assert list(folder.glob("archive/*"))


def test_all_candidates_teach_with_the_self_trained_in_place_of_the_probe(
    base: Path, tmp_path: Path
) -> None:
    run = run_of(identity(tmp_path))
    folder = train_teacher(run, teacher(choose="all"), lists_of(run, base))
    [member] = read_json(folder / "teacher.json")["members"]
    assert member.endswith("/self_training/simple")


@pytest.mark.parametrize("choose", ["best", "all"])
def test_a_self_training_that_makes_it_worse_is_on_record_and_does_not_teach(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choose: str
) -> None:
    from hgnetv2_pipeline.teacher.self_training import SelfTraining

    monkeypatch.setattr(SelfTraining, "helps", False)
    run = run_of(identity(tmp_path))
    folder = train_teacher(run, teacher(choose=choose), lists_of(run, base))
    record = read_json(folder / "teacher.json")
    [member] = record["members"]
    assert member.endswith("/probe=simple")
    assert record["self_training"]["teaches"] is False
    [why] = [text for name, text in record["candidates"].items() if "self_training" in name]
    assert why == "self-training made held-out images worse"


def test_without_a_pool_it_is_left_out_with_a_line(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(identity(tmp_path))
    with caplog.at_level(logging.INFO):
        folder = train_teacher(run, teacher(), lists_of(run, base, pool=False))
    assert "self-training is left out: there is no pool (data.pool)" in caplog.text
    assert not (folder / "self_training").exists()
    assert "self_training" not in read_json(folder / "teacher.json")


def test_without_rounds_the_record_is_that_of_before(base: Path, tmp_path: Path) -> None:
    run = run_of(identity(tmp_path))
    none = {"rounds": 0, "images": 1000}
    folder = train_teacher(run, teacher(self_training=none), lists_of(run, base))
    record = read_json(folder / "teacher.json")
    assert set(record) == {
        "members", "bn", "sha256", "val", "candidates", "candidates_top1_count",
    }  # fmt: skip
    assert SelfTrained([], {}).members == []
