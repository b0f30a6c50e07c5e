"""What a training starts from, named by ``init``: a run, a file, and what is said behind it; and
what is refused before it starts.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.identity import Identity, resolve
from hgnetv2_pipeline.project.imported_weights import import_result
from hgnetv2_pipeline.project.models import check_model, model_source, weights_input
from hgnetv2_pipeline.project.params import ImportParams
from hgnetv2_pipeline.project.training.runs import _found_start, train_missing, train_student
from hgnetv2_pipeline.training.config import RunSpec, TrainConfig
from run_params import parameters


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    names = {"variant": "b0", "dataset": "d", "seed": 0, "teacher": "t", "download": False}
    (tmp_path / "my").mkdir()
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "my" / "best.pth.tar")
    return resolve(names, project=tmp_path, environment="sample")


@pytest.mark.parametrize("said", ["", "@key=state_dict@pool_padding=zero"])
def test_a_file_below_the_project_is_found_so_that_its_contents_count(said, identity):
    """Named relative to the project it was no input: with other contents the result was reused."""
    config = TrainConfig.model_validate(parameters()["finetune"])
    spec = f"my/best.pth.tar{said}"
    found = _found_start(identity, config.model_copy(update={"init": spec}))
    file = identity.project / "my" / "best.pth.tar"
    assert found.init == f"{file}{said}"
    assert model_source(identity, spec) == spec
    assert weights_input(identity, spec) == file
    check_model(identity, spec, made=())


@pytest.mark.parametrize("said", ["", "@pool_padding=exclude"])
def test_a_run_is_found_with_what_is_said_behind_it(said, identity):
    folder = identity.run_folder("train/b0/seed=0")
    folder.mkdir(parents=True)
    config = TrainConfig.model_validate(parameters()["finetune"])
    found = _found_start(identity, config.model_copy(update={"init": f"train/b0/seed=0{said}"}))
    assert found.init == f"{folder}{said}"
    for init in ("scratch", "b0.ssld_stage9"):
        kept = config.model_copy(update={"init": init})
        assert _found_start(identity, kept) == kept


@pytest.mark.parametrize(
    ("said", "more"),
    [({}, {}), ({"key": "ema", "pool_padding": "zero"}, {"key": "ema", "pool_padding": "zero"})],
)
def test_imported_weights_are_known_by_what_was_said_and_by_nothing_else(said, more, identity):
    """What was imported before there was a key to say is not imported again."""
    params = ImportParams.model_validate(parameters(import_weights=said)["import_weights"])
    run: Any = SimpleNamespace(identity=identity, folder=identity.folder)
    spec = import_result(run, params, "my/best.pth.tar", Path("best.pth.tar"), None)
    assert spec.params == {
        "variant": "b0", "weights": "my/best.pth.tar", "classes": None, "part": "student",
        "sha256": None, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"amp": "fp16"}, "training.amp 'fp16' needs a GPU"),
        ({"steps": 10, "epochs": None, "warmup_epochs": 2.0, "batch_size": 8}, "the whole run has"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_an_earlier_result_is_touched(
    changed, said, tmp_path
):
    """It went to the archive first, and its successor was refused then."""
    index = tmp_path / "train.parquet"
    pq.write_table(pa.table({"key": [str(n) for n in range(80)]}), index)
    config = TrainConfig.model_validate(parameters()["train"]).model_copy(update=changed)
    spec = RunSpec.model_construct(config=config, device="cpu", train=index)
    untouched: Any = SimpleNamespace(
        distributed=SimpleNamespace(processes=lambda device: 1), device="cpu", reuse=None
    )
    with pytest.raises(ParameterError, match=said):
        train_student(untouched, spec, None)
    with pytest.raises(ParameterError, match=said):
        train_missing(untouched, [(spec, None)], jobs=1, folder=tmp_path, announce=len)
