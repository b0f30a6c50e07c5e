"""A distillation step with the teacher beside the student, and with its answers stored.

python benchmarks/bench_stored_logits.py [--device cpu] [--batch 16] [--rounds 7] [--threads 1]
python benchmarks/bench_stored_logits.py --device cuda --batch 256 --rounds 20
Either with --compile: student and teacher compiled by torch as well.

Teacher B4, student B0, 1000 classes, 224 pixels, random weights and images (they do not change
speed). A step is everything between a uint8 batch and the updated weights; decoding is not in it.
Steps of all arms are interleaved, one of each a round. On a CPU time is CPU time of the process, on
a GPU wall time up to the end of its work. Prints a table with medians over rounds, and the median
ratio of each round (above 1: stored is faster), then how far 20 losses of a student differ between
both ways for equal views, then all of it as a JSON line. Needs torch and this package's `models`
and `training`; nothing of the rest of the chain.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from hgnetv2_pipeline.models import fast_training
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fold import reparameterize
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.teacher.teacher import Member, Teacher
from hgnetv2_pipeline.training.memory import keep_memory
from hgnetv2_pipeline.training.objectives import DistillationObjective

CE = SimpleNamespace(name="ce", gt_weight=0.0, label_smoothing=0.0, temperature=1.0)
NCHW, NHWC = torch.contiguous_format, torch.channels_last
# name: memory format, bf16, teacher fused, teacher at every step
Way = tuple[torch.memory_format, bool, bool, bool]
ARMS: dict[str, Way] = {
    "online, NCHW fp32 (naive)": (NCHW, False, False, True),
    "online, channels_last fp32": (NHWC, False, True, True),
    "online, channels_last bf16": (NHWC, True, True, True),
    "the same, teacher not fused": (NHWC, True, False, True),
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

    def seconds(self) -> float:
        if self.device.type != "cuda":
            began = time.process_time()
            self.step()
            return time.process_time() - began
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            self.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / 5


def peak_memory(images: Tensor, device: torch.device) -> dict[str, int]:
    """MiB that each arm takes at most when it is alone on the GPU."""
    found = {}
    for name in ARMS:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        arm = Arm(name, images, device)
        for _ in range(2):
            arm.step()
        torch.cuda.synchronize()
        found[name] = round(torch.cuda.max_memory_allocated() / 2**20)
        del arm
    return found


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compiled arms too: takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    device = torch.device(options.device)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=NHWC)
    images = images.to(device)
    on_gpu = device.type == "cuda"
    memory = peak_memory(images, device) if on_gpu else {}
    names = [*ARMS, *(COMPILED_ARMS if options.compile else ())]
    arms = {name: Arm(name, images, device) for name in names}
    for arm in arms.values():  # not timed: kernels are chosen, memory is taken
        arm.seconds()
    rounds = [{name: arm.seconds() for name, arm in arms.items()} for _ in range(options.rounds)]
    where = torch.cuda.get_device_name() if on_gpu else describe()
    print(f"{where}, torch {torch.__version__}, {options}")
    result: dict[str, Any] = {**vars(options), "where": where, "torch": torch.__version__}
    fastest = [name for name in names if "stored" in name]
    for name, arm in arms.items():
        own = statistics.median(one[name] for one in rounds)
        ratios = {
            stored: statistics.median(one[name] / one[stored] for one in rounds)
            for stored in fastest
        }
        result[name] = {
            "ms": round(1e3 * own, 1),
            "images/s": round(options.batch / own, 1),
            "peak MiB": memory.get(name),
            **{f"over {stored}": round(ratio, 2) for stored, ratio in ratios.items()},
        }
        print(f"{name:38} {result[name]}", flush=True)
        del arm
    result["curve"] = curve(device)
    print(f"20 losses: {result['curve']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
