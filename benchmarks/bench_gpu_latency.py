"""Latency of B0-B6 on an NVIDIA GPU: PyTorch eager, compiled and as a CUDA graph, by precision,
the stock network against the reparameterised one.

python benchmarks/bench_gpu_latency.py --out DIR [--budget 160] [--variants b0 ... b6]
python benchmarks/bench_gpu_latency.py --out DIR --device cpu --runs 3 --variants b0   a smoke run

Batch 1 by the seed page's protocol (2100 calls, 100 of them dropped) where the table says so,
larger batches with fewer; channels_last; random weights with calibrated batch norms (they do not
change speed). Cases come in order of importance; one that would not end within --budget seconds
(imports not counted), and a compiled one beyond its share of them, is dropped and named. Every row
has its largest error against float64 on the CPU. Writes bench_gpu_latency.json and .md into --out
and prints the latter.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgnetv2_pipeline.data import Preprocess
from hgnetv2_pipeline.deployment import EngineUnavailable, ModelCard, export_onnx, load_engine
from hgnetv2_pipeline.deployment.engines.base import numbered_classes
from hgnetv2_pipeline.deployment.engines.with_torch import TorchEngine
from hgnetv2_pipeline.deployment.latency import figures, fixed_images
from hgnetv2_pipeline.deployment.machine import clocks
from hgnetv2_pipeline.deployment.machine_peak import peak_gb_s, peak_gflops
from hgnetv2_pipeline.deployment.stopwatch import Lap, time_calls
from hgnetv2_pipeline.durable import write_json, write_text
from hgnetv2_pipeline.models import ZOO, create_model, profile, reparameterize

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6")
FORMS = ("reparameterised", "stock")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
COMPILED = ("b0", "b4", "b2")
CHECKED = 2  # images whose logits are compared with float64's
COMPILE_SHARE = 0.25  # of the budget


@dataclass(frozen=True)
class Case:
    """One row: what is timed, and how often (``warmup`` calls are not counted)."""

    variant: str
    form: str
    engine: str
    precision: str
    batch_size: int
    warmup: int
    runs: int
    copied_runs: int  # with copies to and from the GPU; also after ``warmup`` uncounted ones
    seconds: float | None = None  # fewer runs where all of them would take longer
    tune: bool = False
    channels_last: bool = True


def plan(variants: list[str], gpu: bool, runs: int, warmup: int) -> Iterator[Case]:
    """Every case, the most telling first."""
    full = {"batch_size": 1, "warmup": warmup, "runs": runs, "copied_runs": max(1, runs // 10)}
    few = {**full, "runs": max(1, runs // 8), "copied_runs": max(1, runs // 20)}
    each = list(itertools.product(variants, FORMS))
    if not gpu:
        for (variant, form), precision in itertools.product(each, ("fp32", "bf16")):
            yield Case(variant, form, "eager", precision, **full)
        yield Case(variants[0], FORMS[0], "compiled", "fp32", **full)
        return
    for variant, form in each:
        yield Case(variant, form, "cuda-graph", "fp32", **full)
    yield from _settings([v for v in ("b0", "b4") if v in variants], "fp32", few)
    for variant, form in each:
        yield Case(variant, form, "cuda-graph", "fp16", **full)
    for variant, form in each:
        yield Case(variant, form, "eager", "fp32", **few)
    for precision, variant in itertools.product(("fp16", "fp32"), COMPILED):
        for form in FORMS if variant in variants else ():
            yield Case(variant, form, "compiled", precision, **few)
    yield from _batches(32, ("fp16", "fp32"), each)
    for variant, form in each:
        yield Case(variant, form, "cuda-graph", "tf32", **full)
    yield from _batches(128, ("fp16", "tf32"), each)
    yield from _settings([v for v in ("b0", "b4", "b6") if v in variants], "fp16", few)
    for variant, form in each:
        yield Case(variant, form, "cuda-graph", "bf16", **full, seconds=1.0)
        yield Case(variant, form, "eager", "fp16", **few, seconds=1.0)
    yield from _batches(32, ("tf32", "bf16"), each)
    yield from _batches(128, ("fp32", "bf16"), each)


def _settings(variants: list[str], precision: str, counts: dict[str, int]) -> Iterator[Case]:
    """The other layout, and cuDNN timing its algorithms, beside the usual settings."""
    for variant in variants:
        for layout, tune in ((False, False), (True, True), (False, True)):
            yield Case(
                variant, FORMS[0], "cuda-graph", precision, **counts, channels_last=layout,
                tune=tune,
            )  # fmt: skip


def _batches(size: int, precisions: tuple[str, ...], each: list[tuple[str, str]]) -> Iterator[Case]:
    for precision, (variant, form) in itertools.product(precisions, each):
        yield Case(variant, form, "cuda-graph", precision, size, 3, 100, 10, seconds=0.25)


@dataclass(frozen=True)
class Subject:
    """A variant: its network in both forms on the device, its card, its logits in float64."""

    forms: dict[str, torch.nn.Module]
    card: ModelCard
    exact: np.ndarray


class Subjects:
    """The variants, each made when first asked for."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._made: dict[str, Subject] = {}

    def get(self, variant: str) -> Subject:
        if variant not in self._made:
            self._made[variant] = self._make(variant)
        return self._made[variant]

    def _make(self, variant: str) -> Subject:
        torch.manual_seed(0)
        with torch.device(self.device):
            model = create_model(variant)
        for name, value in model.named_parameters():
            with torch.no_grad():
                if name.endswith("lab.scale"):
                    value.uniform_(0.5, 1.5)
                    # Training leaves negative scales too; they become upper bounds.
                    value.mul_(-1 if torch.rand(()) < 1 / 6 else 1)
                elif name.endswith("lab.bias"):
                    value.uniform_(-0.4, 0.4)
        cost = profile(model)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain mean of what follows
        with torch.no_grad():
            model.train()(torch.randn(16, 3, 224, 224, device=self.device))
        card = ModelCard(
            preprocess=Preprocess(),
            classes=numbered_classes(1000),
            variant=variant,
            macs=cost.macs,
            params=cost.params,
            activations=cost.activations,
        )
        with torch.inference_mode():
            exact = copy.deepcopy(model.eval()).cpu().double()(random_images(CHECKED).double())
        return Subject(
            {"reparameterised": reparameterize(model), "stock": model}, card, exact.numpy()
        )


