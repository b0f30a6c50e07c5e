"""A training run with a frozen stem, first stages and batch norms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_recipes import make_job

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.load import export_weights, read_metadata
from hgnetv2_pipeline.weights.metadata import padding_of

FROZEN = {"freeze_at": 2, "freeze_norm": True, "lr": 0.05, "steps": 3}


@pytest.fixture(scope="module")
def start(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from."""
    return train_run(make_job(pictures, tmp_path_factory.mktemp("start"), "run", steps=3)).student


def is_frozen(name: str) -> bool:
    return name.startswith(("stem.", "stages.0.")) or name.split(".")[-2] == "bn"


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_student_keeps_what_is_frozen(
    ema: float | None,
    start: Path,
    job: Callable[..., RunSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        result = train_run(job("frozen", init=str(start), ema_decay=ema, **FROZEN))
    before, after = load_file(start), load_file(result.student)
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if is_frozen(name)}
    assert "frozen: the first 2 of stem and stages and all BN" in caplog.text
    assert "stages.1 weights" in caplog.text and "stages.0 weights" not in caplog.text


def test_a_border_of_zeros_stays_with_the_weights_that_are_trained_from_it(
    start: Path, job: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """W4 of the findings about weights: from a file of another program to the trained one."""
    model, info = build_from(str(start), num_classes=None, root=tmp_path)
    zero = create_model(info["variant"], model.num_classes, pool_padding="zero")
    zero.load_state_dict(model.state_dict())
    export_weights(zero, tmp_path / "timm.pth", "timm")
    init = f"{tmp_path / 'timm.pth'}@pool_padding=zero"
    student = train_run(job("bordered", init=init, steps=1, head="reinit")).student
    assert read_metadata(student)["pool_padding"] == "zero"
    assert "pool_padding" not in read_metadata(start)
    trained, _ = build_from(str(student), num_classes=None, root=tmp_path)
    assert padding_of(trained) == "zero"


def test_a_frozen_run_resumes_to_the_same_weights(
    start: Path, job: Callable[..., RunSpec], sigterm_in: Callable[[int], None]
) -> None:
    straight = train_run(job("straight", init=str(start), **FROZEN))
    stopped = job("stopped", init=str(start), **FROZEN)
    sigterm_in(1)
    with pytest.raises(Interrupted):
        train_run(stopped)
    assert train_run(stopped).student.read_bytes() == straight.student.read_bytes()
