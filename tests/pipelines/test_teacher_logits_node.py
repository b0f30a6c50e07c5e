"""The node that stores teacher logits: online it does nothing, stored it works once for all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.durable import write_json
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.pipelines.training.nodes import store_teacher_logits
from hgnetv2_pipeline.project.identity import resolve
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.training.runs import logits_store
from hgnetv2_pipeline.training.config import TrainConfig
from hgnetv2_pipeline.training.schedule import plan_schedule
from run_params import parameters
from tiny_project import run_of


@pytest.fixture
def project(tmp_path: Path) -> dict[str, Any]:
    """Six images of two classes on stage 1's list, and a teacher that learned nothing."""
    import numpy as np
    from PIL import Image

    from hgnetv2_pipeline.data import classmap, index
    from hgnetv2_pipeline.data.scan import folders
    from hgnetv2_pipeline.models import create
    from hgnetv2_pipeline.weights import load

    names = {"variant": "b0", "dataset": "d", "seed": 0, "teacher": "t", "download": False}
    identity = resolve(names, project=tmp_path, environment="sample")
    raw, lists = identity.folder("raw"), identity.folder("lists")
    rng = np.random.default_rng(0)
    for place in range(6):
        folder = raw / ("no", "yes")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{place}.png")
    scan = folders.scan_folder_tree(raw)
    index.write_index(identity.folder("mining") / "train_mined.parquet", scan.samples)
    index.write_index(lists / "index_train.parquet", scan.samples)
    classmap.write_class_map(lists / "class_map.txt", ["no", "yes"])
    weights = create.create_model("b0", 2).state_dict()
    load.save_weights(tmp_path / "teacher.safetensors", weights, {"variant": "b0"})
    record = {"members": ["teacher.safetensors"], "bn": "eval"}
    write_json(identity.folder("train_teacher") / "teacher.json", record)
    return {
        "run": run_of(identity),
        "config": TrainConfig.model_validate(parameters()["ssld_stage1"]),
        "lists": lists,
        "mined": identity.folder("mining"),
        "teacher": identity.folder("train_teacher"),
    }


def logits(**changes: Any) -> TeacherLogitsParams:
    small = {"views": 2, "batch_size": 4, "shard_images": 4, "source": "stored"}
    return TeacherLogitsParams.model_validate(parameters()["teacher_logits"] | small | changes)


def test_online_nothing_is_stored_and_the_log_says_so(
    project: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = store_teacher_logits(logits=logits(source="online"), **project)
    assert folder == project["run"].folder("teacher_logits")
    assert list(folder.iterdir()) == []
    assert "no teacher logits are stored" in caplog.text
    assert logits_store(project["run"], logits(source="online")) is None


def test_a_store_is_planned_made_reused_and_made_again_for_other_views(
    project: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = store_teacher_logits(logits=logits(), **project)
    assert "6 images, 2 views of each, 12 answers to make" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        "images.parquet", "made_by.json", "manifest.json", "shards", "store.json",
    ]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    # What changes speed alone, or only the source of other runs, leaves it as it is.
    store_teacher_logits(logits=logits(batch_size=2, check=0), **project)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    caplog.clear()
    store_teacher_logits(logits=logits(views=3), **project)
    assert "views 2 -> 3; the old result moves to" in caplog.text
    [old] = folder.parent.glob("archive/*/teacher_logits/store.json")
    assert old.read_text() != (folder / "store.json").read_text()


def test_the_fast_recipe_lies_between_the_environment_and_the_command_line() -> None:
    fast = parameters(recipe="fast")
    assert fast["teacher_logits"]["source"] == "stored"
    stage1 = fast["ssld_stage1"]
    assert (stage1["epochs"], stage1["steps"]) == (fast["teacher_logits"]["views"], None)
    # The images seen follow the list, and with it the pool: every stored view of each, once.
    recipe = TrainConfig.model_validate(parameters("imagenet", recipe="fast")["ssld_stage1"])
    for listed in (2_000_000, 5_000_000):
        planned = plan_schedule(recipe, images=listed, world_size=8)
        assert planned.total_steps * 8 * 128 == pytest.approx(60 * listed, abs=8 * 128)
    given = parameters("imagenet", recipe="fast", teacher_logits={"views": 90})
    assert given["ssld_stage1"]["epochs"] == 90
    given = parameters("imagenet", recipe="fast", ssld_stage1={"epochs": 30})
    assert given["ssld_stage1"]["epochs"] == 30
    with pytest.raises(ParameterError, match="unknown recipe 'quick'; choose one of published, fa"):
        parameters(recipe="quick")