def random_images(count: int) -> torch.Tensor:
    """The first ``count`` of the images that every case is timed on."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.standard_normal((count, 3, 224, 224), np.float32))


def row(case: Case, engine: Any, exact: np.ndarray, left: float) -> dict[str, Any] | float:
    """The row of a case; or, where it would take longer than ``left`` seconds, how long."""
    images = fixed_images(engine, case.batch_size)
    stopwatch, bare = engine.stopwatch(), engine.resident(images)
    call = (lambda: engine.logits(images)) if bare is None else bare
    logits = engine.logits(images)[:CHECKED]  # also compiles and captures
    tried = time_calls(call, stopwatch, warmup=2, runs=3)
    each = sorted(lap.wall for lap in tried)[1]
    runs, copied = case.runs, case.copied_runs
    if case.seconds is not None:
        runs = max(5, min(runs, int(case.seconds / each)))
        copied = max(3, min(copied, runs))
    expected = each * (case.warmup + runs + (copied if bare is not None else 0))
    if expected > left:
        return expected
    laps: list[Lap] = time_calls(call, stopwatch, warmup=case.warmup, runs=runs)
    found: dict[str, Any]
    if bare is None:
        found = {**figures(engine, case.batch_size, laps), "n_timed": runs}
    else:
        with_copies = time_calls(
            lambda: engine.logits(images), stopwatch, warmup=min(case.warmup, copied), runs=copied
        )
        found = figures(engine, case.batch_size, with_copies, laps)
        found |= {"n_timed": copied, "n_timed_without_copies": runs}
        # The GPU's time for each when it never waits for Python: the throughput.
        count = max(5, min(200, int(0.1 / each)))
        queued = stopwatch.lap(lambda: [bare() for _ in range(count)])
        found["queued_ms"] = queued.gpu * 1e3 / count
    truth = exact[: len(logits)]
    return {
        **{k: v for k, v in asdict(case).items() if k not in ("runs", "copied_runs", "seconds")},
        "engine": engine.name,
        **found,
        "max_relative_error": float(np.abs(logits - truth).max() / np.abs(truth).max()),
    }


def torch_row(case: Case, subjects: Subjects, left: float) -> dict[str, Any] | float:
    """The row of a case on PyTorch, or how long it would take."""
    subject = subjects.get(case.variant)
    with TorchEngine(
        copy.deepcopy(subject.forms[case.form]),
        replace(subject.card, precision=case.precision),
        model=f"{case.variant} {case.form}",
        device=subjects.device,
        mode=case.engine,
        tune=case.tune,
        channels_last=case.channels_last,
    ) as engine:
        return row(case, engine, subject.exact, left)


def torch_rows(
    cases: Iterator[Case], subjects: Subjects, end: float, compile_seconds: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the cases that the budget holds, and which others there were."""
    rows: list[dict[str, Any]] = []
    dropped: list[str] = []
    longest = 0.0
    for case in cases:
        name = f"{case.variant} {case.form} {case.engine} {case.precision} bs{case.batch_size}"
        name += " tuned" * case.tune + " NCHW" * (not case.channels_last)
        began = time.monotonic()
        compiled = case.engine == "compiled"
        if began + longest * compiled > end or (compiled and longest > compile_seconds):
            dropped.append(name)
            continue
        try:
            found = torch_row(case, subjects, end - began)
        except Exception as error:  # noqa: BLE001 - one row's failure may not cost the others
            dropped.append(f"{name} (failed: {' '.join(str(error).split())[:200]})")
            found = 0.0
        else:
            if isinstance(found, float):
                dropped.append(f"{name} (would take {found:.0f} s)")
        took = time.monotonic() - began
        if compiled:
            compile_seconds, longest = compile_seconds - took, max(longest, took)
            torch._dynamo.reset()
        if not isinstance(found, float):
            rows.append({**found, "case_seconds": took})
            print(f"{name}: {headline(found):.3f} ms", file=sys.stderr, flush=True)
        if subjects.device == "cuda":
            torch.cuda.empty_cache()
    return rows, dropped


