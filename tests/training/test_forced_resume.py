"""Going on under another configuration: refused unless forced, and then on record."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from train_recipes import ADAMW, SGD

from hgnetv2_pipeline.errors import Interrupted, ParameterError
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import STUDENT, train_run

Job = Callable[..., RunSpec]
FORCE = {"resume": "force"}


@pytest.fixture
def stopped(job: Job, sigterm_in: Callable[[int], None]) -> Callable[..., RunSpec]:
    """``stopped(lr=...)``: the job of a run that was stopped after 3 of 6 steps, changed so."""

    def stop(**changes: Any) -> RunSpec:
        sigterm_in(2)
        with pytest.raises(Interrupted):
            train_run(job("run"))
        sigterm_in(-1)
        spec = changes.pop("spec", {})
        return job("run", spec=FORCE | spec, **changes)

    return stop


# Row C08 of docs/reliability.md.
def test_forced_resume_goes_on_under_the_new_recipe_and_says_so(
    stopped: Callable[..., RunSpec], caplog: pytest.LogCaptureFixture
) -> None:
    decay = {**SGD, "weight_decay": 0.5}
    spec = stopped(lr=0.02, optimizer=decay, ema_decay=0.5, steps=8)
    with pytest.raises(ParameterError, match=r"training\.lr 0\.01 -> 0\.02.*resume=force"):
        train_run(spec.model_copy(update={"resume": "exact"}))
    with caplog.at_level(logging.WARNING):
        result = train_run(spec)
    changed = [
        "training.ema_decay None -> 0.5",
        "training.lr 0.01 -> 0.02",
        "training.optimizer.weight_decay 2e-05 -> 0.5",
        "training.steps 6 -> 8",
    ]
    assert json.loads((spec.out / "result.json").read_text())["forced_resumes"] == [
        {"step": 3, "changed": changed}
    ]
    assert "from step 3 on under another configuration (training.ema_decay" in caplog.text
    assert result.metrics["steps"] == 8
    [newest] = (spec.out / "checkpoints").glob("step=*8")
    groups = torch.load(newest / "optimizer.pt", weights_only=True)["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}
    # Later checkpoints are of the new configuration: resumed exactly, and the record stays.
    (spec.out / STUDENT).unlink()
    again = train_run(spec.model_copy(update={"resume": "exact"}))
    assert again.metrics["forced_resumes"] == [{"step": 3, "changed": changed}]


def test_forced_without_a_difference_is_an_exact_resume(
    stopped: Callable[..., RunSpec], job: Job
) -> None:
    forced = train_run(stopped())
    assert forced.metrics["forced_resumes"] == []
    assert forced.student.read_bytes() == train_run(job("straight")).student.read_bytes()


def test_best_weights_of_another_val_list_do_not_count(
    job: Job, sigterm_in: Callable[[int], None], pictures: Path, tmp_path: Path
) -> None:
    sigterm_in(4)
    with pytest.raises(Interrupted):
        train_run(job("run", eval_every=1.0))
    sigterm_in(-1)
    pd.read_parquet(pictures / "val.parquet").iloc[:7].to_parquet(tmp_path / "val.parquet")
    other = {"val": tmp_path / "val.parquet"}
    result = train_run(job("run", eval_every=1.0, spec=FORCE | other))
    assert result.metrics["val"]["n"] == 7
    assert result.metrics["best_step"] == 6


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        ({"optimizer": ADAMW}, {}, r"step 3 does not fit this run .*another rule"),
        ({}, {"num_classes": 3, "classes": ["red", "blue", "green"]}, "classes, optimizer.name"),
        ({"steps": 2}, {}, "is at step 3, but the run now has 2"),
        ({"batch_size": 4}, {}, "so far were of 8 images, .* of 4: .* keep .* at 8"),
    ],
)
def test_what_cannot_change_on_the_way_is_refused_even_so(
    stopped: Callable[..., RunSpec], changes: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    changed = stopped(spec=spec, **changes)
    with pytest.raises(ParameterError, match=message):
        train_run(changed)
    assert [path.name for path in (changed.out / "checkpoints").glob("step=*")] == ["step=00000003"]
