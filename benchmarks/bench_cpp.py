"""The C++ engine beside Python's on the same OpenVINO: CPU time by turns, and memory.

make cpp && .venv/bin/python benchmarks/bench_cpp.py [--build build/cpp] [--turns 20] [--calls 10]

One thread each. B0 at 224 pixels with random weights, and a JPEG picture of 500 x 375. Ratios are
C++ over Python, of the CPU time of turns one after the other: the median, the lowest and the
highest. Memory is the peak of hgnetv2_predict on that picture less the peak
of a program that only runs the same model once (build/cpp/bare_runtime). Needs Linux.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cpp_library import Library
from PIL import Image

from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe

ROOT = Path(__file__).parents[1]
SIZE = (500, 375)


def photo_like() -> bytes:
    """A JPEG of soft colours and noise."""
    random = np.random.default_rng(1)
    soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE)
    noisy = np.asarray(soft).astype(int) + random.integers(-12, 13, (SIZE[1], SIZE[0], 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def cpu_seconds(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def compare(
    what: str, cpp: Callable[[], object], python: Callable[[], object], turns: int, calls: int
) -> None:
    for call in (cpp, python):
        cpu_seconds(call, calls)
    pairs = [(cpu_seconds(cpp, calls), cpu_seconds(python, calls)) for _ in range(turns)]
    ratios = sorted(one / other for one, other in pairs)
    ours, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{what:<38}C++ {ours:7.2f} ms   Python {theirs:7.2f} ms   ratio "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "cpp")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--calls", type=int, default=10)
    given = parser.parse_args()
    if not (given.build / "libhgnetv2.so").is_file():
        print(f"no C++ engine in {given.build}: make cpp builds it (docs/cpp.md)")
        return
    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        folder, picture = Path(temporary) / "b0", Path(temporary) / "a.jpg"
        write_bundle(create_model("b0", 1000).eval(), folder, class_names=[*map(str, range(1000))])
        content = photo_like()
        picture.write_bytes(content)
        model = Library(given.build).open(folder, engine="openvino", threads=1)
        with load_engine(folder, engine="openvino", threads=1, batch_size=1) as engine:
            image = engine.preprocess(content)[None]
            for what, cpp, python in (
                ("file to tensor, 500 x 375 JPEG", lambda: model.view.tensor(content),
                 lambda: engine.preprocess(content)),
                ("tensor to logits, batch 1", lambda: model.logits(image),
                 lambda: engine.logits(image)),
                ("file to top 5", lambda: model.classify([content], 5),
                 lambda: engine.predict(content)),
            ):  # fmt: skip
                compare(what, cpp, python, given.turns, given.calls)
        model.close()
        peaks: dict[str, list[float]] = {"tool": [], "bare": []}
        for _ in range(5):
            peaks["tool"].append(
                peak_mb(given.build / "hgnetv2_predict", "--model", folder, "--threads", 1, picture)
            )
            peaks["bare"].append(
                peak_mb(given.build / "bare_runtime", folder / "model.onnx", 224, 224)
            )
    tool, bare = (statistics.median(peaks[name]) for name in ("tool", "bare"))
    print(
        f"peak resident: {tool:.0f} MB, of the runtime alone {bare:.0f} MB, {tool - bare:+.1f} MB"
    )


if __name__ == "__main__":
    main()
