"""Latency of B0-B6 on an NVIDIA GPU: PyTorch eager, compiled and as a CUDA graph, and TensorRT and
ONNX Runtime where they are, by precision; the stock network against the reparameterised one.

python benchmarks/bench_gpu_latency.py --out DIR [--budget 200] [--variants b0 ... b6] [--full]
python benchmarks/bench_gpu_latency.py --out DIR --device cpu --runs 3 --variants b0   a smoke run

Cases come in order of importance: at batch 1 the CUDA graph and eager in fp32 and fp16, a few
compiled ones, then TF32 and bf16, then larger batches, layouts and tuning. Each is timed for about
``SECONDS`` (its row says how many calls that were); with --full the CUDA graphs in fp32 come first
and by the seed page's protocol, 2100 calls of which 100 are dropped: about 85 s for B0-B6 in both
forms. A case that would not end within --budget seconds, and a compiled one beyond its share of
them, is dropped and named. channels_last; random weights with calibrated batch
norms (they do not change speed). Every row has its largest error against float64 on the CPU. Writes
bench_gpu_latency.json and .md into --out as the rows come, and prints the latter at the end.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import fingerprint, table

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine, numbered_classes
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.engines.with_torch import TorchEngine
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.latency import figures, fixed_images
from hgnetv2_pipeline.deployment.timing.machine import clocks
from hgnetv2_pipeline.deployment.timing.peak import peak_gb_s, peak_gflops
from hgnetv2_pipeline.deployment.timing.stopwatch import Lap, time_calls
from hgnetv2_pipeline.durable import write_json, write_text
from hgnetv2_pipeline.models.cost import measure_cost
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.models.fold import reparameterize
from hgnetv2_pipeline.variants import VARIANTS
from hgnetv2_pipeline.weights.zoo import ZOO

FORMS = ("reparameterised", "stock")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
COMPILED = (("b0", "fp16"), ("b0", "fp32"), ("b4", "fp16"))
EXPORTED = ("tensorrt", "ort-cuda", "ort")  # engines on an ONNX file
CHECKED = 2  # images whose logits are compared with float64's
SECONDS = 0.25  # that a case is timed, and a quarter of that again with copies
LEAST = 20  # calls, however long one takes
FIRST_COMPILE = 20.0  # seconds that the first compiled case, or TensorRT plan, is taken to cost
COMPILE_SHARE = 0.3  # of the budget
SAVE_EVERY = 15.0  # seconds between two writes of what there is


@dataclass(frozen=True)
class Case:
    """One row: what is timed, and how often at most (``warmup`` calls are not counted)."""

    variant: str
    form: str
    engine: str
    precision: str
    batch_size: int
    warmup: int
    runs: int
    seconds: float | None = SECONDS  # fewer calls where all of them would take longer
    tune: bool = False
    channels_last: bool = True

    @property
    def name(self) -> str:
        extras = " tuned" * self.tune + " NCHW" * (not self.channels_last)
        what = f"{self.variant} {self.form} {self.engine} {self.precision}"
        return f"{what} bs{self.batch_size}{extras}"

    def counts(self, each: float) -> tuple[int, int, int]:
        """(dropped, timed, timed with copies) calls, where one takes ``each`` seconds."""
        if self.seconds is None:
            return self.warmup, self.runs, max(1, self.runs // 10)
        runs = min(self.runs, max(LEAST, int(self.seconds / each)))
        return min(self.warmup, max(3, runs // 4)), runs, max(1, runs // 4)


def plan(
    variants: list[str], gpu: bool, runs: int, warmup: int, *, full: bool, exported: list[str]
) -> Iterator[Case]:
    """Every case, the most telling first."""

    def one(variant: str, form: str, engine: str, precision: str, **more: Any) -> Case:
        counts = {"batch_size": 1, "warmup": warmup, "runs": runs, **more}
        return Case(variant, form, engine, precision, **counts)

    if not gpu:
        yield from _on_cpu(variants, one)
        return
    yield from _at_batch_1(variants, one, full=full)
    for engine, precision in itertools.product(exported, ("fp32", "tf32")):
        for variant in variants:
            yield one(variant, FORMS[0], engine, precision)
    yield from _beyond(variants, one)


def _on_cpu(variants: list[str], one: Callable[..., Case]) -> Iterator[Case]:
    for variant, form, precision in itertools.product(variants, FORMS, ("fp32", "bf16")):
        yield one(variant, form, "eager", precision)
    for variant in variants:
        yield one(variant, FORMS[0], "ort", "fp32")
    yield one(variants[0], FORMS[0], "compiled", "fp32")


def _at_batch_1(variants: list[str], one: Callable[..., Case], *, full: bool) -> Iterator[Case]:
    """PyTorch's engines; ``full``: CUDA graphs in fp32 by the whole protocol, and first."""
    each = list(itertools.product(variants, FORMS))
    if full:
        for variant, form in each:
            yield one(variant, form, "cuda-graph", "fp32", seconds=None)
    for engine, precision in itertools.product(("cuda-graph", "eager"), ("fp32", "fp16")):
        if full and (engine, precision) == ("cuda-graph", "fp32"):
            continue
        for variant, form in each:
            yield one(variant, form, engine, precision)
    for (variant, precision), form in itertools.product(COMPILED, FORMS):
        if variant in variants:
            yield one(variant, form, "compiled", precision)
    for engine, precision in itertools.product(("cuda-graph", "eager"), ("tf32", "bf16")):
        for variant, form in each:
            yield one(variant, form, engine, precision)


