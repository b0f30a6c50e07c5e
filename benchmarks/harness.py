"""Contenders measured in turns: what the benchmarks of this folder have in common.

A benchmark makes cases, and a case names its contenders: ways of doing some work, each with what
work it is. They run in one process, one after another in every round and backwards in every second
one, on as many cores as they have threads. Before that each is called once, which is not timed. A
figure is the median over rounds with the middle half of them, a ratio the median of each round's
ratio. A contender of ours is set against the fastest peer *of equal work*; peers that do other work
are shown and judge nothing.

    python benchmarks/bench_NAME.py [--seconds 60] [--quick] [--threads 1] [--store DIR]

prints a Markdown table and writes ``DIR/NAME/MACHINE.json``, case by case: what was measured with
which command, when, on what, how busy it was, and what a matrix product reaches there. ``python
benchmarks/tables.py`` writes the pages of docs/results from such files.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from hgnetv2_pipeline.deployment.timing.stopwatch import (
    Call,
    HostStopwatch,
    Lap,
    median_of,
    time_calls,
)
from hgnetv2_pipeline.processor import cpu_name, describe, features

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "onnxruntime": "onnxruntime",
    "openvino": "openvino", "PIL": "pillow", "cv2": "opencv-python-headless",
    "simplejpeg": "simplejpeg", "numpy": "numpy", "pandas": "pandas", "pyarrow": "pyarrow",
}  # fmt: skip
LEAST_ROUNDS, QUICK_ROUNDS, MOST_CALLS, TURN_SECONDS = 7, 3, 50, 0.1
SETTLED = 0.03
"""Standard error of a ratio, as a share of it, above which more rounds are made."""


@dataclass
class Contender:
    """One way of doing a case's work: ``call`` does it once, or ``lap`` does and times it.

    ``work`` says what is done: peers of another work are no measure for ours. ``flop`` (of one
    call, at ``precision``) and ``moved`` (bytes, if every layer reads and writes memory once) give
    the shares of what a core and the memory were measured to do; ``beside`` names another contender
    that it is compared with as well; ``extra`` is filled by the call with what is measured besides
    time.
    """

    call: Call | None
    work: str
    ours: bool = False
    flop: float = 0.0
    moved: float = 0.0
    precision: str = "fp32"
    lap: Callable[[], Lap] | None = None
    beside: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def turn(self, calls: int) -> Lap:
        """The median of ``calls`` laps, after one that finds the caches again if there are more."""
        if self.lap is not None:
            laps = [self.lap() for _ in range(calls + (calls > 1))][int(calls > 1) :]
        else:
            assert self.call is not None
            laps = time_calls(self.call, HostStopwatch(), warmup=int(calls > 1), runs=calls)
        return Lap(median_of(laps, "wall"), median_of(laps, "cpu"))


@dataclass
class Case:
    """What is measured together. ``units`` (images, say) are in one call; ``clock`` decides.

    ``one_job``: its kinds of work are one job in several precisions, so that the fastest of all may
    be compared. ``cold``: every call starts from nothing, so that the first counts and may be the
    only one.
    """

    name: str
    contenders: Mapping[str, Contender]
    unit: str = "image"
    units: float = 1
    clock: str = "cpu"
    base: str = ""
    note: str = ""
    cold: bool = False
    one_job: bool = False


def compare(
    case: Case, seconds: float, rounds: int = LEAST_ROUNDS
) -> tuple[dict[str, float], dict[str, list[Lap]]]:
    """Seconds of each first call, and a lap a round of each.

    Rounds go on for ``seconds``, and until there are ``rounds``: a busy machine takes longer for
    them, instead of judging by a few. Where a ratio of ours and a peer's is not settled then, up to
    three times as many are made.
    """
    first, calls = {}, dict.fromkeys(case.contenders, 1)
    for name, contender in case.contenders.items() if not case.cold else ():
        first[name] = contender.turn(1).wall
        took = first[name] if first[name] > TURN_SECONDS else contender.turn(1).wall
        calls[name] = int(np.clip(TURN_SECONDS / max(took, 1e-6), 1, MOST_CALLS))
    laps: dict[str, list[Lap]] = {name: [] for name in case.contenders}
    began, number = time.perf_counter(), 0
    least = 1 if case.cold else rounds
    while (
        number < least
        or time.perf_counter() - began < seconds
        or (number < 3 * least and not settled(case, laps))
    ):
        for name in list(case.contenders)[:: -1 if number % 2 else 1]:
            laps[name].append(case.contenders[name].turn(calls[name]))
        number += 1
    return first, laps


def settled(case: Case, laps: Mapping[str, Sequence[Lap]]) -> bool:
    """Whether the medians of what is judged, ours over the fastest peer, are known well enough.

    A median's standard error is 1.25 that of a mean, and the middle half of a normal distribution
    is 1.35 standard deviations wide.
    """
    rounds = len(next(iter(laps.values())))
    judged = [] if case.cold else [
        row["over_peer"] for row in rows_of(case, {}, laps, 1).values() if "over_peer" in row
    ]  # fmt: skip
    return all(
        1.25 * (one["high"] - one["low"]) / 1.35 / np.sqrt(rounds) <= SETTLED * one["median"]
        for one in judged
    )


def figure(values: Sequence[float]) -> dict[str, float]:
    """Median and the middle half, with four digits."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {k: float(f"{v:.4g}") for k, v in (("median", median), ("low", low), ("high", high))}


