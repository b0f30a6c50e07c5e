"""Training throughput on one device: fed from memory, fed by the loader, with a teacher.

python benchmarks/bench_gpu_training.py --out DIR [--budget 200] [--workers 16] [--batch 256]
python benchmarks/bench_gpu_training.py --out DIR --device cpu --tiny      (whether it still runs)

Every row is a run of this package: ``prepare``, ``Step`` and ``fit`` with the recipe of
conf/base, bf16 and channels_last unless the row says otherwise. A row fed "on device" gets the same
batch again and again from the device's memory: what the step alone reaches. The others read JPEG
files (about 110 KB, cut from scikit-learn's photographs, repeated; they stay in the page cache, so
that no disk is measured) through ``train_batches``. Images a second are wall time of our loop after
warm-up. Rows stand in the order of their worth; when ``--budget`` seconds would be passed by a
row's estimated cost, it and what follows is not run, and the tables say so.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "benchmarks")]
# For the server that forks the loader's workers, which does not know this process's path.
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from harness import fingerprint, table

CLASSES = 1000
SHM, SHM_SHARE = Path("/dev/shm"), 0.8  # noqa: S108 - measured, not written to


DEVICE_FED = "on device"
# input.fast and input.device of the loader's rows.
FEEDS = {
    "exact": (False, "none"),
    "fast": (True, "none"),
    "exact, RandAugment on the GPU": (False, "randaugment"),
    "fast, RandAugment on the GPU": (True, "randaugment"),
    "all on the GPU": (False, "all"),
}


@dataclass(frozen=True)
class Case:
    """One row. ``cost`` is a guess of its seconds on an H100 or H200, start-up included."""

    variant: str
    feed: str
    cost: float
    teacher: str | None = None
    amp: str = "bf16"
    channels_last: bool = True
    compiled: bool = False
    autotune: bool = False
    spare: int = 2
    """Cores that no loader process has: the training needs one, its helpers another."""

    @property
    def name(self) -> str:
        extras = [
            f"teacher {self.teacher}" if self.teacher else "",
            "" if self.amp == "bf16" else self.amp,
            "" if self.channels_last else "NCHW",
            "compile" if self.compiled else "",
            "cudnn.benchmark" if self.autotune else "",
            f"{self.spare} cores spare" if self.feed != DEVICE_FED else "",
        ]
        return ", ".join([self.variant, self.feed, *(each for each in extras if each)])


CASES = [
    Case("b4", DEVICE_FED, 8),
    Case("b4", "fast, RandAugment on the GPU", 16, spare=3),
    Case("b4", "fast, RandAugment on the GPU", 16, spare=2),
    Case("b4", "fast", 16, spare=2),
    Case("b4", "fast, RandAugment on the GPU", 16, spare=4),
    Case("b4", "fast", 16, spare=0),
    Case("b4", "exact, RandAugment on the GPU", 16),
    Case("b0", DEVICE_FED, 7),
    Case("b0", DEVICE_FED, 8, teacher="hgnet_small"),
    Case("b0", DEVICE_FED, 8, teacher="b4"),
    Case("b4", DEVICE_FED, 8, teacher="hgnet_small"),
    Case("b0", "fast, RandAugment on the GPU", 16),
    Case("b4", DEVICE_FED, 10, autotune=True),
    Case("b4", "exact", 16),
    Case("b4", "all on the GPU", 18),
    Case("b4", DEVICE_FED, 8, channels_last=False),
    Case("b4", DEVICE_FED, 8, amp="fp16"),
    Case("b0", DEVICE_FED, 40, compiled=True),
    Case("b0", "fast", 16),
    Case("b4", DEVICE_FED, 80, compiled=True),
]


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    folder: Path
    device: torch.device
    batch: int
    workers: int
    size: int
    seconds: float
    tiny: bool

    def loaders(self, case: Case) -> int:
        """Loader processes of a row."""
        return max(self.workers - case.spare, min(self.workers, 1))

    def spec(self, case: Case) -> Any:
        """The row as a training job: the published recipe with this benchmark's sizes."""
        import yaml

        from hgnetv2_pipeline.project.params import complete_recipes
        from hgnetv2_pipeline.training.config import RunSpec

        pipeline = "ssld_stage1" if case.teacher else "train"
        conf = PROJECT / "conf" / "base"
        files = [conf / f"parameters_{name}.yml" for name in ("training", pipeline)]
        training, own = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)
        recipe = complete_recipes(training | own, {})[pipeline]
        recipe |= {
            "epochs": None,
            "steps": 1_000_000,
            "warmup_epochs": 0,
            "batch_size": self.batch,
            "lr": 1e-4,
            "lr_batch": None,
            "erasing": 0.25 if case.teacher is None else 0.0,
            "amp": case.amp,
            "channels_last": case.channels_last,
            "compile": case.compiled,
            "workers": self.loaders(case),
            "image_size": self.size,
            "resize_short": self.size + 8,
            "eval_every": None,
            "input": recipe["input"]
            | dict(zip(("fast", "device"), FEEDS.get(case.feed, (False, "none")), strict=True)),
        }
        teacher = None
        if case.teacher:
            teacher = {"members": [str(self.teacher(case.teacher))], "bn": "eval"}
        return RunSpec.model_validate(
            {
                "variant": case.variant,
                "num_classes": CLASSES,
                "classes": [f"class {n}" for n in range(CLASSES)],
                "train": self.folder / "train.parquet",
                "train_root": self.folder / "images",
                "val": self.folder / "train.parquet",
                "val_root": self.folder / "images",
                "root": PROJECT,
                "seed": 0,
                "config": recipe,
                "teacher": teacher,
                **({"teacher_logits": None} if "teacher_logits" in RunSpec.model_fields else {}),
                "out": self.folder / "run",
                "stage": "benchmark",
                "inputs": {},
                "device": str(self.device),
                **({"resume": "exact"} if "resume" in RunSpec.model_fields else {}),
            }
        )

    def teacher(self, variant: str) -> Path:
        """A network whose BN statistics fit its weights: without that its logits are infinite."""
        from hgnetv2_pipeline.models.create import create_model
        from hgnetv2_pipeline.weights.load import save_weights

        path = self.folder / f"{variant}.safetensors"
        if not path.is_file():
            torch.manual_seed(1)
            model = create_model(variant, CLASSES).to(self.device).train()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None
            with torch.no_grad():
                for _ in range(2):
                    model(torch.randn(8, 3, self.size, self.size, device=self.device))
            save_weights(path, model.cpu(), {"variant": variant})
        return path