def _beyond(variants: list[str], one: Callable[..., Case]) -> Iterator[Case]:
    """Larger batches, and other layouts and searches of CUDA's libraries."""
    for size, precision in itertools.product((32, 128), ("fp16", "fp32", "tf32", "bf16")):
        for variant, form in itertools.product(variants, FORMS):
            yield one(variant, form, "cuda-graph", precision, batch_size=size, warmup=3)
    for precision, variant in itertools.product(("fp32", "fp16"), ("b0", "b4", "b6")):
        for layout, tune in ((False, False), (True, True), (False, True)):
            if variant in variants:
                yield one(
                    variant, FORMS[0], "cuda-graph", precision, channels_last=layout, tune=tune
                )


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
        cost = measure_cost(model)
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
    warmup, runs, copied = case.counts(each)
    expected = each * (warmup + runs + (2 * copied if bare is not None else 0))
    if expected > left:
        return expected
    laps: list[Lap] = time_calls(call, stopwatch, warmup=warmup, runs=runs)
    found: dict[str, Any]
    if bare is None:
        found = {**figures(engine, case.batch_size, laps), "n_timed": runs}
    else:
        with_copies = time_calls(
            lambda: engine.logits(images), stopwatch, warmup=min(warmup, copied), runs=copied
        )
        found = figures(engine, case.batch_size, with_copies, laps)
        found |= {"n_timed": copied, "n_timed_without_copies": runs}
        # The GPU's time for each when it never waits for Python: the throughput.
        count = max(5, min(200, int(0.1 / each)))
        queued = stopwatch.lap(lambda: [bare() for _ in range(count)])
        found["queued_ms"] = queued.gpu * 1e3 / count
    truth = exact[: len(logits)]
    return {
        **{k: v for k, v in asdict(case).items() if k not in ("runs", "seconds")},
        "engine": engine.name,
        "warmup": warmup,
        **found,
        "max_relative_error": float(np.abs(logits - truth).max() / np.abs(truth).max()),
    }


class Opener:
    """Engines of the cases; a network is exported once, into ``folder``."""

    def __init__(self, subjects: Subjects, folder: Path) -> None:
        self.subjects, self._folder = subjects, folder

    def open(self, case: Case) -> Engine:
        subject = self.subjects.get(case.variant)
        if case.engine in EXPORTED:
            path = self._folder / f"{case.variant}.onnx"
            if not path.is_file():
                stock = copy.deepcopy(subject.forms["stock"]).cpu()
                export_onnx(stock, path, preprocess=subject.card.preprocess)
            return load_engine(path, engine=case.engine, precision=case.precision)
        return TorchEngine(
            copy.deepcopy(subject.forms[case.form]),
            replace(subject.card, precision=case.precision),
            model=f"{case.variant} {case.form}",
            device=self.subjects.device,
            mode=case.engine,
            tune=case.tune,
            channels_last=case.channels_last,
        )


@dataclass
class Rows:
    """What was measured, and what was not, with the reason."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def measure(
        self, cases: Iterator[Case], opener: Opener, end: float, compile_seconds: float,
        save: Callable[[], None],
    ) -> None:  # fmt: skip
        """Add the cases that the budget holds; ``save`` is called now and then."""
        saved, compiling = time.monotonic(), FIRST_COMPILE
        for case in cases:
            began = time.monotonic()
            compiled = case.engine in ("compiled", "tensorrt")
            if began + compiling * compiled > end or (compiled and compiling > compile_seconds):
                self.dropped.append(case.name)
                continue
            try:
                with opener.open(case) as engine:
                    exact = opener.subjects.get(case.variant).exact
                    found = row(case, engine, exact, end - time.monotonic())
            except Exception as error:  # noqa: BLE001 - one row's failure may not cost the others
                self.dropped.append(f"{case.name} (failed: {' '.join(str(error).split())[:200]})")
            else:
                if isinstance(found, float):
                    self.dropped.append(f"{case.name} (would take {found:.1f} s)")
                else:
                    took = time.monotonic() - began
                    self.measured.append({**found, "case_seconds": took})
                    print(
                        f"{case.name}: {headline(found):.3f} ms, {took:.1f} s",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
            if compiled:
                took = time.monotonic() - began
                compile_seconds, compiling = compile_seconds - took, took
                torch._dynamo.reset()
            if opener.subjects.device == "cuda":
                torch.cuda.empty_cache()
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()


def exported_engines(gpu: bool) -> tuple[list[str], list[str]]:
    """Engines on ONNX files that are here for a GPU, and why not the others."""
    here, absent = [], []
    for name, module in (("tensorrt", "tensorrt"), ("ort-cuda", "onnxruntime")) if gpu else ():
        if importlib.util.find_spec(module) is None:
            absent.append(f"{name} ({module} is not installed)")
        elif name == "ort-cuda" and not _ort_has_cuda():
            absent.append(f"{name} (this onnxruntime is built without CUDA)")
        else:
            here.append(name)
    return here, absent


def _ort_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def headline(found: dict[str, Any]) -> float:
    """Median milliseconds: the GPU's without copies, else as the caller waits."""
    bare = found.get("without_copies")
    return bare["gpu_p50_ms"] if bare else found["p50_ms"]