def exported_rows(
    subjects: Subjects, variants: list[str], end: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, what was not run): TensorRT and ONNX Runtime CUDA on the exported file, if present."""
    rows, absent = [], []
    for name, module in (("tensorrt", "tensorrt"), ("ort-cuda", "onnxruntime")):
        if importlib.util.find_spec(module) is None:
            absent.append(f"{name}: not run ({module} is not installed)")
            continue
        for variant in variants:
            case = Case(variant, FORMS[0], name, "fp32", 1, 100, 2000, 200, seconds=4.0)
            if time.monotonic() > end:
                absent.append(f"{name} {variant}: not run (no time left)")
                continue
            subject = subjects.get(variant)
            stock = copy.deepcopy(subject.forms["stock"]).cpu()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                try:
                    export_onnx(stock, path, preprocess=subject.card.preprocess)
                    with load_engine(path, engine=name) as engine:
                        found = row(case, engine, subject.exact, end - time.monotonic())
                except EngineUnavailable as error:
                    absent.append(f"{name}: not run ({error})")
                    break
            if isinstance(found, float):
                absent.append(f"{name} {variant}: not run (would take {found:.0f} s)")
            else:
                rows.append(found)
    return rows, absent


def headline(found: dict[str, Any]) -> float:
    """Median milliseconds: the GPU's without copies, else as the caller waits."""
    bare = found.get("without_copies")
    return bare["gpu_p50_ms"] if bare else found["p50_ms"]


def reference(variant: str) -> str:
    published = ZOO[f"{variant}.ssld_stage2"].latency_v100_ms
    return "" if published is None else f"{published:.2f}"


def table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def batch_one(rows: list[dict[str, Any]]) -> str:
    """A line a variant, engine and form; milliseconds by precision."""
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for found in rows:
        if found["batch_size"] == 1 and found["channels_last"] and not found["tune"]:
            key = found["variant"], found["engine"], found["form"]
            cells.setdefault(key, {})[found["precision"]] = f"{headline(found):.3f}"
    body = [
        [*key, *(cells[key].get(precision, "") for precision in PRECISIONS), reference(key[0])]
        for key in sorted(cells)
    ]
    head = ["variant", "engine", "form", *PRECISIONS, "published: V100, TensorRT 8.5 FP32"]
    return table(head, body)