def measure(case: Case, bench: Bench) -> dict[str, Any]:
    """Images a second of our loop in this case."""
    from hgnetv2_pipeline.errors import Interrupted
    from hgnetv2_pipeline.processes.group import World
    from hgnetv2_pipeline.stopping import StopRequest
    from hgnetv2_pipeline.training.loop import Callbacks, Timing, fit
    from hgnetv2_pipeline.training.prepare import make_step, prepare

    spec = bench.spec(case)
    device = bench.device
    on_gpu = device.type == "cuda"
    torch.backends.cudnn.benchmark = case.autotune
    run = prepare(spec, device=device, world_size=1)
    world = World(0, 1, 0)
    step = make_step(run, spec, device, world)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    timing, stop = Timing(), StopRequest()
    began = time.monotonic()
    first = start = 0.0
    # The first round of batches comes from all workers at once; after two the flow is even.
    warm = 2 if bench.tiny else 8 if case.feed == DEVICE_FED else 2 * max(bench.loaders(case), 4)
    feed = same_batch(bench) if case.feed == DEVICE_FED else loaded(spec, run)

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.monotonic()

    def watched() -> Iterator[Any]:
        nonlocal first, start
        yield next(feed)
        first = time.monotonic() - began
        for _ in range(warm - 1):
            yield next(feed)
        start = clock()
        for name in vars(timing):
            setattr(timing, name, type(getattr(timing, name))(0))
        while True:
            batch = next(feed)
            stop.requested = time.monotonic() - start >= bench.seconds
            yield batch

    end = 0.0

    def ended() -> None:
        nonlocal end
        end = clock()

    try:
        fit(
            run.state,
            watched(),
            step=step,
            schedule=run.schedule,
            callbacks=Callbacks(lambda network: None, ended, save_seconds=1e9),
            early=spec.config.early_stopping,
            stop=stop,
            timing=timing,
        )
    except Interrupted:
        pass
    finally:
        feed.close()
    lost = run.state.not_applied
    rate = timing.images / (end - start)
    return {
        "images_per_second": round(rate, 1),
        "ms_per_step": round(1e3 * (end - start) / timing.steps, 2),
        "steps": timing.steps,
        "waiting_share": round(timing.waiting / (end - start), 4),
        "first_batch_s": round(first, 2),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else None,
        "steps_not_applied": len(lost),
    }


def same_batch(bench: Bench) -> Iterator[Any]:
    """One batch of noise in the device's memory, for ever."""
    from hgnetv2_pipeline.input.batches import Batch

    shape = (bench.batch, 3, bench.size, bench.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (bench.batch,), device=bench.device)
    batch = Batch(images, labels, [], 0, bench.batch)
    for step in range(1_000_000):
        yield replace(batch, step=step)


def loaded(spec: Any, run: Any) -> Iterator[Any]:
    """Batches as a training run loads them."""
    from hgnetv2_pipeline.data.quarantine import Ledger
    from hgnetv2_pipeline.processes.group import World
    from hgnetv2_pipeline.training.prepare import make_batches

    ledger = Ledger(len(run.train), 0.0)
    alone = World(0, 1, 0)
    return make_batches(run, spec, alone, ledger, steps=1_000_000, workers=spec.config.workers)


