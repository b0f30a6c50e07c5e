"""The learning rate against its closed form and PaddleClas, and what falls due when."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from train_recipes import recipe

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.training.schedule import Schedule, lr_at, plan_schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "paddle_training.json"


def test_learning_rates_equal_paddleclas_exactly() -> None:
    golden = json.loads(GOLDEN.read_text())
    base, total, warmup = golden["base_lr"], golden["steps"], golden["warmup_steps"]
    assert [lr_at(step, base, total, warmup) for step in range(total)] == golden["lr"]


def test_first_step_runs_at_zero_and_the_peak_comes_after_the_warm_up() -> None:
    rates = [lr_at(step, 0.5, 100, 10) for step in range(100)]
    assert rates[0] == 0
    assert max(rates) == rates[10] == 0.5
    assert rates[-1] == 0.25 * (1 + math.cos(math.pi * 89 / 90))


def test_without_warm_up_the_first_step_runs_at_the_peak() -> None:
    assert lr_at(0, 0.5, 100, 0) == 0.5


def test_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ParameterError, match="never come down"):
        lr_at(10, 0.5, 10, 10)
    short = recipe(epochs=None, steps=5, warmup_epochs=1.0, batch_size=10)
    with pytest.raises(ParameterError, match=r"10 steps .* the whole run has 5"):
        plan_schedule(short, images=100, world_size=1)


def test_rate_follows_the_global_batch() -> None:
    config = recipe(lr=0.5, lr_batch=1024, batch_size=128)
    assert plan_schedule(config, images=10_000, world_size=8).base_lr == 0.5
    assert plan_schedule(config, images=10_000, world_size=1).base_lr == 0.0625
    as_is = recipe(lr=0.5, lr_batch=None, batch_size=128)
    assert plan_schedule(as_is, images=10_000, world_size=1).base_lr == 0.5


def test_epochs_become_steps_over_all_processes() -> None:
    config = recipe(epochs=3.0, steps=None, batch_size=16, warmup_epochs=0.5, eval_every=1.0)
    schedule = plan_schedule(config, images=1000, world_size=2)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.eval_steps) == (94, 16, 31)
    assert [step for step in range(95) if schedule.evaluation_due(step)] == [31, 62, 93, 94]
    assert schedule.evaluations == 4


@pytest.mark.parametrize(("total", "every"), [(90, 30), (91, 30), (7, 30), (30, None)])
def test_number_of_evaluations_is_counted_as_they_fall_due(total: int, every: int | None) -> None:
    schedule = Schedule(0.1, total, 0, 30.0, every, 30)
    assert schedule.evaluations == sum(schedule.evaluation_due(s) for s in range(total + 1))


def test_history_has_a_row_an_epoch_and_not_one_a_step() -> None:
    schedule = Schedule(0.1, 40, 0, 0.6, None, 10)
    assert [step for step in range(41) if schedule.row_due(step)] == [10, 20, 30, 40]
