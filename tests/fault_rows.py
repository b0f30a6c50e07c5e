"""The faults that this project promises something about, and the tests that name each.

    python tests/fault_rows.py          write docs/reliability.md again

A test names a row by its id (L01, W09, ...) in its docstring, its parameters or a comment of its own.
"""

# ruff: noqa: E501, S108 - rows of a table
from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"

CHAPTERS = {
    "L": "Lists and folders",
    "I": "Images",
    "W": "Weight files",
    "O": "Models in ONNX and TensorRT",
    "C": "Checkpoints, results and disks",
    "P": "Processes",
    "G": "Configuration",
    "M": "Mining",
    "X": "Network, tools and rights",
    "S": "The server",
}
OPEN: dict[str, str] = {}
"""Promises that no test holds, and what happens today."""
ROWS = {
    "L01": ("a line leads out of the root by `..`", "refused with file and line"),
    "L02": ("an absolute path", "refused with file and line"),
    "L03": ("a link out of the root", "refused, unless it leads into `data.trusted_roots`"),
    "L04": ("a linked folder, a ring of links", "that entry is named, all others are read; no hang"),
    "L05": ("a label of -1, -100 or beyond the classes", "refused with file and line"),
    "L06": ("a label that is no plain number", "refused with file and line"),
    "L07": ("no label, blank lines, tabs, two spaces, columns too many", "blank lines counted, all else refused with a hint"),
    "L08": ("names with spaces", "read"),
    "L09": ("CRLF", "read"),
    "L10": ("a byte order mark", "read"),
    "L11": ("other encodings, NUL bytes", "refused with line and byte"),
    "L12": ("an empty list", "refused"),
    "L13": ("a path twice, the same label", "one is kept and the other counted, or refused, as `data.duplicates` says"),
    "L14": ("a path twice, two labels", "refused, both lines named"),
    "L15": ("train and val share images", "refused, reported or cleaned, as `data.leaks` says"),
    "L16": ("a line or an entry is a folder, pipe or device", "named; nothing blocks"),
    "L17": ("many listed files are missing", "all named in one file, the first on the screen"),
    "L18": ("class ids with a hole, or too many", "refused; nothing is renumbered in silence"),
    "L19": ("a line of 10 MB, millions of lines", "refused, or read in bounded memory"),
    "L20": ("names that differ in case alone", "kept apart, with a warning"),
    "I01": ("a file of no bytes", "quarantined"),
    "I02": ("an image cut short, also by two bytes", "quarantined"),
    "I03": ("another format than the name says", "read by what it is"),
    "I04": ("CMYK, grey, alpha, palette, 16 bits", "RGB by one rule, alpha as `data.alpha` says"),
    "I05": ("EXIF orientation, broken EXIF", "turned; broken EXIF is ignored"),
    "I06": ("an image of 400 million pixels in 48 kB", "quarantined by its header"),
    "I07": ("an image beyond our own limit of pixels", "quarantined by its header"),
    "I08": ("HTML, text, random bytes", "quarantined"),
    "I09": ("one pixel, slivers", "resized without an empty side, or quarantined"),
    "I10": ("EPS, PDF and other formats that are not on the list", "quarantined; no other program is started"),
    "I11": ("an image with an archive behind it", "read as the image; never as an archive"),
    "I12": ("a file that goes away between listing and reading", "quarantined and counted"),
    "I13": ("every image is bad", "ends at `max_bad`"),
    "I14": ("a bad image in evaluation", "fails, or the accuracy divides by all that were listed"),
    "I15": ("the last image of a prediction is bad", "all others are answered"),
    "W01": ("a `.pdparams` that would run code", "refused; nothing runs"),
    "W02": ("`.pdparams` with changed bytes, by the hundred thousand", "refused or read; bounded time and memory"),
    "W03": ("a `.pdparams` of a static graph", "refused with a hint"),
    "W04": ("a web page or half a download in place of weights", "refused"),
    "W05": ("one flipped bit in published weights", "refused by their SHA-256"),
    "W06": ("weights of another network", "refused with names and shapes"),
    "W07": ("weights of another number of classes", "refused, unless the head starts afresh"),
    "W08": ("NaN or infinity in weights, logits or a card", "refused or a row with an error, never an answer"),
    "W09": ("a `.pth` that needs more than tensors", "refused; no unsafe way is tried"),
    "W10": ("safetensors with a damaged header, overlaps, names twice", "refused"),
    "W11": ("a tar with paths that lead out, links, bombs, damage", "such members are named, damage by its bytes; the rest is read"),
    "W12": ("a checkpoint that names code", "never imported"),
    "O01": ("ONNX with its data in other files, also hidden ones", "refused"),
    "O02": ("ONNX cut short, empty, zeros", "refused"),
    "O03": ("unknown operators, other shapes, graphs that fail or do not end", "refused, or one line and exit code 4"),
    "O04": ("a TensorRT plan of another GPU or version", "not taken; built again"),
    "O05": ("a TensorRT plan that is damaged, cut, of the other library, or without a driver", "one line; another is built where its ONNX file is beside it"),
    "O06": ("a plan that cannot be built: an operator, a full disk, a stop", "one line; nothing under its name"),
    "C01": ("kill -9 at any moment of a training", "the newest whole checkpoint is loaded"),
    "C02": ("kill -9 between the files of a checkpoint", "a checkpoint without its manifest does not count"),
    "C03": ("a full disk while a checkpoint is saved", "the one before is kept; exit code 28"),
    "C04": ("a full disk anywhere else", "exit code 28; nothing half-written under a final name"),
    "C05": ("a folder that cannot be written, no inodes, a name too long", "refused before the first step"),
    "C06": ("the newest checkpoint is damaged", "the one before is loaded, both are named"),
    "C07": ("all checkpoints are damaged", "refused; no start from zero in silence"),
    "C08": ("resuming with another configuration", "refused with what differs; forced, it is recorded"),
    "C09": ("resuming with another number of loaders", "the same bytes"),
    "C10": ("temporary files of dead processes", "swept; those of living ones stay"),
    "C11": ("two commands that make the same result", "the second is refused at once and changes nothing"),
    "C12": ("`dvc repro` is killed", "the next one goes on"),
    "P01": ("SIGTERM, SIGINT or SIGUSR1", "saved, exit code 75, no step lost"),
    "P02": ("a second SIGTERM", "ends at once; the checkpoint before is kept"),
    "P03": ("a loader process is killed", "ends with the likely reason and the image"),
    "P04": ("a loader process hangs", "ends after a limit, with the image"),
    "P05": ("a training process is killed", "all end, or all start again and end with the same bytes"),
    "P06": ("a training process is stopped", "the others end after a limit"),
    "P07": ("the GPU's memory is full", "one line with what to set"),
    "P08": ("NaN loss or gradients", "the step is not taken; three in a row end the run"),
    "P09": ("/dev/shm is full", "shown by the plan and at once, with the remedies"),
    "P10": ("the clock jumps", "nothing is ordered by it"),
    "P11": ("other hash seeds, locales, time zones, folders", "the same bytes"),
    "G01": ("an unknown parameter", "refused with the nearest name"),
    "G02": ("a wrong type or range", "refused with what is allowed"),
    "G03": ("YAML that asks for objects, repeats keys or grows", "refused"),
    "G04": ("code in a parameter", "text"),
    "G05": ("`${oc.env:...}` in a parameter", "not looked up"),
    "M01": ("mining is killed", "the same bytes in the end"),
    "M02": ("mining for hours", "memory and open files do not grow"),
    "M03": ("near copies of val and test in the pool", "found, counted, left out"),
    "M04": ("bad images in the pool", "quarantined; never mined"),
    "X01": ("no network", "every command works; nothing is asked for"),
    "X02": ("a run name that leads out", "refused"),
    "X03": ("a DVC object with other bytes", "found by what reads it"),
    "X04": ("a dependency with another hash", "not installed"),
    "X05": ("an umask that lets everyone write", "nothing that is made can be changed by everyone"),
    "S01": ("a body over 10 MiB, announced or in chunks", "413 before it is read; memory stays flat"),
    "S02": ("clients that stop half-way through a head or a body", "408 after 10 seconds; others are answered meanwhile"),
    "S03": ("a picture that is none, is cut short or too large", "400 with the reason, 415 for another content type"),
    "S04": ("a wrong path, method, name, type, shape, number of images; deep JSON", "404, 405, 400: what was expected and what came"),
    "S05": ("more requests than can be answered", "503 and RESOURCE_EXHAUSTED with Retry-After; what is taken is answered"),
    "S06": ("SIGTERM under load", "readiness ends at once, what was begun is answered, exit code 0"),
    "S07": ("no token, or a wrong one", "no start beyond this machine without one; 401 and UNAUTHENTICATED"),
    "S08": ("how it starts", "on this machine alone; a foreign Host is refused; no CORS"),
    "S09": ("a path or address in place of a picture", "refused; nothing is read or fetched"),
    "S10": ("the model's folder is replaced", "one that is whole takes over, no request lost; else the old one stays"),
    "S11": ("what clients send reaches the log", "one JSON object per line, control signs escaped, no token, no body"),
}  # fmt: skip
_ID = re.compile(r"\b[LIWOCPGMXS][0-9]{2}\b")


