"""The C++ engine beside Python's on the same OpenVINO: CPU time by turns, and memory.

make cpp && .venv/bin/python benchmarks/bench_cpp.py [--build build/cpp]

B0 at 224 pixels with random weights, and a JPEG picture of 500 x 375. Memory is the peak of
hgnetv2_predict on that picture less the peak of a program that only runs the same model once
(build/cpp/bare_runtime). Needs Linux.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cpp_library import Library
from harness import ROOT, Case, Contender, run
from PIL import Image

from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.models.create import create_model

SIZE = (500, 375)


def photo_like() -> bytes:
    """A JPEG of soft colours and noise."""
    random = np.random.default_rng(1)
    soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE)
    noisy = np.asarray(soft).astype(int) + random.integers(-12, 13, (SIZE[1], SIZE[0], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


# A process keeps the peak of the one that started it; this one is small.
WAIT = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(usage.ru_maxrss)
sys.exit(process.returncode)
"""


def peak_mb(*command: object) -> float:
    """The largest resident set of a program, in MB."""
    waiting = [sys.executable, "-S", "-c", WAIT, *(str(part) for part in command)]
    done = subprocess.run(waiting, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def memory(build: Path, folder: Path, picture: Path) -> str:
    tool, bare = (
        statistics.median(peak_mb(*command) for _ in range(5))
        for command in (
            (build / "hgnetv2_predict", "--model", folder, "--threads", 1, picture),
            (build / "bare_runtime", folder / "model.onnx", 224, 224),
        )
    )
    return f"{tool:.0f} MB, of the runtime alone {bare:.0f} MB, {tool - bare:+.1f} MB"


def cases(given: argparse.Namespace) -> Iterator[Case]:
    if not (given.build / "libhgnetv2.so").is_file():
        raise SystemExit(f"no C++ engine in {given.build}: make cpp builds it (docs/cpp.md)")
    with tempfile.TemporaryDirectory() as temporary:
        folder, picture = Path(temporary) / "b0", Path(temporary) / "a.jpg"
        write_bundle(create_model("b0", 1000).eval(), folder, class_names=[*map(str, range(1000))])
        content = photo_like()
        picture.write_bytes(content)
        model = Library(given.build).open(folder, engine="openvino", threads=1)
        with load_engine(folder, engine="openvino", threads=1, batch_size=1) as engine:
            image = engine.preprocess(content)[None]
            calls = {
                "file to tensor, 500 x 375 JPEG": (
                    lambda: model.view.tensor(content), lambda: engine.preprocess(content)),
                "tensor to logits, batch 1": (
                    lambda: model.logits(image), lambda: engine.logits(image)),
                "file to top 5": (
                    lambda: model.classify([content], 5), lambda: engine.predict(content)),
            }  # fmt: skip
            peak = {"peak": memory(given.build, folder, picture)}
            for what, (cpp, python) in calls.items():
                every = {
                    "Python": Contender(python, what),
                    "C++": Contender(cpp, what, ours=True, extra=peak),
                }
                yield Case(what, every)
        model.close()


if __name__ == "__main__":
    run(
        "cpp", cases, doc=__doc__, seconds=20,
        options=lambda parser: parser.add_argument(
            "--build", type=Path, default=ROOT / "build" / "cpp"
        ),
    )  # fmt: skip
