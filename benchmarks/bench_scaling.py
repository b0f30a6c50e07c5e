"""How the cost and the memory of every stage grow: images, classes, workers, processes, batch.

    python benchmarks/bench_scaling.py      # up to a million images
    python benchmarks/bench_scaling.py --most 14000000   # as in docs/results/scaling.md
    python benchmarks/bench_scaling.py --stages walk index --most 14000000
    python benchmarks/bench_scaling.py --page   # writes tables and plots

Each point is measured in a process of its own, one thread, after its input was made by another. The
results are kept in ``--out``, so that stages may be measured one by one; ``--page`` writes the
tables between the marks of docs/results/scaling.md and the plots in docs/images. Input is made
below ``--work`` and removed after each point: at 14 million up to 10 GB, and 10 million names of a
few files for the walk.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scaling_stages import STAGES

from hgnetv2_pipeline.durable import read_json, write_json, write_text
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.reporting import svg

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs/results/scaling.md"
IMAGES = PROJECT / "docs/images"
Point = dict[str, Any]


def status(name: str) -> float:
    """A line of /proc/self/status in MB, such as VmHWM, the most memory this process has had."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith(name)) * 1024 / 1e6


def measure(name: str, size: int, base: Path) -> Point:
    """One point in this process; CPU time is that of its children too, once they have ended."""
    work = STAGES[name].ready(base, size)
    before = status("VmRSS")
    began, cpu = time.perf_counter(), os.times()
    found = work()
    now = os.times()
    return {
        "size": size,
        "cpu_s": sum(now[:4]) - sum(cpu[:4]),
        "wall_s": time.perf_counter() - began,
        "peak_mb": status("VmHWM"),
        "before_mb": before,
        **found,
    }


