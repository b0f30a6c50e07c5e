"""Scoring that is killed and started again, by one, two or three processes: always the same list.

The processes come from a fork server that has torch loaded, so that a kill costs a tenth of a
second and not the start of an interpreter.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hang_guard import HANG
from hgnetv2_pipeline.data import index, preprocess
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.mining import score_processes as mining_launch
from hgnetv2_pipeline.mining.candidates import Candidates
from hgnetv2_pipeline.mining.score_shards import read_manifests
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.mining.selection import select
from hgnetv2_pipeline.models.create import create_model
from hgnetv2_pipeline.weights.load import save_weights

IMAGES = 96
HOW = preprocess.Preprocess(resize_short=32, crop=32)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hgnetv2_pipeline.mining.score", "hgnetv2_pipeline.models"])
    return context


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images, some of them bad, their index and a teacher."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((36, 36), Image.Resampling.BICUBIC)
        image.save(root / f"{number:03d}.png")
    samples = folders.scan_unlabelled(root).samples
    index.write_index(root / "index.parquet", samples)
    for number in range(0, IMAGES, 11):
        (root / f"{number:03d}.png").write_bytes(b"gone bad")
    torch.manual_seed(0)
    save_weights(root / "one.safetensors", create_model("b0", 5), {"variant": "b0"})
    yield root


def spec_of(pool: Path, out: Path, **changes: Any) -> ScoreSpec:
    values: dict[str, Any] = {
        "index": pool / "index.parquet", "root": pool, "prefix": "", "out": out,
        "teachers": ["one.safetensors"], "num_classes": 5, "weights_root": pool,
        "preprocess": HOW.to_dict(), "shard_rows": 16, "batch_size": 8, "workers": 0,
        "features": False, "dtype": "float32", "device": "cpu", "max_bad": 0.5,
    }  # fmt: skip
    return ScoreSpec(**(values | changes))


def work(spec: ScoreSpec) -> None:
    torch.set_num_threads(1)
    mining_launch.score_share(spec)


def list_hash(scores: Path, into: Path) -> str:
    path = select(Candidates(scores), k=9).write(into / "m.parquet")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The list of a pass that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    work(spec_of(pool, out / "scores"))
    return list_hash(out / "scores", out)


def kill_and_rerun(
    processes: ForkServerContext, pool: Path, out: Path, kills: int, seed: int
) -> int:
    """Start one to three processes again and again, kill them ``kills`` times; returns how often.

    A kill counts if it met a process at work.
    """
    moments = random.Random(seed)
    landed = 0
    for attempt in range(50 * kills):
        world = 1 + attempt % 3
        running = [
            processes.Process(target=work, args=(spec_of(pool, out, rank=rank, world_size=world),))
            for rank in range(world)
        ]
        for process in running:
            process.start()
        if landed < kills:
            running[moments.randrange(world)].join(moments.uniform(0.05, 0.6))
            for process in running:
                process.kill()
        for process in running:
            process.join()
        ended = {process.exitcode for process in running}
        assert ended <= {0, -signal.SIGKILL}
        landed += -signal.SIGKILL in ended
        if ended == {0}:
            if landed >= kills:
                return landed
            # Done before it could be killed: once more from the start.
            for path in out.glob("shard=*"):
                path.unlink()
    raise AssertionError(f"only {landed} of {kills} kills met a process at work")


# Row M01 of docs/reliability.md.
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_started_again_the_list_is_the_same(
    processes: ForkServerContext, pool: Path, whole: str, tmp_path: Path, kills: int
) -> None:
    scores = tmp_path / "scores"
    assert kill_and_rerun(processes, pool, scores, kills, seed=kills) == kills
    manifests = read_manifests(scores).values()
    assert sum(m["listed"] for m in manifests) == IMAGES
    assert sum(m["rows"] + len(m["quarantined"]) for m in manifests) == IMAGES
    assert sum(len(m["quarantined"]) for m in manifests) == len(range(0, IMAGES, 11))
    rows = pd.concat([pd.read_parquet(path) for path in sorted(scores.glob("*.parquet"))])
    assert rows["key"].is_unique
    assert not list(scores.glob(".shard=*")), "what a killed process left aside is swept"
    assert list_hash(scores, tmp_path) == whole


@pytest.mark.parametrize(("shard_rows", "world"), [(IMAGES, 1), (48, 2), (14, 3)])
def test_any_number_of_shards_and_processes_in_any_order_gives_the_same_list(
    pool: Path, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    shard_rows: int, world: int,
) -> None:  # fmt: skip
    scores = tmp_path / "scores"
    spec = spec_of(pool, scores, shard_rows=shard_rows)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for rank in random.Random(world).sample(range(world), world):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        mining_launch.score_share(spec)
    assert len(read_manifests(scores)) == {IMAGES: 1, 48: 2, 14: 7}[shard_rows]
    assert list_hash(scores, tmp_path) == whole


# A worker that is killed once, wherever it works, before it writes the shard that ``plan`` names.
KILLED_ONCE = """
import os, signal, sys
from pathlib import Path
from hgnetv2_pipeline.mining import score, score_processes

write, plan = score.write_scores, Path(sys.argv[1]).with_name("plan")

def write_or_die(folder, number, *rest):
    if plan.exists() and int(plan.read_text()) == number:
        plan.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return write(folder, number, *rest)

score.write_scores = write_or_die
sys.exit(score_processes.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("shard", [0, 1])
def test_two_agents_of_which_one_loses_its_worker_score_as_one_process(
    pool: Path, tmp_path: Path, shard: int
) -> None:
    spec = spec_of(pool, tmp_path / "scores")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    (tmp_path / "plan").write_text(str(shard))
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As two machines do: an agent each, which find each other at the first one's address.
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "scores",
        "--max-restarts", "2", "-m", "killed_once", str(tmp_path / "spec.json"),
    ]  # fmt: skip
    given = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    agents = [subprocess.Popen(command, env=given) for _ in range(2)]
    try:
        assert [agent.wait(HANG) for agent in agents] == [0, 0]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert not (tmp_path / "plan").exists(), "the kill took place"
    work(spec_of(pool, tmp_path / "alone"))
    shards = sorted(path.name for path in (tmp_path / "alone").glob("*.parquet"))
    assert len(shards) == IMAGES // 16
    for name in shards:
        alone, together = (tmp_path / folder / name for folder in ("alone", "scores"))
        assert together.read_bytes() == alone.read_bytes(), name


def test_a_specification_with_a_mistake_is_refused_by_exit_code(
    pool: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec_of(pool, tmp_path).model_dump_json().replace("batch_size", "bach_size"))
    assert mining_launch.main([str(path)]) == 2
    assert "spec.json: batch_size: Field required" in caplog.text
    assert mining_launch.main([str(tmp_path / "nothing.json")]) == 2
