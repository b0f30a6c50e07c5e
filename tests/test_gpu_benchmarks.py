"""The benchmarks for GPUs still run: time on a rented GPU is too dear to find that out there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        # Compiling is left out by its cost.
        ["bench_gpu_training.py", "--tiny", "--budget", "50", "--out", "."],
        ["bench_device.py", "--images", "8", "--batch", "4", "--workers", "1", "--seconds", "0.1",
         "--size", "64"],
        ["bench_gpu_latency.py", "--variants", "b0", "--runs", "3", "--warmup", "1", "--budget",
         "60", "--out", "."],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_benchmark_runs_on_a_cpu(command: list[str], tmp_path: Path) -> None:
    script, *options = command
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks" / script, "--device", "cpu", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    told = ("| b4, on device |", "| fast |", "| b0 | ort | reparameterised |")
    assert any(line in done.stdout for line in told)


def test_a_failing_part_costs_the_others_nothing(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "given: $*"\ncase $* in *bench_gpu_latency*) exit 3; esac\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [PROJECT / "benchmarks" / "gpu.sh", tmp_path / "out", "100"],
        env=os.environ | {"PYTHON": str(fake)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.endswith("failed: latency (3)\n")
    logs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert set(logs) == {"tests", "training", "latency", "input", "stored"}
    assert "--budget 38" in logs["training"] and "--budget 30" in logs["latency"]
    for log in logs.values():
        script = next(word for word in log.split() if word.endswith(".py"))
        assert (PROJECT / script).is_file()