def all_rows(rows: list[dict[str, Any]]) -> str:
    """A line a case: milliseconds, what reparameterisation gains, shares, rate and error."""

    def setting(found: dict[str, Any]) -> tuple[object, ...]:
        keys = ("variant", "engine", "precision", "batch_size", "channels_last", "tune")
        return tuple(found[key] for key in keys)

    stock = {setting(found): headline(found) for found in rows if found["form"] == "stock"}
    lines: list[list[str]] = [
        ["variant", "engine", "form", "precision", "batch", "p50", "p90", "p99",
         "p50 with copies, wall", "stock over it", "images/s queued", "% of GEMM",
         "% of bandwidth", "error", "dropped + timed", "published: V100, TensorRT 8.5 FP32"]
    ]  # fmt: skip
    for found in rows:
        bare = found.get("without_copies")
        shown, prefix = (bare, "gpu_") if bare else (found, "")
        twin = stock.get(setting(found)) if found["form"] != "stock" else None
        published = ZOO[f"{found['variant']}.ssld_stage2"].latency_v100_ms
        lines.append(
            [
                found["variant"], found["engine"] + ", tuned" * found["tune"]
                + ", NCHW" * (not found["channels_last"]), found["form"], found["precision"],
                str(found["batch_size"]),
                *(f"{shown[f'{prefix}{kind}_ms']:.3f}" for kind in ("p50", "p90", "p99")),
                f"{found['p50_ms']:.3f}", f"{twin / headline(found):.2f}" if twin else "",
                f"{1e3 * found['batch_size'] / found['queued_ms']:,.0f}"
                if "queued_ms" in found
                else "",
                *(
                    "" if found[key] is None else f"{found[key]:.1f}"
                    for key in ("percent_of_peak", "percent_of_bandwidth")
                ),
                f"{found['max_relative_error']:.1e}",
                f"{found['warmup']} + {found.get('n_timed_without_copies', found['n_timed'])}",
                "" if published is None else f"{published:.2f}",
            ]
        )  # fmt: skip
    return table(lines)


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
    parser.add_argument("--budget", type=float, default=200.0, help="seconds for everything")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--full", action="store_true", help="fp32 graphs by the seed's protocol")
    options = parser.parse_args()
    began = time.monotonic() - time.process_time()  # the imports, as far as they computed
    end = began + options.budget - 5  # the tables
    logging.disable(logging.WARNING)
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        parser.error("PyTorch sees no NVIDIA GPU here; --device cpu is for a smoke run")
    machine = {
        **fingerprint(options.device),
        "measured peaks": {
            **{
                f"{kind} GFLOP/s": peak_gflops(options.device, precision=kind)
                for kind in (PRECISIONS if gpu else ("fp32",))
            },
            "GB/s": peak_gb_s(options.device),
        },
    }
    exported, absent = exported_engines(gpu)
    cases = plan(
        options.variants, gpu, options.runs, min(options.warmup, options.runs),
        full=options.full, exported=exported,
    )  # fmt: skip
    rows = Rows(dropped=absent)

    def save() -> str:
        seconds = time.monotonic() - began
        now = {**machine, "clocks after": clocks(options.device)}
        text = report(now, rows, seconds)
        record = {
            "machine": now, "rows": rows.measured, "not_run": rows.dropped, "seconds": seconds
        }  # fmt: skip
        write_json(options.out / "bench_gpu_latency.json", record)
        write_text(options.out / "bench_gpu_latency.md", text + "\n")
        return text

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        opener = Opener(Subjects(options.device), Path(folder))
        rows.measure(cases, opener, end, COMPILE_SHARE * options.budget, save)
    print(save())


def report(machine: dict[str, Any], found: Rows, seconds: float) -> str:
    """The tables, and what is not in them."""
    rows = found.measured
    return "\n\n".join(
        [
            f"# Latency on {machine.get('gpu', 'the CPU')}",
            f"Machine: {json.dumps(machine)}",
            "Milliseconds, on a GPU by events and without copies; fp32 is without TF32",
            all_rows(rows),
            f"Largest error against float64 on the CPU, of the largest logit: {errors(rows)}",
            f"Not run: {shortened(found.dropped)}",
            f"{len(rows)} rows in {seconds:.0f} s",
        ]
    )


if __name__ == "__main__":
    main()
