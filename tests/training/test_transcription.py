"""Whole steps against an independent transcription: plain loops over tensors, nothing of ours.

Weight decay is a thousand times the published one, so that a wrong group would be seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from train_recipes import SGD, SSLD

from hgnetv2_pipeline.input.batches import Batch
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

CLASSES, BATCH, STEPS, WARMUP = 5, 6, 8, 3
LR, DECAY, MOMENTUM, SMOOTHING = 0.2, 0.02, 0.9, 0.1
STAGES = [0.2, 0.4, 0.6, 0.8, 1.0]
MEAN = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(1, 3, 1, 1)


def view(images: Tensor) -> Tensor:
    return images.double() / 255 - MEAN


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("nano", CLASSES).double()


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
            torch.randint(0, CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def ours(student: nn.Module, objective: Objective, steps: int) -> list[float]:
    groups = param_groups(student, LR, DECAY, STAGES)
    config = OptimizerConfig.model_validate(SGD | {"weight_decay": DECAY})
    optimizer = build_optimizer(groups, config)
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
    schedule = Schedule(LR, STEPS, WARMUP, 1.0, None, 1)
    found = []
    for number, (images, labels) in enumerate(data()[:steps]):
        set_lr(optimizer, number, schedule)
        found.append(step(Batch(images, labels, [], number, BATCH)).loss)
        state.step += 1
    return found


def transcribed(student: nn.Module, teacher: nn.Module | None, steps: int) -> list[float]:
    student.train()
    velocity = {name: torch.zeros_like(p) for name, p in student.named_parameters()}
    found = []
    for number, (images, labels) in enumerate(data()[:steps]):
        x = images.double() / 255 - MEAN
        logp = student(x).log_softmax(1)
        if teacher is None:
            target = torch.full((BATCH, CLASSES), SMOOTHING / CLASSES, dtype=torch.float64)
            target[torch.arange(BATCH), labels] += 1 - SMOOTHING
        else:
            with torch.no_grad():
                target = teacher.eval()(x).softmax(1)
        loss = -(target * logp).sum() / BATCH
        found.append(loss.item())
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        if number < WARMUP:
            rate = LR * number / WARMUP
        else:
            share = (number - WARMUP) / (STEPS - WARMUP)
            rate = LR * (1 + math.cos(math.pi * share)) / 2
        with torch.no_grad():
            for (name, p), gradient in zip(student.named_parameters(), gradients, strict=True):
                own = rate
                if name.startswith("stem."):
                    own *= STAGES[0]
                elif name.startswith("stages."):
                    own *= STAGES[1 + int(name.split(".")[1])]
                if ".lab." in name or name.startswith("lab."):
                    own *= 0.01
                if ".bn." not in name:
                    gradient = gradient + DECAY * p
                velocity[name] = MOMENTUM * velocity[name] + gradient
                p -= own * velocity[name]
    return found


def supervised() -> tuple[Objective, nn.Module | None]:
    return SupervisedObjective(view, SMOOTHING), None


def distilled() -> tuple[Objective, nn.Module | None]:
    teacher = network(7)
    objective = DistillationObjective(
        view,
        Teacher([Member(copy.deepcopy(teacher), view)], "eval"),
        LossConfig.model_validate(SSLD),
    )
    return objective, teacher


@pytest.mark.parametrize("recipe", [supervised, distilled])
def test_losses_of_a_run_equal_the_transcription(
    recipe: Callable[[], tuple[Objective, nn.Module | None]],
) -> None:
    objective, teacher = recipe()
    found, expected = ours(network(1), objective, STEPS), transcribed(network(1), teacher, STEPS)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[-1] != pytest.approx(found[0], rel=1e-2), "the run moves"


@pytest.mark.parametrize("recipe", [supervised, distilled])
def test_every_tensor_moves_as_in_the_transcription(
    recipe: Callable[[], tuple[Objective, nn.Module | None]],
) -> None:
    before, one, other = network(1).state_dict(), network(1), network(1)
    objective, teacher = recipe()
    ours(one, objective, 3)  # the first of them at a rate of 0
    transcribed(other, teacher, 3)
    found, expected = one.state_dict(), other.state_dict()
    for name, value in before.items():
        if not name.endswith("num_batches_tracked"):
            moved, wanted = found[name] - value, expected[name] - value
            assert wanted.abs().max() > 0, name
            torch.testing.assert_close(moved, wanted, rtol=1e-9, atol=1e-13, msg=name)
