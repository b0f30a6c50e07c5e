"""Parameter groups by name for every network, and what the optimisers do with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from train_recipes import ADAMW, SGD

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.features import FeatureDict
from hgnetv2_pipeline.models.frozen import freeze
from hgnetv2_pipeline.training.config import OptimizerConfig
from hgnetv2_pipeline.training.optim import (
    PARTS,
    build_optimizer,
    group_table,
    param_groups,
    set_lr,
)
from hgnetv2_pipeline.training.schedule import Schedule
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS

MULT = [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("variant", [*VARIANTS, *HGNET_SIZES])
def test_every_parameter_has_paddleclas_rate_and_decay(variant: str) -> None:
    model = create_model(variant, 7)
    groups = param_groups(model, 0.5, 2e-5, MULT)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    parameters = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(found) == len(parameters)
    for name, parameter in parameters.items():
        head = name.split(".")[0] in ("last_conv", "fc", "lab")
        stage = 0 if name.startswith("stem.") else 1 + int(name.split(".")[1]) if not head else None
        factor = 1.0 if stage is None else MULT[stage]
        lab = "lab." in name
        expected = (0.5 * factor * (0.01 if lab else 1), 0.0 if ".bn." in name else 2e-5)
        assert found[id(parameter)] == pytest.approx(expected, rel=1e-12), name


def test_groups_of_b0_are_named_and_in_the_order_of_the_network() -> None:
    groups = param_groups(create_model("b0", 7), 0.5, 2e-5)
    names = [group["name"] for group in groups]
    kinds = ["weights", "bn", "lab"]
    parts = ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]
    assert sorted(names) == sorted(
        [f"{p} {k}" for p in parts for k in kinds] + ["head weights", "head lab"]
    )
    assert [next(n for n in names if n.startswith(p)) for p in parts] == sorted(
        (n for n in names if n.endswith("weights") and not n.startswith("head")), key=names.index
    )
    table = group_table(groups).splitlines()
    assert len(table) == len(groups) + 1
    assert "stages.1 lab" in table[names.index("stages.1 lab") + 1]
    assert "0.005" in table[names.index("stages.1 lab") + 1]


@pytest.mark.parametrize(("at", "norm"), [(1, False), (3, False), (2, True), (5, True)])
def test_frozen_parameters_are_in_no_group(at: int, norm: bool) -> None:
    model = freeze(create_model("b0", 7), at=at, norm=norm)
    names = {group["name"] for group in param_groups(model, 0.5, 0.0)}
    kinds = ["weights", "lab"] if norm else ["weights", "bn", "lab"]
    assert names == {f"{part} {kind}" for part in PARTS[at:] for kind in kinds} | {
        "head weights", "head lab",
    }  # fmt: skip


def test_the_multipliers_reach_our_network_inside_another() -> None:
    trunk = freeze(FeatureDict(create_model("b0", 7), (1, 2)), at=1)
    detector = nn.Sequential(nn.Sequential(trunk, nn.Identity()), nn.Conv2d(4, 4, 1))
    groups = {group["name"]: group for group in param_groups(detector, 0.5, 2e-5, MULT)}
    assert [name for name in groups if name.endswith("weights")] == [
        "stages.0 weights", "stages.1 weights", "stages.2 weights", "head weights",
    ]  # fmt: skip
    assert [groups[f"stages.{stage} bn"]["lr"] for stage in range(3)] == pytest.approx(
        [0.1, 0.15, 0.2]
    )
    assert groups["head weights"]["params"] == list(detector[1].parameters())
    with pytest.raises(ParameterError, match="stage_lr_mult needs a stem and stages"):
        param_groups(detector[1], 0.5, 2e-5, MULT)


def test_the_table_names_stem_stages_and_head_with_their_rates() -> None:
    table = group_table(param_groups(create_model("b4", 7), 0.5, 2e-5, MULT)).splitlines()
    rates = {" ".join(line.split()[:-4]): line.split()[-2] for line in table[1:]}
    expected = {
        f"{part} {kind}": f"{0.5 * factor:.4g}"
        for part, factor in zip(PARTS, MULT, strict=True)
        for kind in ("weights", "bn")
    }
    assert rates == expected | {"head weights": "0.5"}


class Tiny(nn.Module):
    """A convolution, a BN and an fc, named as in the networks."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)
        self.fc = nn.Linear(3, 2)


def test_sgd_steps_equal_momentum_with_l2_written_out() -> None:
    torch.manual_seed(0)
    model = Tiny().double()
    config = OptimizerConfig.model_validate({**SGD, "weight_decay": 0.5})
    optimizer = build_optimizer(param_groups(model, 0.1, 0.5), config)
    schedule = Schedule(0.1, 6, 2, 1.0, None, 1)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    velocity = {n: torch.zeros_like(p) for n, p in weights.items()}
    rates = []
    for step in range(6):
        rates.append(set_lr(optimizer, step, schedule))
        for name, parameter in model.named_parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
            decay = 0.0 if name.startswith("bn") else 0.5
            gradient = parameter.grad + decay * weights[name]
            velocity[name] = 0.9 * velocity[name] + gradient
            weights[name] = weights[name] - rates[-1] * velocity[name]
        optimizer.step()
    assert rates[:3] == [0.0, 0.05, 0.1]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], atol=1e-12, rtol=0)


def test_adamw_decays_without_a_gradient_and_spares_bn() -> None:
    model = Tiny()
    optimizer = build_optimizer(
        param_groups(model, 0.1, 0.05), OptimizerConfig.model_validate(ADAMW)
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    set_lr(optimizer, 0, Schedule(0.1, 4, 0, 1.0, None, 1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name.startswith("bn") else 1 - 0.1 * 0.05
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_first_step_that_fp16s_scaler_skips_leaves_nothing_for_the_second(device: str) -> None:
    model = Tiny().to(device)
    optimizer = build_optimizer(param_groups(model, 0.1, 0.0), OptimizerConfig.model_validate(SGD))
    set_lr(optimizer, 0, Schedule(0.1, 4, 0, 1.0, None, 1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    scaler = torch.amp.GradScaler(device, init_scale=2.0)
    for gradient in (float("inf"), 1.0):
        lying = [torch.full_like(p, 7.0) for p in model.parameters()]
        del lying  # what the next tensors of these sizes are likely to find in memory
        for parameter in model.parameters():
            parameter.grad = scaler.scale(torch.full_like(parameter, gradient))
        scaler.step(optimizer)
        scaler.update()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1)
