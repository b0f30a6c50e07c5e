"""Parameter groups as PaddleClas makes them, and the optimisers that use them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.printable import Lines, lines
from hgnetv2_pipeline.training.config import OptimizerConfig
from hgnetv2_pipeline.training.schedule import Schedule, lr_at

# PaddleClas gives the learnable affine blocks (LAB) a hundredth of the learning rate.
LAB_LR = 0.01
PARTS = ("stem", "stages.0", "stages.1", "stages.2", "stages.3")


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    stage_lr_mult: list[float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, in the order of the network: name, params, lr, weight_decay.

    Weight decay falls on everything but the weights and biases of BN layers: convolutions, fc
    weight and bias, LAB. LAB learns at 0.01 x lr. ``stage_lr_mult`` (five factors) multiplies the
    stem and the four stages; the head (``last_conv``, ``fc``) always learns at lr. ``model`` may
    hold our network anywhere inside (a detector): whatever is not its stem or stages counts as
    head. A parameter that is frozen (``requires_grad`` false) is in no group.
    """
    trunk = _trunk(model)
    if trunk is None and stage_lr_mult is not None:
        raise ParameterError(
            f"stage_lr_mult needs a stem and stages, which {type(model).__name__} does not have; "
            "give param_groups one of our networks, or what holds one"
        )
    prefix = trunk or ""
    factors = dict(zip(PARTS, stage_lr_mult or [1.0] * len(PARTS), strict=True))
    groups: dict[str, dict[str, Any]] = {}
    for module_name, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            name = f"{module_name}.{own_name}"
            part = next((part for part in PARTS if name.startswith(f"{prefix}{part}.")), "head")
            factor, decay, kind = factors.get(part, 1.0), weight_decay, "weights"
            if isinstance(module, _BatchNorm):
                decay, kind = 0.0, "bn"
            elif module_name.rpartition(".")[2] == "lab":
                factor, kind = factor * LAB_LR, "lab"
            group = groups.setdefault(
                f"{part} {kind}",
                {
                    "name": f"{part} {kind}",
                    "params": [],
                    "lr": lr * factor,
                    "weight_decay": decay,
                },
            )
            group["params"].append(parameter)
    return list(groups.values())


def _trunk(model: nn.Module) -> str | None:
    """What comes before ``stem`` and ``stages`` in the names of ``model``; None without them."""
    for name, module in model.named_modules():
        if {"stem", "stages"} <= {child for child, _ in module.named_children()}:
            return f"{name}." if name else ""
    return None


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over ``groups``; fused, 2.4x faster than the plain one on CPU.

    Each group also remembers its peak as ``initial_lr``, from which ``set_lr`` starts.
    """
    for group in groups:
        group["initial_lr"] = group["lr"]
    if config.name == "sgd":
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, fused=True)
        if config.momentum:
            # torch takes them as they come in its first step, and leaves them so where that step is
            # skipped, as fp16's first often is: the next one would start from what was there.
            for parameter in (p for group in groups for p in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> float:
    """Give every group the rate of ``step``; return the rate of a group with factor 1."""
    total, warmup = schedule.total_steps, schedule.warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = lr_at(step, group["initial_lr"], total, warmup)
    return lr_at(step, schedule.base_lr, total, warmup)


def group_table(groups: list[dict[str, Any]]) -> Lines:
    """The groups as a text table: name, tensors, numbers, learning rate, weight decay."""
    rows = [f"{'group':<18}{'tensors':>8}{'numbers':>12}{'lr':>12}{'decay':>10}"]
    for group in groups:
        numbers = sum(parameter.numel() for parameter in group["params"])
        rows.append(
            f"{group['name']:<18}{len(group['params']):>8}{numbers:>12,}"
            f"{group['lr']:>12.4g}{group['weight_decay']:>10.2g}"
        )
    return lines(*rows)