def write_images(folder: Path, count: int) -> float:
    """``count`` JPEG files and their index; returns their mean size in KB."""
    from bench_input import photographs

    from hgnetv2_pipeline.data.index import write_index
    from hgnetv2_pipeline.data.scan.folders import scan_folder_tree

    files = photographs(count, noise=11.0)
    (folder / "images" / "all").mkdir(parents=True)
    for n, content in enumerate(files):
        (folder / "images" / "all" / f"{n:04d}.jpg").write_bytes(content)
    found = scan_folder_tree(folder / "images").samples
    found["label"] = [n % CLASSES for n in range(len(found))]
    found["label"] = found["label"].astype("Int64")
    write_index(folder / "train.parquet", found)
    return sum(map(len, files)) / count / 1e3


def fitting_workers(wanted: int, batch: int, size: int) -> tuple[int, str]:
    """As many workers as batches in flight fit into shared memory, and what to say about it."""
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 1 << 40
    fits = int(SHM_SHARE * free / (4 * batch * size * size * 3))
    if fits >= wanted:
        return wanted, ""
    return max(fits, 0), f"{SHM} has {free / 1e9:.1f} GB free: {max(fits, 0)} workers"


def rows_table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, each beside the row of its variant fed on the device."""
    base = {
        row["variant"]: row["images_per_second"]
        for row in rows
        if row["name"] == f"{row['variant']}, {DEVICE_FED}" and "images_per_second" in row
    }
    lines: list[list[object]] = [
        ["run", "images/s", "ratio to fed on device", "ms per step", "waiting", "first batch, s",
         "GB"]
    ]  # fmt: skip
    for row in rows:
        if "images_per_second" not in row:
            lines.append([row["name"], row["not_run"], *[""] * 5])
            continue
        beside = base.get(row["variant"])
        lost = f" ({row['steps_not_applied']} not applied)" if row["steps_not_applied"] else ""
        lines.append(
            [
                row["name"], f"{row['images_per_second']:,.0f}{lost}",
                f"{row['images_per_second'] / beside:.3f}" if beside else "",
                f"{row['ms_per_step']:.1f}", f"{row['waiting_share']:.1%}",
                f"{row['first_batch_s']:.1f}", row["peak_memory_gb"] or "",
            ]
        )  # fmt: skip
    return table(lines)


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds for the whole script")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=16, help="cores")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of a row")
    parser.add_argument("--tiny", action="store_true", help="four images: does it run at all")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.tiny:
        options.batch, options.images, options.size = 2, 4, 64
        options.workers, options.seconds = min(options.workers, 1), 0.1
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.cuda.init()
        device = torch.device("cuda", device.index or 0)
    workers, warning = fitting_workers(options.workers, options.batch, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            Path(folder), device, options.batch, workers, options.size, options.seconds,
            options.tiny,
        )  # fmt: skip
        size = write_images(bench.folder, options.images)
        head = {
            **fingerprint(str(device)),
            "batch": options.batch,
            "workers": workers,
            "pixels": options.size,
            "files": options.images,
            "kb_a_file": round(size, 1),
            "seconds_a_row": options.seconds,
            "warning": warning,
            "command": " ".join(["python", "benchmarks/bench_gpu_training.py", *sys.argv[1:]]),
        }
        print(json.dumps(head), flush=True)
        full = False
        for case in CASES:
            row: dict[str, Any] = {"name": case.name, **vars(case)}
            spent = time.monotonic() - began
            full = full or spent + case.cost > options.budget
            if full:
                row["not_run"] = f"not run: {spent:.0f} of {options.budget:.0f} s were spent"
            elif device.type != "cuda" and (case.amp == "fp16" or "GPU" in case.feed):
                row["not_run"] = "not run: no GPU"
            else:
                try:
                    row |= measure(case, bench)
                except Exception as error:  # one row must not cost the others
                    row["not_run"] = f"failed: {type(error).__name__}: {str(error)[:200]}"
                row["seconds_spent"] = round(time.monotonic() - began - spent, 1)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            rows.append(row)
            print(json.dumps(row), flush=True)
            # After every row: what a time limit cuts off has left its results behind.
            result = {**head, "seconds": round(time.monotonic() - began, 1), "rows": rows}
            (options.out / "bench_gpu_training.json").write_text(json.dumps(result, indent=1))
            described = ", ".join(f"{key} {value}" for key, value in head.items() if value != "")
            (options.out / "bench_gpu_training.md").write_text(
                f"{described}\n\n{rows_table(rows)}\n"
            )
    print((options.out / "bench_gpu_training.md").read_text())


if __name__ == "__main__":
    main()
