"""Faults of the machine round a training: the process stops, the GPU is full, clocks jump."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from train_recipes import make_job

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import Interrupted, ParameterError
from hgnetv2_pipeline.training.config import RunSpec
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.step import Step

Job = Callable[..., RunSpec]
RESULTS = ("student.safetensors", "history.csv", "result.json")


def results(spec: RunSpec) -> list[bytes]:
    return [(spec.out / name).read_bytes() for name in RESULTS]


def test_p07_gpu_out_of_memory_says_what_to_lower_and_keeps_the_checkpoint(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job("run", checkpoint_every_minutes=1e-6)
    whole = job("whole")
    train_run(whole)
    take = Step.__call__

    def call(self: Step, batch: Any) -> Any:
        if batch.step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")
        return take(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", call)
        with pytest.raises(ParameterError) as caught:
            train_run(spec)
    told = str(caught.value)
    for words in ("does not hold 8 images of 32 pixels", "train.batch_size (8", "accumulate (1)"):
        assert words in told
    assert "\n" not in told
    assert caught.value.exit_code == 2
    assert max(p.name for p in (spec.out / "checkpoints").glob("step=*")) == "step=00000003"
    train_run(spec)  # nothing was made smaller by itself
    assert results(spec) == results(whole)


def test_p10_clocks_that_jump_decide_nothing(
    job: Job, sigterm_in: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, spec = job("whole"), job("run", checkpoint_every_minutes=1e-6)
    train_run(whole)
    clock = iter([2e9, 0.0, 1e9, -5.0] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    sigterm_in(4)
    with pytest.raises(Interrupted):
        train_run(spec)
    saved = sorted((spec.out / "checkpoints").glob("step=*"))
    assert len(saved) == 2
    # The older one looks as if it were written last, and the newest in 1970.
    os.utime(saved[0], (4e9, 4e9))
    os.utime(saved[1], (0, 0))
    train_run(spec)
    assert read_json(spec.out / "timing.json")["segments"][1]["from_step"] == 5
    assert results(spec) == results(whole)


ENVIRONMENTS: list[dict[str, str]] = [
    {"PYTHONHASHSEED": "1", "LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "3", "TZ": "America/St_Johns"},
    {"PYTHONHASHSEED": "random", "LANG": "de_DE.UTF-8"},
    {"PYTHONUTF8": "0", "LC_ALL": "POSIX", "TZ": "UTC"},
]
TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from train_recipes import NANO
from hgnetv2_pipeline.models import VARIANTS
from hgnetv2_pipeline.training import launch
VARIANTS["nano"] = NANO
sys.exit(launch.main([sys.argv[2]]))
"""


@pytest.mark.parametrize(
    "count", [1, pytest.param(len(ENVIRONMENTS), marks=pytest.mark.slow)], ids=["one", "all"]
)
def test_p11_hash_seed_locale_time_zone_and_folder_change_no_byte(
    pictures: Path, tmp_path: Path, count: int
) -> None:
    whole = make_job(pictures, tmp_path, "whole")
    train_run(whole)
    for number, environment in enumerate(ENVIRONMENTS[:count]):
        spec = make_job(pictures, tmp_path, f"run{number}")
        file = tmp_path / f"spec{number}.json"
        file.write_text(spec.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(Path(__file__).parent), str(file)],
            cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert results(spec) == results(whole), environment
        saved = [
            {p.name: p.read_bytes() for p in (one.out / "checkpoints" / "step=00000006").iterdir()}
            for one in (spec, whole)
        ]
        assert saved[0] == saved[1], environment


def test_a_checkpoint_is_there_before_its_step_is_told(job: Job) -> None:
    spec = job("run", checkpoint_every_minutes=1e-6, eval_every=0.5)
    told = []

    def report(row: dict[str, Any]) -> None:
        told.append(row["step"])
        assert (spec.out / "checkpoints" / f"step={row['step']:08d}").is_dir()

    train_run(spec, report=report)
    assert told and told[-1] == 6 and told == sorted(set(told))


def test_a_row_that_a_kill_kept_from_being_told_is_told_by_the_resume(job: Job) -> None:
    spec = job("run", checkpoint_every_minutes=1e-6, eval_every=0.5, keep_best=2)
    whole = job("whole", eval_every=0.5, keep_best=2)
    train_run(whole)

    class Killed(BaseException):
        pass

    def die(row: dict[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        train_run(spec, report=die)
    first: list[float] = []
    train_run(spec, report=lambda row: first.append(row["step"]))
    steps = [row["step"] for row in train_run(whole).history]
    assert first == steps
    assert results(spec) == results(whole)
    best = [{p.name: p.read_bytes() for p in (s.out / "best").iterdir()} for s in (spec, whole)]
    assert best[0] == best[1]
