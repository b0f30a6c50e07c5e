"""Reading lists of millions of lines, and finding a million missing files.

    python benchmarks/bench_lists.py                 # the figures of docs/results/lists.md
    python benchmarks/bench_lists.py --lines 1000000 --files 100000

Each measurement runs in a process of its own, so that its peak memory is its own; the lists are
written into a temporary folder and removed. Time is that of the whole process but its imports.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = 21_841  # of ImageNet-21k
FOLDERS = 1_000


def write_names(path: Path, lines: int, classes: int) -> None:
    """A list as ImageNet-21k's: synset folder, file, class."""
    block = 100_000
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, lines, block):
            file.write(
                "".join(
                    f"n{i % classes:08d}/n{i % classes:08d}_{i}.JPEG {i % classes}\n"
                    for i in range(start, min(lines, start + block))
                )
            )


def measure(what: str, path: Path, root: Path) -> dict[str, float]:
    """One reading in this process: seconds, CPU seconds, peak memory in GB, bad files found."""
    from hgnetv2_pipeline.data import read_list
    from hgnetv2_pipeline.data.grammar import parse_list
    from hgnetv2_pipeline.errors import DataError

    read_list(path.with_name("warm.txt"))  # imports
    found = 0
    began, cpu = time.perf_counter(), time.process_time()
    try:
        if what == "parse":
            parse_list(path)
        else:
            read_list(path, root if what == "missing" else None)
    except DataError as error:
        found = int(str(error).split(": ")[1].split(" of ")[0].replace(",", ""))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak, "found": found}


def in_process(what: str, path: Path, root: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, str(path), str(root)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=int, default=14_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, path, root = given.measure
        print(json.dumps(measure(what, Path(path), Path(root))))
        return
    results = {}
    with tempfile.TemporaryDirectory(prefix="bench-lists-") as folder:
        base = Path(folder)
        (base / "warm.txt").write_text("a.jpg 0\n")
        write_names(base / "long.txt", given.lines, CLASSES)
        write_names(base / "absent.txt", given.files, FOLDERS)
        write_names(base / "twentieth.txt", given.files, FOLDERS)
        empty, nearly = base / "empty", base / "nearly"
        for number in range(FOLDERS):
            (empty / f"n{number:08d}").mkdir(parents=True)
            (nearly / f"n{number:08d}").mkdir(parents=True)
        for i in range(given.files):
            if (i // FOLDERS) % 20:
                (nearly / f"n{i % FOLDERS:08d}" / f"n{i % FOLDERS:08d}_{i}.JPEG").touch()
        cases = {
            f"syntax of {given.lines:,} lines": ("parse", base / "long.txt", base),
            f"read_list of {given.lines:,} lines": ("read", base / "long.txt", base),
            f"read_list with a root, all of {given.files:,} missing": (
                "missing", base / "absent.txt", empty),
            f"read_list with a root, 5 % of {given.files:,} missing": (
                "missing", base / "twentieth.txt", nearly),
        }  # fmt: skip
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for _ in range(given.repeats):
            for name, case in cases.items():
                runs[name].append(in_process(*case))
        for name, found in runs.items():
            middle = sorted(found, key=lambda run: run["cpu_seconds"])[len(found) // 2]
            results[name] = {key: round(value, 2) for key, value in middle.items()}
    width = max(map(len, results))
    print(f"{'':{width}}  seconds  CPU s  peak GB  bad found")
    for name, run in results.items():
        print(
            f"{name:{width}}  {run['seconds']:7.1f}  {run['cpu_seconds']:5.1f}"
            f"  {run['peak_gb']:7.2f}  {run['found']:9,.0f}"
        )
    print(json.dumps({"python": platform.python_version(), "results": results}))


if __name__ == "__main__":
    main()
