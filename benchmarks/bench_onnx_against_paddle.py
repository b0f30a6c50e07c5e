"""Our exported graph on ONNX Runtime against the same network in Paddle Inference (oneDNN, fp32).

python benchmarks/bench_onnx_against_paddle.py --paddle-python ENV/bin/python [--variants b0 b4]
    [--batch-sizes 1 16] [--rounds 9] [--calls 10]

Paddle lives in an environment of its own (``python -m venv ENV && ENV/bin/pip install paddlepaddle
setuptools``), where ``paddle_contender.py`` builds the network in ``paddle.nn`` from our weights;
its logits must be ours. Both run on one thread of one core, in turns, in each round in another
order; a line a case gives the median over rounds of Paddle's CPU time over ours (above 1: ours is
faster), and at the end the same as JSON. Random weights, LABs too; 224 pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
from hgnetv2_pipeline.deployment.timing.benchmark import unsettle
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.processor import describe
from hgnetv2_pipeline.variants import VARIANTS
from hgnetv2_pipeline.weights.paddle.writer import write_pdparams
from hgnetv2_pipeline.weights.writing import to_paddle


class Paddle:
    """The process that runs Paddle, ready when it has answered once."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("paddle_contender.py")), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._answer()["paddle"]

    def _answer(self):
        assert self.process.stdout is not None
        for line in self.process.stdout:  # Paddle prints notices of its own
            if line.startswith(("[", "{")) and line.rstrip().endswith(("]", "}")):
                return json.loads(line)
        raise SystemExit(f"the Paddle process ended with exit code {self.process.wait()}")

    def seconds(self, calls: int) -> list[float]:
        assert self.process.stdin is not None
        print(calls, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(
    python: Path, variant: str, batch_size: int, rounds: int, calls: int, folder: Path
) -> dict[str, object]:
    """One case."""
    torch.manual_seed(0)
    network = unsettle(create_model(variant)).eval()
    images = np.random.default_rng(0).standard_normal((batch_size, 3, 224, 224), np.float32)
    engine = load_engine(
        export_onnx(network, folder / "model.onnx"), "ort", threads=1, batch_size=batch_size
    )
    (folder / "sizes.json").write_text(json.dumps(asdict(VARIANTS[variant])))
    write_pdparams(folder / "weights.pdparams", to_paddle(network))
    np.save(folder / "images.npy", images)
    paddle = Paddle(python, folder)

    def ours(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            before = time.process_time()
            engine.logits(images)
            seconds.append(time.process_time() - before)
        return seconds

    own, theirs = engine.logits(images), np.load(folder / "logits.npy")
    difference = float(np.abs(own - theirs).max() / own.std())
    if not difference <= 1e-4:
        raise SystemExit(f"{variant}: Paddle's logits are not ours, {difference:.1e} apart")
    times: dict[str, list[float]] = {"ours": [], "paddle": []}
    contenders = {"ours": ours, "paddle": paddle.seconds}
    for number in range(rounds):
        for name in sorted(contenders, reverse=number % 2 == 1):
            contenders[name](2)  # finds its weights in the caches again
            times[name].append(float(np.median(contenders[name](calls))))
    paddle.close()
    ratio = float(np.median(np.array(times["paddle"]) / np.array(times["ours"])))
    return {
        "variant": variant,
        "batch_size": batch_size,
        "processor": describe(),
        "paddle": paddle.version,
        "device": engine.device,
        "cpu_ms": {name: 1e3 * float(np.median(found)) for name, found in times.items()},
        "speedup_cpu": ratio,
        "difference_of_logits": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paddle-python", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=["b0", "b4"], choices=list(VARIANTS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10, help="a round and contender")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    probe = subprocess.run([options.paddle_python, "-c", "import paddle"], check=False)
    if probe.returncode:
        print(f"not run: {options.paddle_python} cannot import paddle", file=sys.stderr)
        raise SystemExit(1)
    rows = []
    for variant in options.variants:
        for batch_size in options.batch_sizes:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(
                    options.paddle_python, variant, batch_size, options.rounds, options.calls,
                    Path(folder),
                )  # fmt: skip
            rows.append(row)
            times = ", ".join(f"{name} {ms:.2f}" for name, ms in row["cpu_ms"].items())
            print(
                f"{variant} batch {batch_size:>2}: {row['speedup_cpu']:.2f}x  "
                f"(CPU ms: {times}; Paddle {row['paddle']})", flush=True,
            )  # fmt: skip
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