def in_full(rows: list[dict[str, Any]]) -> str:
    """mean, p50, p90, p99, shares and error of the float32 rows at batch 1."""
    body = []
    for found in rows:
        if (found["batch_size"], found["precision"]) != (1, "fp32"):
            continue
        bare = found.get("without_copies")
        shown, prefix = (bare, "gpu_") if bare else (found, "")
        name = found["engine"] + ", tuned" * found["tune"]
        name += ", NCHW" * (not found["channels_last"])
        body.append(
            [
                found["variant"],
                name,
                found["form"],
                *(f"{shown[f'{prefix}{kind}_ms']:.3f}" for kind in ("mean", "p50", "p90", "p99")),
                f"{found['p50_ms']:.3f}",
                share(found["percent_of_peak"]),
                share(found["percent_of_bandwidth"]),
                f"{found['max_relative_error']:.1e}",
                f"{found['warmup']} + {found.get('n_timed_without_copies', found['n_timed'])}",
            ]
        )
    return table(
        ["variant", "engine", "form", "mean", "p50", "p90", "p99", "p50 with copies, wall",
         "% of GEMM", "% of bandwidth", "error", "dropped + timed"],
        body,
    )  # fmt: skip


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def throughput(rows: list[dict[str, Any]]) -> str:
    """Images a second at the larger batches, both forms, and their ratio."""
    cells: dict[tuple[str, str], dict[tuple[int, str], float]] = {}
    for found in rows:
        if found["batch_size"] > 1 and "queued_ms" in found:
            rate = found["batch_size"] / found["queued_ms"] * 1e3
            key = found["variant"], found["form"]
            cells.setdefault(key, {})[found["batch_size"], found["precision"]] = rate
    columns = sorted({column for rates in cells.values() for column in rates})
    body = [
        [*key, *(f"{rates[column]:,.0f}" if column in rates else "" for column in columns)]
        for key, rates in sorted(cells.items())
    ]
    return table(["variant", "form", *(f"bs{size} {kind}" for size, kind in columns)], body)


def errors(rows: list[dict[str, Any]]) -> str:
    worst: dict[str, float] = {}
    for found in rows:
        error = worst.get(found["precision"], 0.0)
        worst[found["precision"]] = max(error, found["max_relative_error"])
    return ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())


def shortened(names: list[str]) -> str:
    more = f"; and {len(names) - 10} more, in the JSON" if len(names) > 10 else ""
    return "; ".join(names[:10]) + more or "nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=160.0, help="seconds for everything")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=100)
    options = parser.parse_args()
    end = time.monotonic() + options.budget - 5  # the tables and the last row's overrun
    logging.disable(logging.WARNING)
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("PyTorch sees no NVIDIA GPU here; --device cpu is for a smoke run")
    peaks = {
        **{
            f"{kind} GFLOP/s": peak_gflops(options.device, precision=kind)
            for kind in (PRECISIONS if gpu else ("fp32",))
        },
        "GB/s": peak_gb_s(options.device),
    }
    subjects = Subjects(options.device)
    cases = plan(options.variants, gpu, options.runs, min(options.warmup, options.runs))
    rows, absent = exported_rows(subjects, options.variants, end) if gpu else ([], [])
    more, dropped = torch_rows(cases, subjects, end, COMPILE_SHARE * options.budget)
    rows += more
    device = torch.cuda.get_device_name() if gpu else "CPU"
    machine = {
        "device": device,
        "clocks after": clocks(options.device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "measured peaks": peaks,
    }
    seconds = options.budget - 5 - (end - time.monotonic())
    text = "\n\n".join(
        [
            f"# Latency on {device}",
            f"Machine: {json.dumps(machine)}",
            "Batch 1, median ms (on a GPU by events, without copies; fp32 is without TF32)",
            batch_one(rows),
            "Float32 at batch 1 in full, ms",
            in_full(rows),
            "Images a second, batches queued",
            throughput(rows),
            f"Largest error against float64 on the CPU, of the largest logit: {errors(rows)}",
            f"Not run: {shortened([*absent, *dropped])}",
            f"{len(rows)} rows in {seconds:.0f} s",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rows": rows, "not_run": [*absent, *dropped], "seconds": seconds}
    write_json(options.out / "bench_gpu_latency.json", record)
    write_text(options.out / "bench_gpu_latency.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
