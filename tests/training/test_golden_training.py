"""Eight training steps in float64 against numbers measured by running PaddleClas itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from train_recipes import SGD, SSLD

from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.teacher.teacher import Member, Teacher
from hgnetv2_pipeline.training.config import LossConfig, OptimizerConfig
from hgnetv2_pipeline.training.objectives import (
    DistillationObjective,
    Objective,
    SupervisedObjective,
)
from hgnetv2_pipeline.training.optim import build_optimizer, param_groups, set_lr
from hgnetv2_pipeline.training.schedule import Schedule
from hgnetv2_pipeline.training.state import State
from hgnetv2_pipeline.training.step import Step
from hgnetv2_pipeline.weights.formula import formula_state

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "paddle_training.json").read_text())


def as_it_is(images: torch.Tensor) -> torch.Tensor:
    return images


def filled(variant: str) -> nn.Module:
    """A network in float64 with the weights of the golden values' formula."""
    model = create_model(variant, GOLDEN["classes"])
    names = {"_mean": "running_mean", "_variance": "running_var"}
    state = {}
    for key, value in formula_state(model).items():
        tensor = torch.from_numpy(value)
        stem, _, leaf = key.rpartition(".")
        state[f"{stem}.{names.get(leaf, leaf)}"] = tensor.t() if key == "fc.weight" else tensor
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return model.double()


@dataclass
class Fixed:
    """A batch of the golden data: float images that need no view."""

    images: torch.Tensor
    labels: torch.Tensor
    answers: None = None


def losses_of(student: nn.Module, objective: Objective) -> tuple[list[float], list[float]]:
    rng = np.random.RandomState(11)
    steps, batch = GOLDEN["steps"], GOLDEN["batch"]
    images = rng.normal(0, 1, (steps, batch, 3, 64, 64)).astype(np.float32).astype(np.float64)
    labels = rng.randint(0, 7, (steps, batch))
    groups = param_groups(student, GOLDEN["base_lr"], GOLDEN["l2"])
    optimizer = build_optimizer(groups, OptimizerConfig.model_validate(SGD))
    state = State(student.train(), optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
    step = Step(
        state,
        student,
        objective,
        device=torch.device("cpu"),
        world=World(0, 1, 0),
        amp="off",
        clip_norm=None,
        seed=0,
    )
    schedule = Schedule(GOLDEN["base_lr"], steps, GOLDEN["warmup_steps"], 1.0, None, 1)
    rates, found = [], []
    for index in range(steps):
        rates.append(set_lr(optimizer, index, schedule))
        fixed: Any = Fixed(torch.from_numpy(images[index]), torch.from_numpy(labels[index]))
        found.append(step(fixed).loss)
        state.step += 1
    return rates, found


def supervised() -> Objective:
    return SupervisedObjective(as_it_is, 0.1)


def distilled() -> Objective:
    teacher = Teacher([Member(filled("hgnet_tiny"), as_it_is)], bn="batch")
    return DistillationObjective(as_it_is, teacher, LossConfig.model_validate(SSLD))


@pytest.mark.parametrize(
    ("name", "variant", "objective"),
    [
        ("label_smoothing_0.1_PPHGNetV2_B0", "b0", supervised),
        ("label_smoothing_0.1_PPHGNetV2_B1", "b1", supervised),
        (
            "distilled_PPHGNet_tiny_to_PPHGNetV2_B0_teacher_batch_statistics",
            "b0",
            distilled,
        ),
    ],
)
def test_training_equals_paddleclas(
    name: str, variant: str, objective: Callable[[], Objective]
) -> None:
    rates, found = losses_of(filled(variant), objective())
    assert rates == GOLDEN["lr"]
    np.testing.assert_allclose(found[:6], GOLDEN[name]["loss"][:6], rtol=1e-5)
    # Rounding grows from step to step; what is left at the end still tells right from wrong.
    np.testing.assert_allclose(found, GOLDEN[name]["loss"], rtol=1e-3)
