"""One run in two processes: exact, every image counted once, and no hang when one of them dies."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from train_recipes import BCE, NANO, make_job

from hang_guard import HANG, ends, wait_until
from hgnetv2_pipeline.data.index import read_index, write_index
from hgnetv2_pipeline.data.lists.multi_label import label_matrix
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import DataError, Interrupted
from hgnetv2_pipeline.evaluation.evaluate import predict_logits
from hgnetv2_pipeline.evaluation.metrics import topk_counts
from hgnetv2_pipeline.input.loader import eval_batches
from hgnetv2_pipeline.ownership import lock_file
from hgnetv2_pipeline.processes import group
from hgnetv2_pipeline.processes.elastic import join_command
from hgnetv2_pipeline.processes.elastic_worker import refusal
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.training import launch
from hgnetv2_pipeline.training.checkpoint import lock_checkpoints
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec
from hgnetv2_pipeline.training.launch import agents_of, train_many
from hgnetv2_pipeline.training.run import train_run
from hgnetv2_pipeline.training.step import Step
from hgnetv2_pipeline.variants import VARIANTS
from hgnetv2_pipeline.weights.build import build_from
from multi_label_pictures import CLASSES as SQUARES
from multi_label_pictures import draw, scan_multi_label

Job = Callable[..., RunSpec]
STEPS = 5
# Batches of 3 in two processes: neither the 21 images of train nor the 10 of val come out even.
SMALL: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 3,
    "ema_decay": 0.5,
    "eval_every": 0.9,
    "checkpoint_every_minutes": 1e-6,
}
ANY = -2


def two(**changes: Any) -> DistributedConfig:
    values = {"nproc_per_node": 2, "nnodes": 1, "rdzv_endpoint": None, "max_restarts": 0}
    return DistributedConfig.model_validate(values | changes)


def at_step(spec: str) -> None:
    """``launch.work`` with ``nano``, and a signal to one process as the file ``plan`` says: that of
    a rank, or ``ANY`` that runs this."""
    VARIANTS["nano"] = NANO
    plan = Path(spec).with_name("plan")
    number, rank, step = map(int, (plan.read_text() if plan.exists() else "0 -1 -1").split())
    if number == signal.SIGSTOP:
        group.PATIENCE = timedelta(seconds=15)
    take = Step.__call__

    def call(self: Step, batch: Any) -> Any:
        if batch.step == step and rank in (self.world.rank, ANY) and plan.exists():
            plan.unlink()
            os.kill(os.getpid(), number)
        return take(self, batch)

    Step.__call__ = call  # type: ignore[method-assign]
    launch.work(spec)


@pytest.fixture
def strike() -> Callable[..., RunSpec]:
    """``strike(spec, number, rank, step)``: the next run of ``spec`` gets the signal there."""

    def arm(spec: RunSpec, number: int, rank: int, step: int) -> RunSpec:
        spec.out.mkdir(parents=True, exist_ok=True)
        (spec.out / "plan").write_text(f"{int(number)} {rank} {step}")
        return spec

    return arm


@pytest.fixture(scope="module", autouse=True)
def _nano_in_every_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "work", at_step)
        yield


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    with ends("a run in many processes"):
        yield


def outputs(folder: Path) -> dict[str, bytes]:
    names = ("student.safetensors", "history.csv", "result.json", "quarantine.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the uninterrupted run in two processes; one image of train cannot be read."""
    folder = tmp_path_factory.mktemp("straight")
    train_many(with_broken_image(make_job(pictures, folder, "run", max_bad=0.1, **SMALL)), two())
    return folder / "run"


def with_broken_image(spec: RunSpec) -> RunSpec:
    frame = pd.read_parquet(spec.train)
    frame.loc[4, "path"] = "train/gone.png"
    path = spec.root / "broken.parquet"
    frame.to_parquet(path)
    return spec.model_copy(update={"train": path})


@pytest.fixture
def spec(job: Job) -> RunSpec:
    return with_broken_image(job("run", max_bad=0.1, **SMALL))


