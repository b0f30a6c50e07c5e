"""CPU time of a training step beside timm's, and of our loop beside a bare hand-written one.

python benchmarks/bench_training_step.py [--rounds 9] [--steps 2] [--case 0] [--compile] [--glibc]

One thread, fixed noise as input, label smoothing, SGD with momentum. Contenders run in turn within
every round; figures are medians over rounds of process time, ratios medians of each round's ratio.
timm's step is eager: in float32 with torch's default SGD, as its train script runs on a CPU, and
with what timm and torch offer besides: the fused SGD, channels_last, bf16 autocast. Ours is ``fit``
with ``Step``, over the faster of timm's at the same precision. The bare steps have our network and
optimiser, the fast layers too, and nothing around them: what they take less is the price of the
finite check, kept BN statistics, seeds and the loop. All share one process and so what
``keep_memory`` does for it, timm's step too. With ``--compile`` our steps are compiled by torch as
well, and the table tells how long that took.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

os.environ["OMP_NUM_THREADS"] = "1"

import timm
import torch
from torch import Tensor, nn

from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.input.batches import Batch
from hgnetv2_pipeline.input.loader import normalise
from hgnetv2_pipeline.models import create_model, fast_training
from hgnetv2_pipeline.processes.group import World
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.stopping import StopRequest
from hgnetv2_pipeline.training.config import EarlyStoppingConfig, OptimizerConfig
from hgnetv2_pipeline.training.loop import Callbacks, Timing, fit
from hgnetv2_pipeline.training.memory import keep_memory
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
Run = Callable[[int], None]


def timm_step(
    variant: str,
    images: Tensor,
    labels: Tensor,
    amp: str,
    *,
    fused: bool,
    last: bool,
) -> Run:
    layout = torch.channels_last if last else torch.contiguous_format
    model = timm.create_model(f"hgnetv2_{variant}").train().to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=0.9, weight_decay=DECAY, fused=fused
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def run(steps: int) -> None:
        for _ in range(steps):
            x = normalise(images, MEAN, STD).contiguous(memory_format=layout)
            with torch.autocast("cpu", AMP[amp], enabled=amp != "off"):
                loss = loss_of(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def parts(variant: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = create_model(variant).to(memory_format=torch.channels_last).train()
    return model, build_optimizer(param_groups(model, LR, DECAY), SGD)


def view(images: Tensor) -> Tensor:
    return normalise(images, MEAN, STD).contiguous(memory_format=torch.channels_last)


def bare_step(variant: str, images: Tensor, labels: Tensor, amp: str) -> Run:
    model, optimizer = parts(variant)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]

    def run(steps: int) -> None:
        for _ in range(steps):
            with fast_training(model):
                with torch.autocast("cpu", AMP[amp], enabled=amp != "off"):
                    logits = model(view(images))
                    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return run


def our_loop(
    variant: str, images: Tensor, labels: Tensor, amp: str, *, compiled: bool = False
) -> Run:
    model, optimizer = parts(variant)
    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None)
    step = Step(
        state,
        torch.compile(model) if compiled else model,
        SupervisedObjective(view, 0.1),
        device=torch.device("cpu"),
        world=World(0, 1, 0),
        amp=amp,
        clip_norm=None,
        seed=0,
    )
    schedule = Schedule(LR, 1_000_000, 0, 1e4, None, 10_000)

    def run(steps: int) -> None:
        stop = StopRequest()

        def batches() -> Iterator[Batch]:
            for left in range(steps, 0, -1):
                stop.requested = left == 1
                yield Batch(images, labels, [], state.step, len(images))

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

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--case", type=int, help="one of the table's rows, from 0")
    parser.add_argument("--compile", action="store_true", help="compiled steps too: takes minutes")
    parser.add_argument("--glibc", action="store_true", help="memory as glibc has it: not kept")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    kept = not options.glibc and keep_memory()
    print(f"{describe()}, torch {torch.__version__}, timm {timm.__version__}, "
          f"memory kept: {kept}")  # fmt: skip
    print("\n| network | step | images a CPU-second | over timm's best | over a bare step |\n"
          "|---|---|---|---|---|")  # fmt: skip
    results = []
    for variant, size, batch in CASES if options.case is None else [CASES[options.case]]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, size, size, 3), generator=generator).byte()
        images = images.permute(0, 3, 1, 2)
        labels = torch.randint(0, 1000, (batch,), generator=generator)
        given = variant, images, labels
        runs = {
            "timm fp32, default SGD": timm_step(*given, "off", fused=False, last=False),
            "timm fp32": timm_step(*given, "off", fused=True, last=False),
        }
        for name, amp in (("fp32", "off"), ("bf16", "bf16")):
            runs[f"timm {name}, channels_last"] = timm_step(*given, amp, fused=True, last=True)
            runs[f"ours {name}"] = our_loop(*given, amp)
            runs[f"bare {name}"] = bare_step(*given, amp)
            if options.compile:
                runs[f"ours {name} compiled"] = our_loop(*given, amp, compiled=True)
        times: dict[str, list[float]] = {name: [] for name in runs}
        first = {}
        for name, run in runs.items():
            began = time.monotonic()
            run(1)
            first[name] = time.monotonic() - began
        for _ in range(options.rounds):
            for name, run in runs.items():
                began = time.process_time()
                run(options.steps)
                times[name].append((time.process_time() - began) / options.steps)

        def ratio(one: str, other: str, times: dict[str, list[float]] = times) -> float:
            return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

        for name in runs:
            bare = name.replace("ours", "bare")
            theirs = [each for each in runs if each.startswith("timm") and name[5:9] in each]
            row = {
                "case": f"{variant}, {size} px, batch {batch}",
                "step": name,
                "rate": round(batch / statistics.median(times[name]), 2),
                "over timm": round(min(ratio(each, name) for each in theirs), 3),
                "overhead": round(ratio(name, bare) - 1, 4) if bare in times else None,
                "first step, s": round(first[name], 1),
            }
            results.append(row)
            over = f"{100 * row['overhead']:+.1f} %" if name != bare and bare in times else ""
            took = f" ({first[name]:.0f} s to compile)" if name.endswith("compiled") else ""
            print(
                f"| {row['case']} | {name}{took} | {row['rate']:.1f} | {row['over timm']:.2f} "
                f"| {over} |",
                flush=True,
            )  # fmt: skip
    print(json.dumps({**vars(options), "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
