"""A distillation step with the teacher beside the student, and with its answers stored.

python benchmarks/bench_stored_logits.py [--batch 16] [--size 224] [--compile]
python benchmarks/bench_stored_logits.py --device cuda --batch 256

Teacher B4, student B0, 1000 classes, random weights and images (they do not change speed). A step
is everything between a uint8 batch and the updated weights; decoding is not in it. The online steps
are the peers of the stored ones of the same precision: all of them train the same student with the
same layers. On a GPU a call is five steps and the wall time up to the end of its work decides; the
memory is what the arm takes alone. ``--compile``: student and teacher compiled by torch as well.
``--curve`` measures no time: it prints how far 20 losses of a student differ between both ways for
equal views. ``--quick`` has a batch of 4. Needs torch and this package's `models` and `training`;
nothing of the rest of the chain.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from harness import Case, Contender, run
from torch import Tensor, nn

from hgnetv2_pipeline.models import fast_training
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fold import reparameterize
from hgnetv2_pipeline.processor import keep_memory
from hgnetv2_pipeline.teacher.teacher import Member, Teacher
from hgnetv2_pipeline.training.objectives import DistillationObjective

CE = SimpleNamespace(name="ce", gt_weight=0.0, label_smoothing=0.0, temperature=1.0)
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# name: memory format, bf16, teacher fused, teacher at every step
Way = tuple[torch.memory_format, bool, bool, bool]
ARMS: dict[str, Way] = {
    "online, NCHW fp32 (naive)": (NCHW, False, False, True),
    "online, channels_last fp32": (NHWC, False, True, True),
    "online, channels_last bf16": (NHWC, True, True, True),
    "online, channels_last bf16, teacher not fused": (NHWC, True, False, True),
    "stored, channels_last fp32": (NHWC, False, True, False),
    "stored, channels_last bf16": (NHWC, True, True, False),
}
COMPILED = "compiled "
COMPILED_ARMS: dict[str, Way] = {
    f"{COMPILED}{name}": ARMS[name]
    for name in ARMS
    if name.endswith(("channels_last fp32", "channels_last bf16"))
}
CLASSES, TOPK = 1000, 10
GPU_STEPS = 5


def viewer(layout: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """uint8 to what a network eats."""
    return lambda images: (images.float() / 255 - 0.45).div_(0.225).contiguous(memory_format=layout)


def best(logits: Tensor, topk: int) -> Any:
    """A teacher's answers as the store holds them: float16 unless all classes are kept."""
    values, ids = logits.float().log_softmax(dim=1).topk(topk)
    return SimpleNamespace(ids=ids, logps=values if topk == logits.shape[1] else values.half())


class Arm:
    """A student and its way of being taught."""

    def __init__(self, name: str, images: Tensor, device: torch.device) -> None:
        layout, self.bf16, fused, online = (ARMS | COMPILED_ARMS)[name]
        torch.manual_seed(0)
        self.student = create_model("b0", CLASSES).to(device, memory_format=layout).train()
        network = create_model("b4", CLASSES).eval()
        network = (reparameterize(network) if fused else network).to(device, memory_format=layout)
        self.called: Any = self.student
        if name.startswith(COMPILED):
            network, self.called = torch.compile(network), torch.compile(self.student)
        teacher = Teacher([Member(network, viewer(layout))], "eval")
        self.images, self.device = images, device
        self.labels = torch.full((len(images),), -1, device=device)
        self.answers = None if online else best(teacher(images[:4]), TOPK)
        if self.answers is not None:
            repeats = -(-len(images) // 4)
            for part in ("ids", "logps"):
                whole = getattr(self.answers, part).repeat(repeats, 1)[: len(images)]
                setattr(self.answers, part, whole)
        self.objective = DistillationObjective(viewer(layout), teacher if online else None, CE)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.01, momentum=0.9, fused=device.type == "cuda"
        )

    def step(self) -> None:
        with fast_training(self.student) if self.called is self.student else nullcontext():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss, _ = self.objective(self.called, self.images, self.labels, self.answers)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def steps(self) -> None:
        for _ in range(GPU_STEPS if self.device.type == "cuda" else 1):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def peak_mib(name: str, images: Tensor, device: torch.device) -> int:
    """What the arm takes at most when it is alone on the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    Arm(name, images, device).steps()
    return round(torch.cuda.max_memory_allocated() / 2**20)


def curve(device: torch.device, steps: int = 20, batch: int = 32, size: int = 64) -> dict[str, Any]:
    """Largest difference of 20 losses from the online ones, with all classes stored and with 10.

    And, as the noise that a run has anyway, with the teacher online and 1 added to its logits: the
    same target, differing in the last bits, which training amplifies.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (steps, batch, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    torch.manual_seed(1)
    network = create_model("b0", CLASSES).eval().to(device)
    with torch.no_grad():  # fresh layers make huge logits; a trained network's are a few units
        network.fc.weight *= 4 / network(viewer(NHWC)(images[0])).std()
    teacher = Teacher([Member(reparameterize(network), viewer(NHWC))], "eval")
    torch.manual_seed(0)
    fresh = create_model("b0", CLASSES).to(device)
    labels = torch.full((batch,), -1, device=device)
    losses: dict[str, list[float]] = {}

    def shifted(views: Tensor) -> Tensor:
        return teacher(views) + 1

    ways: dict[str, Any] = {
        "online": teacher, "online, logits + 1": shifted, "all classes": CLASSES, "10 classes": TOPK
    }  # fmt: skip
    for name, way in ways.items():
        online = not isinstance(way, int)
        student: nn.Module = copy.deepcopy(fresh).train()
        optimizer = torch.optim.SGD(student.parameters(), lr=5e-4, momentum=0.9)
        objective = DistillationObjective(viewer(NHWC), way if online else None, CE)
        losses[name] = []
        for views in images:
            answers = None if online else best(teacher(views), way)
            with fast_training(student):
                loss, _ = objective(student, views, labels, answers)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
    wanted = losses.pop("online")
    apart = {
        name: float(f"{max(abs(a - b) for a, b in zip(wanted, other, strict=True)):.2g}")
        for name, other in losses.items()
    }
    return {"from": wanted[0], "to": wanted[-1], "largest difference": apart}


def cases(given: argparse.Namespace) -> Iterator[Case]:
    device = torch.device(given.device)
    if given.curve:
        print(curve(device))
        return
    keep_memory()
    batch = min(given.batch, 4) if given.quick else given.batch
    shape = (batch, 3, given.size, given.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=NHWC)
    images = images.to(device)
    names = [*ARMS, *(COMPILED_ARMS if given.compile else ())]
    on_gpu = device.type == "cuda"
    extra = {n: {"peak MiB": peak_mib(n, images, device)} if on_gpu else {} for n in names}
    every = {
        name: Contender(
            Arm(name, images, device).steps, "bf16" if "bf16" in name else "fp32",
            ours="stored" in name, extra=extra[name],
        )
        for name in names
    }  # fmt: skip
    yield Case(
        f"{given.size} px, batch {batch}"
        f"{', ' + torch.cuda.get_device_name() if on_gpu else ''}",
        every, units=batch * (GPU_STEPS if on_gpu else 1), clock="wall" if on_gpu else "cpu",
        base=names[0], one_job=True,
    )  # fmt: skip


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--compile", action="store_true", help="compiled arms too: takes minutes")
    parser.add_argument("--curve", action="store_true", help="differences of losses, no time")


if __name__ == "__main__":
    run("stored_logits", cases, doc=__doc__, seconds=90, options=options)