def test_global_batch_val_and_ledger_count_every_image_once(straight: Path, spec: RunSpec) -> None:
    history = pd.read_csv(straight / "history.csv")
    result = pd.read_json(straight / "result.json", typ="series")
    assert result["images_seen"] == STEPS * 3 * 2
    assert result["val"]["n"] == 10
    # 30 of 20 readable images were seen: whoever met the broken one, the first process knows.
    assert [result[k] for k in ("n_listed", "n_used", "n_quarantined")] == [21, 20, 1]
    assert pd.read_csv(straight / "quarantine.csv")["key"].tolist() == ["train/04.png"]
    # The same weights score the same when one process evaluates them alone.
    alone = spec.config.model_copy(update={"init": str(straight), "steps": 1, "lr": 1e-30})
    scored = train_run(spec.model_copy(update={"config": alone, "out": spec.root / "alone"}))
    # Counts: what a CSV reader makes of a share may be off in its last bit.
    best = history[["val_top1", "val_top1_ema"]].max().max()
    assert result["val"]["top1_count"] == round(10 * best)
    assert scored.metrics["val"]["n"] == 10
    # What was scored is what was saved, also where processes have BN statistics of their own.
    model, info = build_from(str(straight), num_classes=None, root=straight)
    samples = read_index(spec.val)
    preprocess = Preprocess.from_dict(info["preprocess"])
    batches = eval_batches(
        samples, spec.val_root, preprocess=preprocess, batch_size=3, workers=0,
        ledger=Ledger(10, 0.0),
    )  # fmt: skip
    _, logits = predict_logits(model, batches, preprocess=preprocess)
    labels = samples["label"].to_numpy(np.int64)
    assert topk_counts(logits, labels, (1,))[1] == result["val"]["top1_count"]


@pytest.mark.slow
def test_map_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """29 images of val, batches of 3: neither comes out even."""
    for split, count in (("train", 24), ("val", 29)):
        draw(tmp_path, split, count, seed=count)
        write_index(tmp_path / f"{split}.parquet", scan_multi_label(tmp_path, split).samples)
    given = {"num_classes": 3, "classes": SQUARES}
    spec = make_job(tmp_path, tmp_path, "two", spec=given, **{**SMALL, "loss": BCE})
    train_many(spec, two())
    result = read_json(spec.out / "result.json")
    model, info = build_from(str(spec.out), num_classes=None, root=tmp_path)
    samples = scan_multi_label(tmp_path, "val").samples
    preprocess = Preprocess.from_dict(info["preprocess"])
    model = model.to(memory_format=torch.channels_last)
    logits = np.zeros((29, 3))
    # In the batches of the two, so that no rounding differs.
    for rank in range(2):
        batches = eval_batches(
            samples.iloc[rank::2], tmp_path, preprocess=preprocess, batch_size=3, workers=0,
            ledger=Ledger(29, 0.0),
        )  # fmt: skip
        _, logits[rank::2] = predict_logits(
            model, batches, preprocess=preprocess, channels_last=True
        )
    expected = average_precision_score(label_matrix(samples), logits)
    assert result["val"]["n"] == 29
    assert result["val"]["map"] == pytest.approx(expected, abs=1e-12)


# Row P05 of docs/reliability.md.
@pytest.mark.parametrize(
    ("restarts", "rank"),
    [
        (1, 1),
        *(  # without a restart too, from kill0 on
            pytest.param(number % 2, number // 2 % 2, marks=pytest.mark.slow, id=f"kill{number}")
            for number in range(20)
        ),
    ],
)
def test_killed_process_ends_or_restarts_the_run_which_stays_exact(
    spec: RunSpec, straight: Path, strike: Callable[..., RunSpec], restarts: int, rank: int
) -> None:
    strike(spec, signal.SIGKILL, rank, random.randrange(STEPS))
    if restarts:
        train_many(spec, two(max_restarts=restarts))
    else:
        with pytest.raises(RuntimeError, match=rf"process {rank} of run is dead: Signal 9"):
            train_many(spec, two())
        assert not (spec.out / "student.safetensors").exists()
        train_many(spec, two())
    assert outputs(spec.out) == outputs(straight)


# Row P06 of docs/reliability.md.
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_others_end_when_one_is_stopped_and_name_it(
    spec: RunSpec, straight: Path, strike: Callable[..., RunSpec], rank: int
) -> None:
    strike(spec, signal.SIGSTOP, rank, 2)
    with pytest.raises(RuntimeError) as caught:
        train_many(spec, two())
    (line,) = str(caught.value).splitlines()
    assert f"process {1 - rank} of run ended: process {rank} is dead, stopped or hangs" in line
    assert not (spec.out / "student.safetensors").exists()
    train_many(strike(spec, signal.SIGSTOP, rank, 3), two(max_restarts=1))
    assert outputs(spec.out) == outputs(straight)


@pytest.mark.slow
def test_signal_to_one_process_stops_both_and_the_run_resumes(
    spec: RunSpec, straight: Path, strike: Callable[..., RunSpec]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"stopped after step 3 of {STEPS}"):
        train_many(strike(spec, signal.SIGTERM, 1, 2), two(max_restarts=2))
    assert signal.getsignal(signal.SIGTERM) is before
    train_many(spec, two())
    assert outputs(spec.out) == outputs(straight)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def train_until_killed(spec: str) -> None:
    """As the command that started the run, to be killed from outside."""
    VARIANTS["nano"], launch.work = NANO, at_step
    train_many(RunSpec.model_validate_json(spec), two())


@pytest.mark.slow
def test_processes_save_and_end_when_the_one_that_started_them_is_killed(job: Job) -> None:
    spec = job("run", **{**SMALL, "steps": 100_000, "checkpoint_every_minutes": 10.0})
    context = multiprocessing.get_context("forkserver")
    starter = context.Process(target=train_until_killed, args=(spec.model_dump_json(),))
    starter.start()
    history = spec.out / "history.csv"
    wait_until(lambda: history.is_file() or not starter.is_alive(), "the run has begun")
    starter.kill()
    starter.join()
    checkpoints = spec.out / "checkpoints"
    # Named in the lock are the starter, now dead, and the process that saves.
    held = json.loads(lock_file(spec.out).read_text().splitlines()[0])
    first = next(holder["pid"] for holder in held if holder["helps"])
    try:
        wait_until(lambda: not alive(first), "it ends with the one that started it")
    finally:
        if alive(first):
            os.kill(first, signal.SIGKILL)
    with lock_checkpoints(checkpoints):
        assert len(list(checkpoints.glob("step=*"))) == 1


def test_nohup_holds_for_the_agent_too(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def launched(config: Any, work: Any) -> Callable[[str], None]:
        heard.append(config.signals_to_handle)
        return lambda spec: None

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launched)
    for handler in (signal.SIG_IGN, signal.SIG_DFL):
        before = signal.signal(signal.SIGHUP, handler)
        train_many(job("run"), two())
        assert signal.signal(signal.SIGHUP, before) is handler
    assert heard == ["SIGTERM,SIGINT,SIGUSR1", "SIGTERM,SIGINT,SIGUSR1,SIGHUP"]


@pytest.mark.slow
def test_what_no_restart_mends_is_told_in_one_line_at_once(job: Job) -> None:
    spec = with_broken_image(job("strict", **SMALL))
    with pytest.raises(DataError, match="1 of 21 images cannot be used") as caught:
        train_many(spec, two(max_restarts=1))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(5))