@dataclass(frozen=True)
class Found:
    """A test that names rows."""

    file: str
    name: str
    slow: bool
    rows: frozenset[str]


def tests() -> Iterator[Found]:
    """Every test function that names a row."""
    for path in sorted(TESTS.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        whole = "pytestmark = pytest.mark.slow" in source
        tree = ast.parse(source)
        tables = {
            target.id: ast.get_source_segment(source, node) or ""
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            while first > 1 and lines[first - 2].startswith("#"):  # a comment of its own
                first -= 1
            text = "\n".join(lines[first - 1 : node.end_lineno])
            # A table of cases that the parameters are taken from.
            used = {each.id for mark in node.decorator_list for each in ast.walk(mark)
                    if isinstance(each, ast.Name)}  # fmt: skip
            text += "\n".join(tables[name] for name in sorted(used & tables.keys()))
            # Names of tests hold them in small letters.
            named = {part.upper() for part in node.name.split("_")}
            rows = frozenset(named | set(_ID.findall(text))) & ROWS.keys()
            if rows:
                marks = "\n".join(ast.unparse(each) for each in node.decorator_list)
                slow = whole or "mark.slow" in marks
                yield Found(path.relative_to(TESTS).as_posix(), node.name, slow, rows)


def page() -> str:
    """docs/reliability.md."""
    found = list(tests())
    parts = [
        "# What happens when something is wrong\n",
        "Every row is a fault, what is promised, and the tests that hold it. `make test` runs those "
        "marked *default*; `make test-long` all of them, with larger counts "
        "([results/interruptions.md](results/interruptions.md)). This page is written by `python "
        "tests/fault_rows.py` from the tests themselves, and a test holds it to them.\n",
        "Unless a row says otherwise a fault ends the command with one line that names what was "
        "given, what is allowed and where to set it (`--debug` shows the traceback), exit code 2 for "
        "parameters, 3 for data, 4 for weights, 28 for a full disk, 75 for a stop that the same "
        "command resumes. A quarantined image is skipped, named with its reason and counted: listed "
        "= used + quarantined + refused.\n",
    ]
    for letter, title in CHAPTERS.items():
        parts.append(f"## {title}\n")
        parts.append("| row | fault | promise | held by |\n|---|---|---|---|")
        for row, (fault, promise) in ROWS.items():
            if row.startswith(letter):
                held = [each for each in found if row in each.rows]
                names = "<br>".join(
                    f"`tests/{each.file}`: `{each.name}` ({'slow' if each.slow else 'default'})"
                    for each in held
                )
                parts.append(f"| {row} | {fault} | {promise} | {names or OPEN[row]} |")
        parts[-1] += "\n"
    return "\n".join(parts)


def main() -> None:
    """Write the page; say which rows no test names."""
    PAGE.write_text(page(), encoding="utf-8")
    named = {row for each in tests() for row in each.rows}
    sys.stdout.write(
        f"wrote {PAGE.name}; without a test: {', '.join(ROWS.keys() - named - OPEN.keys()) or 'none'}\n"
    )


if __name__ == "__main__":
    main()
