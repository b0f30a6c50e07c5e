"""Reading lists of millions of lines, and finding a million missing files.

    python benchmarks/bench_lists.py                 # the figures of docs/results/lists.md
    python benchmarks/bench_lists.py --lines 1000000 --files 100000

Each measurement runs in a process of its own, so that its peak memory is its own; the lists are
written into a temporary folder and removed. Time is that of the whole process but its imports.
``--quick`` has a tenth of the lines and files.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import Case, alone, run

from hgnetv2_pipeline.data.lists.read import read_list
from hgnetv2_pipeline.data.lists.syntax import parse_list
from hgnetv2_pipeline.errors import DataError

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


def read(what: str, path: Path, root: Path) -> dict[str, int]:
    """One reading: how many bad files were found."""
    try:
        if what == "parse":
            parse_list(path)
        else:
            read_list(
                path, None if what == "read" else root, trusted_roots=[root.with_name("shared")]
            )
    except DataError as error:
        return {"bad found": int(str(error).split(": ")[1].split(" of ")[0].replace(",", ""))}
    return {"bad found": 0}


def cases(given: argparse.Namespace) -> Iterator[Case]:
    lines, files = (count // (10 if given.quick else 1) for count in (given.lines, given.files))
    with tempfile.TemporaryDirectory(prefix="bench-lists-") as folder:
        base = Path(folder)
        write_names(base / "long.txt", lines, CLASSES)
        write_names(base / "absent.txt", files, FOLDERS)
        write_names(base / "twentieth.txt", files, FOLDERS)
        empty, nearly = base / "empty", base / "nearly"
        for number in range(FOLDERS):
            (empty / f"n{number:08d}").mkdir(parents=True)
            (nearly / f"n{number:08d}").mkdir(parents=True)
        for i in range(files):
            if (i // FOLDERS) % 20:
                (nearly / f"n{i % FOLDERS:08d}" / f"n{i % FOLDERS:08d}_{i}.JPEG").touch()
        present = write_present(base, base / "present.txt", lines)
        readings = {
            f"syntax of {lines:,} lines (`parse_list`)": ("parse", base / "long.txt", base),
            f"`read_list` of {lines:,} lines": ("read", base / "long.txt", base),
            f"with a root, all of {files:,} missing": ("look up", base / "absent.txt", empty),
            f"with a root, 5 % of {files:,} missing": ("look up", base / "twentieth.txt", nearly),
            f"with a root, {lines:,} files, none missing": (
                "look up", base / "present.txt", present),
        }  # fmt: skip
        (base / "warm.txt").write_text("a.jpg 0\n")
        warm = ("look up", base / "warm.txt", base)
        every = {
            name: alone(read, *reading, what="list", warm=warm)
            for name, reading in readings.items()
        }
        yield Case(f"{lines:,} lines, {files:,} files", every, unit="list", cold=True)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, default=14_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)


if __name__ == "__main__":
    run("lists", cases, doc=__doc__, seconds=30, options=options)