def test_second_machine_joins_by_the_printed_command_and_a_death_is_survived(
    spec: RunSpec, straight: Path, strike: Callable[..., RunSpec], kill: int
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = two(nproc_per_node=1, nnodes=2, rdzv_endpoint=f"127.0.0.1:{port}", max_restarts=2)
    # Which rank the process of this agent gets is up to their meeting.
    strike(spec, signal.SIGKILL, ANY, random.randrange(STEPS))
    (spec.out / "spec.json").write_text(spec.model_dump_json())
    variable, *command = join_command(
        launch.__name__, spec.out / "spec.json", agents_of(spec, both)
    ).split()
    # The variant of the tests must be known there too: a module that adds it, in place of ours.
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from train_recipes import NANO; "
        "from hgnetv2_pipeline.models import VARIANTS; VARIANTS['nano'] = NANO; "
        "from hgnetv2_pipeline.training.launch import main; sys.exit(main(sys.argv[1:]))"
    )
    here = Path(__file__).parent
    (spec.root / "nano_launch.py").write_text(program)
    command[command.index(launch.__name__)] = "nano_launch"
    command.insert(command.index("nano_launch") + 1, str(here))
    other = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command[1:]],
        env={
            **os.environ,
            **dict([variable.split("=")]),
            "PYTHONPATH": os.pathsep.join([str(here.parents[1] / "src"), str(spec.root)]),
        },
    )
    try:
        train_many(spec, both)
        assert other.wait(HANG) == 0
    finally:
        other.kill()
        other.wait()
    assert not (spec.out / "plan").exists(), "the kill took place"
    assert outputs(spec.out) == outputs(straight)


@pytest.mark.parametrize(("restarts", "code"), [("0", 0), ("1", 3)])
def test_a_refusal_holds_for_the_restarts_of_its_own_start_alone(
    job: Job, monkeypatch: pytest.MonkeyPatch, restarts: str, code: int
) -> None:
    file = job("run").root / "spec.json"
    file.write_text(job("run", steps=1).model_dump_json())
    refusal(file).write_text('{"code": 3, "message": "its images are gone", "run": "none"}')
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's own, where no other is given
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    if code:
        with pytest.raises(SystemExit, match=str(code)):
            launch.main([str(file)])
    else:
        assert launch.main([str(file)]) == 0
    assert refusal(file).exists() == (code != 0)


@pytest.mark.parametrize(("rank", "bars"), [("0", 1), ("1", 0)])
def test_of_many_processes_the_first_shows_a_bar(
    rank: str, bars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("RANK", rank)
    with Progress(2, "work") as progress:
        progress.advance()
    assert terminal.getvalue().count("work:   0%") == bars
