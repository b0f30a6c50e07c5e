"""A training step beside timm's at its best, and our loop beside a bare hand-written one.

python benchmarks/bench_training_step.py [--case 0] [--compile] [--glibc]

Fixed noise as input, label smoothing, SGD with momentum; a step is everything from a uint8 batch to
the updated weights. timm's step is eager, in float32 and bf16 autocast, in NCHW and channels_last,
with torch's default and fused SGD. Ours is ``fit`` with ``Step``. The bare step has our network and
optimiser, the fast layers too, and nothing around them: what it takes less is the price of the
finite check, kept BN statistics, seeds and the loop. All share one process and so what
``keep_memory`` does for it (``--glibc``: not), timm's step too. With ``--compile`` timm's and our
steps are compiled by torch as well, which takes minutes: their first call says how many.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import timm
import torch
from harness import Case, Contender, run
from torch import Tensor, nn

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.input.batches import Batch
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.models import create_model, fast_training
from hgnetv2_pipeline.models.cost import measure_cost
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.processor import keep_memory
from hgnetv2_pipeline.stopping import StopRequest
from hgnetv2_pipeline.training.config import EarlyStoppingConfig, OptimizerConfig
from hgnetv2_pipeline.training.loop import Callbacks, Timing, fit
from hgnetv2_pipeline.training.objectives import SupervisedObjective
from hgnetv2_pipeline.training.optim import build_optimizer, param_groups
from hgnetv2_pipeline.training.schedule import Schedule
from hgnetv2_pipeline.training.state import State
from hgnetv2_pipeline.training.step import AMP, Step

CASES = [("b0", 64, 32), ("b4", 64, 8), ("b0", 224, 8)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LR, DECAY = 1e-4, 2e-5
SGD = OptimizerConfig(name="sgd", momentum=0.9, weight_decay=DECAY, betas=None)
WHOLE = EarlyStoppingConfig(patience=None, min_delta=0.0)


@dataclass(frozen=True)
class Work:
    """What every step is given: network, batch and precision."""

    variant: str
    images: Tensor
    labels: Tensor
    amp: str

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", AMP[self.amp], enabled=self.amp != "off")

    def view(self, images: Tensor, layout: torch.memory_format = torch.channels_last) -> Tensor:
        return normalise(images, MEAN, STD).contiguous(memory_format=layout)


def timm_step(
    work: Work, *, fused: bool, layout: torch.memory_format, compiled: bool = False
) -> Callable[[], None]:
    model = timm.create_model(f"hgnetv2_{work.variant}").train().to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY, fused=fused
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    network = torch.compile(model) if compiled else model

    def step() -> None:
        with work.autocast():
            loss = loss_of(network(work.view(work.images, layout)), work.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def parts(variant: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = create_model(variant).to(memory_format=torch.channels_last).train()
    return model, build_optimizer(param_groups(model, LR, DECAY), SGD)


def bare_step(work: Work) -> Callable[[], None]:
    model, optimizer = parts(work.variant)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]

    def step() -> None:
        with fast_training(model):
            with work.autocast():
                logits = model(work.view(work.images))
                loss = nn.functional.cross_entropy(logits, work.labels, label_smoothing=0.1)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def our_step(work: Work, *, compiled: bool = False) -> Callable[[], None]:
    """A ``fit`` of one step."""
    model, optimizer = parts(work.variant)
    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
    step = Step(
        state,
        torch.compile(model) if compiled else model,
        SupervisedObjective(work.view, 0.1),
        device=torch.device("cpu"),
        world=World(0, 1, 0),
        amp=work.amp,
        clip_norm=None,
        seed=0,
    )
    schedule = Schedule(LR, 1_000_000, 0, 1e4, None, 10_000)

    def one() -> None:
        stop = StopRequest()

        def batches() -> Iterator[Batch]:
            stop.requested = True
            yield Batch(work.images, work.labels, [], state.step, len(work.images))

        with suppress(Interrupted):
            fit(
                state,
                batches(),
                step=step,
                schedule=schedule,
                early=WHOLE,
                callbacks=Callbacks(lambda network: None, lambda: None, save_seconds=1e9),
                stop=stop,
                timing=Timing(),
            )

    return one


def cases(given: argparse.Namespace) -> Iterator[Case]:
    if not given.glibc:
        keep_memory()
    few = CASES[:1] if given.quick else CASES
    for variant, size, batch in few if given.case is None else [CASES[given.case]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, size, size, 3), generator=generator).byte()
        labels = torch.randint(0, 1000, (batch,), generator=generator)
        # A training step is three forward passes: two products a layer on the way back.
        flop = 6.0 * batch * measure_cost(create_model(variant), size).macs
        every: dict[str, Contender] = {}
        for name, amp in (("fp32", "off"), ("bf16", "bf16")):
            work = Work(variant, images.permute(0, 3, 1, 2), labels, amp)
            both = {"work": name, "flop": flop, "precision": name}
            for layout in (torch.contiguous_format, torch.channels_last):
                shown = "channels_last" if layout == torch.channels_last else "NCHW"
                for fused in (False, True) if name == "fp32" else (True,):
                    label = f"timm {name}, {shown}, {'fused' if fused else 'default'} SGD"
                    every[label] = Contender(timm_step(work, fused=fused, layout=layout), **both)
            every[f"ours {name}"] = Contender(
                our_step(work), ours=True, beside=f"bare {name}", **both
            )
            every[f"bare {name}"] = Contender(bare_step(work), **both | {"work": "no checks"})
            if given.compile:
                compiled = {"layout": torch.channels_last, "fused": True, "compiled": True}
                every[f"timm {name}, compiled"] = Contender(timm_step(work, **compiled), **both)
                every[f"ours {name}, compiled"] = Contender(
                    our_step(work, compiled=True), ours=True, **both
                )
        yield Case(
            f"{variant}, {size} px, batch {batch}{', with torch.compile' * given.compile}"
            f"{', memory as glibc has it' * given.glibc}",
            every, units=batch, base="timm fp32, NCHW, default SGD", one_job=True,
        )  # fmt: skip


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", type=int, help="one of the three, from 0")
    parser.add_argument("--compile", action="store_true", help="compiled steps too: takes minutes")
    parser.add_argument("--glibc", action="store_true", help="memory as glibc has it: not kept")


if __name__ == "__main__":
    run("training_step", cases, doc=__doc__, seconds=40, options=options)
