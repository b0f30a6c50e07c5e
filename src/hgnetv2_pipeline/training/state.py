"""Everything a run is at a step, so that saving and loading it loses nothing.

Randomness needs no saving: the order and the views are functions of (seed, epoch, key) and dropout
of (seed, step, rank), so the step says where every generator is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.training.config import Keep

COLUMNS = (
    "epoch",
    "step",
    "loss",
    "lr",
    "val_loss",
    "val_top1",
    "val_top5",
    "val_top1_ema",
    "train_top1",
    "teacher_agreement",
)
MULTI_LABEL_COLUMNS = (
    "epoch", "step", "loss", "lr", "val_loss", "val_map", "val_f1_micro", "val_f1_macro",
    "val_map_ema",
)  # fmt: skip
Row = dict[str, float | int | None]


@dataclass(frozen=True)
class Score:
    """Right answers among the ``n`` listed validation images; no top-5 below five classes.

    ``loss``: mean cross-entropy against the labels; None where an answer was not finite.
    """

    n: int
    top1_count: int
    top5_count: int | None
    loss: float | None = None  # which checkpoints of before do not have

    @property
    def top1(self) -> float:
        return self.top1_count / self.n

    @property
    def metric(self) -> float:
        """What the best weights are chosen by, and early stopping goes by: from 0 to 1."""
        return self.top1

    @property
    def top5(self) -> float | None:
        return None if self.top5_count is None else self.top5_count / self.n

    def columns(self) -> Row:
        """Its part of a row of the history."""
        return {"val_top1": self.top1, "val_top5": self.top5, "val_loss": self.loss}

    def summary(self) -> dict[str, Any]:
        """As result.json has it."""
        return {**vars(self), "top1": self.top1, "top5": self.top5}


@dataclass(frozen=True)
class MultiLabelScore:
    """Metrics on the ``n`` listed validation images, and the thresholds that give the best F1.

    ``loss``: mean binary cross-entropy, summed over the classes; None where an answer was not
    finite.
    """

    n: int
    map: float
    f1_micro: float | None
    f1_macro: float | None
    thresholds: list[float]
    loss: float | None = None  # which checkpoints of before do not have

    @property
    def metric(self) -> float:
        """What the best weights are chosen by, and early stopping goes by: from 0 to 1."""
        return self.map

    def columns(self) -> Row:
        """Its part of a row of the history."""
        return {
            "val_map": self.map, "val_f1_micro": self.f1_micro, "val_f1_macro": self.f1_macro,
            "val_loss": self.loss,
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """As result.json has it."""
        return dict(vars(self))


AnyScore = Score | MultiLabelScore


@dataclass
class Best:
    """The weights to be kept so far, and whether they are raw or averaged."""

    step: int
    weights: str
    score: AnyScore
    tensors: dict[str, torch.Tensor]


@dataclass
class Window:
    """Sums since the last row of the history."""

    steps: int = 0
    images: int = 0
    loss: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, images: int, counts: dict[str, float]) -> None:
        """Count one applied step."""
        self.steps += 1
        self.images += images
        self.loss += loss
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0.0) + count


@dataclass
class State:
    """A run after ``step`` steps. ``student`` is the bare network, whatever wraps it in a step."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    step: int = 0
    evaluated: int = 0
    evaluations: list[tuple[int, float, str]] = field(default_factory=list)
    newest: AnyScore | None = None
    """What the last of them was made of, if it was made by this process."""
    history: list[Row] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    best: Best | None = None
    keep: Keep = "best"
    """Of all evaluations the best, or the last."""
    columns: Sequence[str] = COLUMNS
    not_applied: list[int] = field(default_factory=list)
    forced: list[dict[str, Any]] = field(default_factory=list)
    """Where the run went on under another configuration: step, and what changed."""

    def row(self, *, epoch: float, lr: float, raw: AnyScore | None, ema: AnyScore | None) -> Row:
        """Close the window: append a row to the history and return it."""
        row: Row = dict.fromkeys(self.columns)
        row |= {"epoch": epoch, "step": self.step, "lr": lr}
        row["loss"] = self.window.loss / self.window.steps if self.window.steps else math.nan
        for name, count in self.window.counts.items():
            row[name] = count / self.window.images
        if raw is not None:
            row |= raw.columns()
        if ema is not None:
            # Of the mean only what weights are chosen by.
            name, value = next(iter(ema.columns().items()))
            row[f"{name}_ema"] = value
        self.history.append(row)
        self.window = Window()
        return row

    def keep_best(self, weights: str, network: nn.Module, score: AnyScore) -> None:
        """Copy ``network`` if nothing did better on val, with ``keep`` last nothing of this step;
        of equals the later is kept.
        """
        best = self.best
        earlier = best is not None and self.keep == "last" and best.step != self.step
        if best is None or earlier or score.metric >= best.score.metric:
            tensors = {name: value.detach().cpu().clone() for name, value in _tensors(network)}
            self.best = Best(self.step, weights, score, tensors)

    def network(self, weights: str) -> nn.Module:
        """The network with the ``raw`` or the averaged (``ema``) weights."""
        if weights == "raw":
            return self.student
        assert self.ema is not None, "asked for by an evaluation of it"  # noqa: S101
        return self.ema.module

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds, a file each."""
        parts: dict[str, Any] = {
            "model": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {
                "step": self.step,
                "evaluated": self.evaluated,
                "evaluations": self.evaluations,
                "history": self.history,
                "window": vars(self.window),
                "not_applied": self.not_applied,
                "forced": self.forced,
                "scaler": self.scaler.state_dict(),
            },
        }
        if self.ema is not None:
            parts["ema"] = self.ema.state_dict()
        if self.best is not None:
            parts["best"] = {**vars(self.best), "score": vars(self.best.score)}
        return parts

    def restore(self, parts: dict[str, Any]) -> None:
        """Become what ``parts`` was made of, but for the numbers of the optimiser's rule, which
        are the recipe's (the same, unless a resume is forced).

        Raises:
            ParameterError: the network or the optimiser is another one.
        """
        rules = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        saved = parts["optimizer"]["param_groups"]
        try:
            if [group.keys() - {"params"} for group in saved] != [rule.keys() for rule in rules]:
                raise ValueError("the optimiser has other groups or another rule")
            self.student.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ParameterError(
                f"the checkpoint of step {parts['progress']['step']} does not fit this run "
                f"({str(error).splitlines()[0]}): variant, classes, optimizer.name, stage_lr_mult "
                "and freeze_at cannot change on the way"
            ) from error
        for group, rule in zip(self.optimizer.param_groups, rules, strict=True):
            group.update(rule)
        if self.ema is not None:
            if "ema" in parts:
                self.ema.load_state_dict(parts["ema"])
            else:  # asked for from here on
                self.ema.module.load_state_dict(parts["model"])
        progress = parts["progress"]
        self.step, self.evaluated = progress["step"], progress["evaluated"]
        self.evaluations, self.forced = progress["evaluations"], progress["forced"]
        self.history, self.not_applied = progress["history"], progress["not_applied"]
        self.window = Window(**progress["window"])
        if progress["scaler"]:
            self.scaler.load_state_dict(progress["scaler"])
        if "best" in parts:
            score = parts["best"]["score"]
            kind = MultiLabelScore if "map" in score else Score
            self.best = Best(**{**parts["best"], "score": kind(**score)})

    def note_forced(self, changed: list[str]) -> None:
        """Keep on record that the run goes on from here under another configuration."""
        self.forced.append({"step": self.step, "changed": changed})
        if any(change.startswith("val ") for change in changed):
            # What did best on other images says nothing.
            self.best, self.evaluations, self.evaluated = None, [], -1


class RunningMean(AveragedModel):
    """torch's exponential average of weights and BN statistics, for which nothing waits.

    torch copies the number of updates to the GPU in each of them, and a copy out of ordinary memory
    waits until all before it is done; the average has no use for that number.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take ``model`` in; the first time it is all there is."""
        pairs = [
            (mean.detach(), value.detach())
            for mean, value in zip(_all(self.module), _all(model), strict=True)
        ]
        if self.n_averaged == 0:  # it stays on the CPU
            for mean, value in pairs:
                mean.copy_(value)
        else:
            # Weights and statistics in one call, the whole numbers in another.
            for whole in (False, True):
                some = [pair for pair in pairs if pair[0].is_floating_point() is not whole]
                if some:
                    self.multi_avg_fn(*map(list, zip(*some, strict=True)), None)
        self.n_averaged += 1


def _all(network: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(network.parameters(), network.buffers())


def average_weights(student: nn.Module, decay: float | None) -> RunningMean | None:
    """A running mean of all weights and BN statistics, ``decay`` of the old one per step."""
    return None if decay is None else RunningMean(student, decay)


def _tensors(network: nn.Module) -> Sequence[tuple[str, torch.Tensor]]:
    return list(network.state_dict().items())