def in_process(what: str, name: str, size: int, base: Path) -> str:
    done = subprocess.run(
        [sys.executable, __file__, "--do", what, name, str(size), str(base)],
        stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.stdout


def points(names: Sequence[str], size: int, work: Path | None) -> Iterator[tuple[str, Point]]:
    """The stages of one input, which is made once and removed at the end."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="bench-scaling-", dir=work))
    try:
        if STAGES[names[0]].prepare is not None:
            in_process("prepare", names[0], size, base)
        for name in names:
            yield name, dict(json.loads(in_process("measure", name, size, base).splitlines()[-1]))
    finally:
        shutil.rmtree(base)


def fit(points: list[Point], key: str = "cpu_s") -> tuple[float, float]:
    """Exponent and constant of ``key = constant * size ** exponent``: least squares of the
    logarithms over the upper half of the points (of an odd number the middle one too).
    """
    points = sorted((one for one in points if one["size"]), key=lambda one: one["size"])
    upper = points[min(len(points) // 2, len(points) - 2) :]
    xs = [math.log(one["size"]) for one in upper]
    ys = [math.log(max(one[key], 1e-3)) for one in upper]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum(
        (a - x) ** 2 for a in xs
    )
    return slope, math.exp(y - slope * x)


def number(value: float) -> str:
    """Three digits that count: 0.0123, 4.56, 789, 12,300."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{digits}f}"


def table(results: dict[str, list[Point]], of: str) -> list[str]:
    """One row per stage measured against ``of``."""
    stages = {name: results[name] for name in STAGES if STAGES[name].of == of and name in results}
    sizes = sorted({one["size"] for points in stages.values() for one in points})
    head = [
        "stage",
        *(f"{size:,}" for size in sizes),
        "exponent",
        "each, at the largest",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, points in stages.items():
        known = {one["size"]: one for one in points}
        cells = [
            f"{number(known[size]['cpu_s'])} s, {number(known[size]['peak_mb'])} MB"
            if size in known
            else ""
            for size in sizes
        ]
        last, first = known[max(known)], known[min(known)]
        each = (last["peak_mb"] - first["peak_mb"]) * 1e6 / (last["size"] - first["size"] or 1)
        grows = len(points) > 2 and min(known) > 0
        cells += [
            f"{fit(points)[0]:.2f}" if grows else "",
            f"{number(last['cpu_s'] / last['size'] * 1e6)} µs, {number(each)} B" if grows else "",
        ]
        lines.append(f"| {name.removeprefix(of + ': ')} | {' | '.join(cells)} |")
    return lines


def plot(results: dict[str, list[Point]], of: str, key: str, label: str) -> str:
    """Lines over two logarithmic axes, on white paper, their names at their ends."""
    lines = {
        name: sorted((max(one["size"], 1), one[key]) for one in results[name])
        for name in STAGES
        if STAGES[name].of == of and len(results.get(name, ())) > 2
    }
    xs = [x for line in lines.values() for x, _ in line]
    ys = [max(y, 1e-3) for line in lines.values() for _, y in line]
    width, height, right = 760.0, 430.0, 560.0
    frame = svg.Frame(
        60, 44, right, height - 50, (min(xs), max(xs)),
        (math.log10(min(ys) / 1.3), math.log10(max(ys) * 1.3)), log_x=True,
    )  # fmt: skip
    parts = [f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>']
    parts.append(svg.text(8, 18, f"{label} by number of {of}", bold=True))
    for value in svg.log_ticks(*frame.x_range):
        at = frame.x(value)
        parts.append(svg.line(at, frame.top, at, frame.bottom))
        parts.append(svg.text(at, frame.bottom + 16, f"{value:,.0f}", anchor="middle", size=11))
    for power in range(math.ceil(frame.y_range[0]), math.floor(frame.y_range[1]) + 1):
        at = frame.y(power)
        parts.append(svg.line(frame.left, at, frame.right, at))
        parts.append(svg.text(frame.left - 7, at + 4, f"{10.0**power:g}", anchor="end", size=11))
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, css="axis"))
    parts.append(svg.text((60 + right) / 2, height - 14, of, anchor="middle", css="faint"))
    taken: list[float] = []
    ends = sorted(lines.items(), key=lambda item: -item[1][-1][1])
    for place, (name, line) in enumerate(ends):
        colour = place % len(svg.PALETTE)
        at = [(frame.x(x), frame.y(math.log10(max(y, 1e-3)))) for x, y in line]
        dash = "5 3" if place >= len(svg.PALETTE) else ""
        parts.append(svg.path(at, colour, dash=dash))
        parts += [
            svg.dot(x, y, colour, radius=2.5, title=f"{name}, {size:,}: {number(value)}")
            for (x, y), (size, value) in zip(at, line, strict=True)
        ]
        y = max(at[-1][1], taken[-1] + 14 if taken else 0.0)
        taken.append(y)
        parts.append(svg.line(at[-1][0], at[-1][1], right + 18, y, css=f"s{colour}", dash="1 3"))
        parts.append(svg.text(right + 22, y + 4, name.removeprefix(f"{of}: "), size=12))
    return svg.drawing(width, height, f"{label} by number of {of}", parts)


PLOTS = {
    "scaling_cpu": ("images", "cpu_s", "CPU seconds"),
    "scaling_memory": ("images", "peak_mb", "Peak memory of the process, MB,"),
    "scaling_classes": ("classes", "cpu_s", "CPU seconds"),
}


def write_page(kept: dict[str, Any]) -> None:
    """The tables between the marks of the page, and the plots."""
    results, text = kept["stages"], PAGE.read_text()
    for of in dict.fromkeys(stage.of for stage in STAGES.values()):
        begin, end = f"<!-- {of} -->\n", f"<!-- end of {of} -->"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        lines = "\n".join(table(results, of))
        text = f"{before}{begin}{lines}\n{end}{after}"
    write_text(PAGE, text)
    for name, what in PLOTS.items():
        write_text(IMAGES / f"{name}.svg", plot(results, *what) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of images")
    parser.add_argument("--least", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where input is made, for a while")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/results/scaling.json")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--do", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.do:
        what, name, size, base = given.do
        if what == "prepare":
            prepare = STAGES[name].prepare
            assert prepare is not None
            prepare(Path(base), int(size))
        else:
            print(json.dumps(measure(name, int(size), Path(base))))
        return
    kept = read_json(given.out) if given.out.is_file() else {"stages": {}}
    if given.page:
        write_page(kept)
        return
    for size, names in groups(given.stages, given.least, given.most):
        for name, found in points(names, size, given.work):
            found |= {"date": str(datetime.date.today()), "machine": describe()}
            others = [one for one in kept["stages"].get(name, ()) if one["size"] != size]
            kept["stages"][name] = sorted([*others, found], key=lambda one: one["size"])
            kept["python"] = platform.python_version()
            write_json(given.out, kept)
            print(
                f"{name:24} {size:>12,}  {found['cpu_s']:9.2f} CPU s  {found['wall_s']:9.2f} s  "
                f"{found['peak_mb']:8.0f} MB", flush=True,
            )  # fmt: skip


def groups(names: Sequence[str], least: int, most: int) -> Iterator[tuple[int, list[str]]]:
    """Sizes from ``least`` to ``most``, each with stages that are measured on the same input."""
    inputs: dict[Any, list[str]] = {}
    for name in names:
        inputs.setdefault(STAGES[name].prepare or name, []).append(name)
    for together in inputs.values():
        for size in sorted({size for name in together for size in STAGES[name].sizes}):
            here = [name for name in together if size in STAGES[name].sizes]
            if least <= size <= most:
                yield size, here


if __name__ == "__main__":
    main()