def rows_of(
    case: Case, first: Mapping[str, float], laps: Mapping[str, Sequence[Lap]], threads: int
) -> dict[str, dict[str, Any]]:
    """What is kept of each contender."""
    ticks = {name: np.array([getattr(lap, case.clock) for lap in laps[name]]) for name in laps}
    rows: dict[str, dict[str, Any]] = {}
    for name, contender in case.contenders.items():
        row: dict[str, Any] = {"work": contender.work, "ours": contender.ours}
        for clock in ("cpu", "wall"):
            row[f"{clock}_ms"] = figure(
                [1e3 * getattr(lap, clock) / case.units for lap in laps[name]]
            )
        if case.base:
            row["over_base"] = figure(ticks[case.base] / ticks[name])
        peers = {
            other: figure(ticks[other] / ticks[name])
            for other, its in case.contenders.items()
            if contender.ours and not its.ours and its.work == contender.work
        }
        if peers:
            row["peer"], row["over_peer"] = min(peers.items(), key=lambda it: it[1]["median"])
        if contender.flop:
            rate = contender.flop / float(np.median(ticks[name])) / 1e9
            cores = threads if case.clock == "wall" else 1
            row["percent_of_peak"] = round(100 * rate / cores / peak(contender.precision), 1)
        if contender.moved:
            rate = contender.moved / float(np.median(ticks[name])) / 1e9
            row["percent_of_bandwidth"] = round(100 * rate / bandwidth(), 1)
        usual = float(np.median([lap.wall for lap in laps[name]]))
        if first.get(name, 0.0) > max(1.0, 10 * usual):
            row["extra"] = {"first call, s": round(first[name], 1)}
        if contender.beside:
            beside = shown(figure(ticks[contender.beside] / ticks[name]))
            row.setdefault("extra", {})[f"over {contender.beside}"] = beside
        if case.cold:
            row.setdefault("extra", {})["wall seconds"] = round(usual, 1)
        row["extra"] = row.get("extra", {}) | contender.extra
        rows[name] = {key: value for key, value in row.items() if value != {}}
    return rows


def best_of(case: Case, laps: Mapping[str, Sequence[Lap]]) -> dict[str, Any]:
    """Our fastest contender over the fastest peer, of whichever of our kinds of work either is."""
    works = {each.work for each in case.contenders.values() if each.ours}
    fastest: dict[bool, tuple[float, str, np.ndarray]] = {}
    for name, contender in case.contenders.items():
        ticks = np.array([getattr(lap, case.clock) for lap in laps[name]])
        if contender.work in works:
            entry = (float(np.median(ticks)), name, ticks)
            fastest[contender.ours] = min(
                fastest.get(contender.ours, entry), entry, key=itemgetter(0)
            )
    if len(fastest) < 2:
        return {}
    (_, ours, own), (_, peer, theirs) = fastest[True], fastest[False]
    return {"ours": ours, "peer": peer, "ratio": figure(theirs / own)}


