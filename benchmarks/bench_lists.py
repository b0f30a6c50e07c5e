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

from hgnetv2_pipeline.processor import describe

CLASSES = 21_841  # of ImageNet-21k
FOLDERS = 1_000
SHARED = 20


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


def write_present(base: Path, path: Path, lines: int) -> Path:
    """A list of files that are all there, and its root; the files are few, their folders many.

    Every folder of the root is a link to one of ``SHARED`` real folders, which are read again for
    each link: as many folders and names are read as are on the disk of a real set, out of the
    operating system's cache. Sixteen million files are nothing to write for a benchmark.
    """
    each = -(-lines // CLASSES)
    real, root = base / "shared", base / "present"
    root.mkdir()
    for number in range(SHARED):
        (real / f"{number}").mkdir(parents=True)
        for i in range(each):
            (real / f"{number}" / f"n00000000_{i:07d}.JPEG").touch()
    for number in range(CLASSES):
        (root / f"n{number:08d}").symlink_to(real / f"{number % SHARED}")
    with path.open("w", encoding="utf-8") as file:
        for i in range(each):
            names = range(min(CLASSES, lines - i * CLASSES))
            file.write("".join(f"n{n:08d}/n00000000_{i:07d}.JPEG {n}\n" for n in names))
    return root


def measure(what: str, path: Path, root: Path) -> dict[str, float]:
    """One reading in this process: seconds, CPU seconds, peak memory in GB, bad files found."""
    from hgnetv2_pipeline.data.lists.read import read_list
    from hgnetv2_pipeline.data.lists.syntax import parse_list
    from hgnetv2_pipeline.errors import DataError

    read_list(path.with_name("warm.txt"))  # imports
    found = 0
    began, cpu = time.perf_counter(), time.process_time()
    try:
        if what == "parse":
            parse_list(path)
        else:
            read_list(
                path, None if what == "read" else root, trusted_roots=[root.with_name("shared")]
            )
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
        present = write_present(base, base / "present.txt", given.lines)
        cases = {
            f"syntax of {given.lines:,} lines": ("parse", base / "long.txt", base),
            f"read_list of {given.lines:,} lines": ("read", base / "long.txt", base),
            f"read_list with a root, all of {given.files:,} missing": (
                "look up", base / "absent.txt", empty),
            f"read_list with a root, 5 % of {given.files:,} missing": (
                "look up", base / "twentieth.txt", nearly),
            f"read_list with a root, {given.lines:,} files, none missing": (
                "look up", base / "present.txt", present),
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
    print(
        json.dumps(
            {"processor": describe(), "python": platform.python_version(), "results": results}
        )
    )


if __name__ == "__main__":
    main()
