"""The arms of the comparison are comparable."""

from __future__ import annotations

import dataclasses

import pytest

from hgnetv2_pipeline.project.arms import at_equal_steps
from hgnetv2_pipeline.training.config import TrainConfig
from hgnetv2_pipeline.training.schedule import plan_schedule
from run_params import parameters


@pytest.mark.parametrize("environment", ["sample", "imagenet"])
@pytest.mark.parametrize("recipe", ["published", "short"])
def test_unmined_arm_takes_the_steps_of_the_mined_one(environment: str, recipe: str) -> None:
    stage1 = TrainConfig.model_validate(parameters(environment, recipe=recipe)["ssld_stage1"])
    mined, unmined = 5_281_167, 15_000_001
    ours = plan_schedule(stage1, images=mined, world_size=8)
    other = at_equal_steps(stage1, mined=mined, unmined=unmined)
    theirs = plan_schedule(other, images=unmined, world_size=8)
    assert dataclasses.replace(theirs, steps_per_epoch=0, row_steps=0) == dataclasses.replace(
        ours, steps_per_epoch=0, row_steps=0
    )


def test_short_protocol_is_thirty_epochs_and_one_more_run() -> None:
    short = parameters("imagenet", recipe="short")
    assert (short["ssld_stage1"]["epochs"], short["ssld_stage1"]["steps"]) == (30, None)
    seeds = {name: value for name, value in short["comparison"].items() if name != "jobs"}
    assert [name for name, value in seeds.items() if value] == ["unmined_seeds"]