@cache
def peak(precision: str) -> float:
    """Best GFLOP/s (or GOP/s) of one core over products of two 1024 x 1024 matrices by PyTorch."""
    import torch

    side = 1024
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-100, 100, (side, side), dtype=torch.int8, generator=generator)
    if precision != "int8":
        left = left.to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    product = torch._int_mm if precision == "int8" else torch.matmul
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    laps = time_calls(lambda: product(left, left), HostStopwatch(), warmup=2, runs=12)
    torch.set_num_threads(threads)
    return round(2 * side**3 / min(lap.cpu for lap in laps) / 1e9, 1)


@cache
def bandwidth() -> float:
    """Best GB/s of one core copying 64 MiB, reading and writing counted."""
    source = np.ones(64 << 20, np.uint8)
    target = np.empty_like(source)
    laps = time_calls(lambda: np.copyto(target, source), HostStopwatch(), warmup=2, runs=12)
    return round(2 * source.nbytes / min(lap.cpu for lap in laps) / 1e9, 1)


def machine() -> str:
    """The kind of machine, as the pages name it: ``AMD EPYC (AVX-512, VNNI, bf16; no AMX)``."""
    name = re.sub(r"\((R|TM|tm)\)|\bCPU\b|\bProcessor\b|@.*|\d+-Core", "", cpu_name())
    has = features()
    sets = {
        "AVX-512": {"avx512"}, "VNNI": {"avx512_vnni", "avx_vnni"},
        "bf16": {"avx512_bf16", "neon_bf16"}, "AMX": {"amx_bf16", "amx_int8"},
    }  # fmt: skip
    found = [label for label, names in sets.items() if names & has]
    found = found or [label for label, name in (("AVX2", "avx2"), ("NEON", "neon")) if name in has]
    lacking = "; no AMX" if "avx512" in has and "AMX" not in found else ""
    return f"{' '.join(name.split())} ({', '.join(found)}{lacking})"


def slug(text: str) -> str:
    """As a file is named: ``amd-epyc-avx-512-vnni-bf16-no-amx``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """This process and those it starts on ``threads`` cores, with as many threads in libraries."""
    from threadpoolctl import threadpool_limits

    before = os.sched_getaffinity(0)
    if len(before) < threads:
        raise SystemExit(f"--threads {threads}: this process may use {len(before)} cores")
    os.sched_setaffinity(0, sorted(before)[:threads])
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(names, str(threads)))
    for module, set_threads in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        if module in sys.modules:
            getattr(sys.modules[module], set_threads)(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        os.sched_setaffinity(0, before)


def in_own_process(
    work: Callable[..., Any], *arguments: Any, warm: Sequence[Any] = ()
) -> dict[str, Any]:
    """``work(*arguments)`` in a fresh process: its dict, and ``lap`` and ``peak MB`` of it.

    Time is that of ``work`` without the imports of its module, nor what a call with ``warm``
    imports before; memory that of the whole process.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_timed, work, arguments, warm).result()


def _timed(work: Callable[..., Any], arguments: Any, warm: Sequence[Any]) -> dict[str, Any]:
    logging.disable(logging.INFO)
    if warm:
        work(*warm)
    found: dict[str, Any] = {}
    lap = HostStopwatch().lap(lambda: found.update(work(*arguments) or {}))
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's memory as well
        peak_mb = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    else:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {**found, "lap": lap, "peak MB": round(peak_mb)}


def alone(
    work: Callable[..., Any], *arguments: Any, what: str, warm: Sequence[Any] = ()
) -> Contender:
    """A contender of ours whose every call is a process of its own."""
    contender = Contender(None, what, ours=True)

    def lap() -> Lap:
        found = in_own_process(work, *arguments, warm=warm)
        contender.extra |= {key: value for key, value in found.items() if key != "lap"}
        return found["lap"]

    contender.lap = lap
    return contender


class Elsewhere:
    """A program in an environment of its own that does its work once for every line it is sent.

    It prints a line of JSON when it is ready (``about``), and one with the wall and CPU seconds of
    each call. Lines that are none of both are notices of its libraries.
    """

    def __init__(self, python: Path, program: str, *arguments: object) -> None:
        command = [python, Path(__file__).with_name(program), *arguments]
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.about = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("[", "{")) and line.rstrip().endswith(("]", "}")):
                return json.loads(line)
        raise SystemExit(f"{self._process.args} ended with exit code {self._process.wait()}")

    def lap(self) -> Lap:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return Lap(*self._answer())

    def close(self) -> None:
        """It ends with its input."""
        self._process.communicate()


def run(
    name: str,
    cases: Callable[[argparse.Namespace], Iterable[Case]],
    *,
    doc: str,
    seconds: float,
    options: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """The command of a benchmark: measure every case, print and store it."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=seconds, help="of each case's rounds")
    parser.add_argument("--quick", action="store_true", help="fewer cases, a fifth of the seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path, default=ROOT / "data" / "08_reporting" / "benchmarks")
    options(parser)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    path = given.store / name / f"{slug(machine())}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {"cases": {}}
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(_own_arguments())}".strip()
    print(f"{describe()}\n\n| case | contender | CPU ms | wall ms | over the base | over the best "
          "peer of equal work | of peak, % | besides |\n|" + "---|" * 8, flush=True)  # fmt: skip
    with pinned(given.threads):
        for case in cases(given):
            load = os.getloadavg()[0]
            first, laps = (
                compare(case, given.seconds / 5, QUICK_ROUNDS)
                if given.quick
                else compare(case, given.seconds)
            )
            rows = rows_of(case, first, laps, given.threads)
            stored["cases"][case.name] = {
                **fingerprint(),
                "command": command,
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
                "threads": given.threads,
                "rounds": len(next(iter(laps.values()))),
                "unit": case.unit,
                "clock": case.clock,
                "base": case.base,
                "note": case.note,
                "peak": _peaks(case),
                "best": best_of(case, laps) if case.one_job else {},
                "rows": rows,
            }
            for row, found in rows.items():
                print(f"| {case.name} | {row} | {_line(found)} |", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"benchmark": name, "machine": machine(), "cases": stored["cases"]}
            # What holds no other block is one line.
            text = json.dumps(content, indent=1, ensure_ascii=False)
            text = re.sub(r"\{[^{}]*\}|\[[^][]*\]", lambda found: " ".join(found[0].split()), text)
            path.write_text(text + "\n", encoding="utf-8")
    if path.is_file():
        print(f"\n{path}")


def _own_arguments() -> list[str]:
    """As typed, but for where results go and where this machine has its environments."""
    words = list(sys.argv[1:])
    if "--store" in words:
        at = words.index("--store")
        del words[at : at + 2]
    return [f"ENV/bin/{Path(word).name}" if word.startswith("/") else word for word in words]


def versions() -> dict[str, str]:
    """Of the packages that are at work."""
    return {each: version(each) for name, each in PACKAGES.items() if name in sys.modules}


def _peaks(case: Case) -> dict[str, float]:
    kinds = sorted({each.precision for each in case.contenders.values() if each.flop})
    found = {f"{kind} GFLOP/s": peak(kind) for kind in kinds}
    return {**found, "GB/s": bandwidth()} if kinds else {}


def shown(value: Mapping[str, Any] | None) -> str:
    """A figure: its median with the middle half, or its runs one by one."""
    if not value:
        return ""
    if "runs" in value:
        return ", ".join(map(digits, value["runs"]))
    if value["low"] == value["high"]:  # a single round, or a contender beside itself
        return digits(value["median"])
    return f"{digits(value['median'])} ({digits(value['low'])} to {digits(value['high'])})"


def digits(value: float) -> str:
    """Three of them, two behind the point of a ratio.

    >>> digits(15712.3), digits(137.94), digits(1.0), digits(0.0123)
    ('15,712', '138', '1.00', '0.012')
    """
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:,.{places}f}"


def table(lines: Sequence[Sequence[object]]) -> str:
    """In Markdown; the first line is the head."""
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def fingerprint(device: str = "cpu") -> dict[str, Any]:
    """What measures: processor, cores, versions, date; the GPU's name with its libraries."""
    found: dict[str, Any] = {
        "processor": describe(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.startswith("cuda"):
        import torch

        found |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def besides(row: Mapping[str, Any]) -> str:
    """What was measured beside time, in words."""
    return "; ".join(f"{key} {value}" for key, value in row.get("extra", {}).items())


def _line(row: Mapping[str, Any]) -> str:
    peer = f"{shown(row['over_peer'])}, {row['peer']}" if "peer" in row else ""
    cells = [*(shown(row.get(key)) for key in ("cpu_ms", "wall_ms", "over_base")), peer]
    return " | ".join([*cells, str(row.get("percent_of_peak", "")), besides(row)])
