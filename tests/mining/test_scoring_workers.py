"""Mining's pass over the pool has the care of the training's loader: its workers are the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hgnetv2_pipeline.data import preprocess
from hgnetv2_pipeline.data.index import write_index
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.errors import DataError
from hgnetv2_pipeline.input import workers
from hgnetv2_pipeline.mining import score as score_module
from hgnetv2_pipeline.mining.score import score_pool
from hgnetv2_pipeline.mining.score_spec import ScoreSpec

HOW = preprocess.Preprocess(resize_short=32, crop=32)
TRAP = (7, 7)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The index of a folder of ten images, the folder, and the key of the one that is a trap."""
    root = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    for number in range(10):
        size = TRAP if number == 5 else (32, 32)
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
    index = write_index(root / "index.parquet", folders.scan_unlabelled(root).samples)
    return index, root, "05.png"


def score(pool: tuple[Path, Path, str], out: Path, **changes: Any) -> dict[str, Any]:
    index, root, _ = pool
    values: dict[str, Any] = {
        "index": index, "root": root, "prefix": "", "teachers": ["scratch:b0"], "num_classes": 4,
        "out": out, "weights_root": root, "preprocess": HOW.to_dict(), "shard_rows": 100,
        "batch_size": 2, "workers": 0, "features": False, "dtype": "float32", "device": "cpu",
        "max_bad": 0.01,
    }  # fmt: skip
    return score_pool(ScoreSpec(**(values | changes)))


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """``trap(act)``: whoever hashes the image that is a trap acts so."""

    def arm(act: Callable[[], object]) -> None:
        hashed = score_module.phash64

        def phash(image: Image.Image) -> int:
            if image.size == TRAP:
                act()
            return hashed(image)

        monkeypatch.setattr(score_module, "phash64", phash)

    return arm


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("act", "words"),
    [(die, "a loader process died, often by the out-of"), (hang, "gave nothing for 3 s")],
    ids=["P03 killed", "P04 hangs"],
)
def test_p03_p04_worker_that_dies_or_hangs_is_named_with_its_image(
    pool: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    trap: Callable[[Callable[[], object]], None], act: Callable[[], object], words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(workers, "_TIMEOUT_SECONDS", 3.0 if act is hang else 60.0)
    trap(act)
    with pytest.raises(DataError, match=words) as caught:
        score(pool, tmp_path, workers=1)
    assert f"at image {pool[2]}:" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.glob("shard=*")), "a shard that was not scored is not there"


def test_a_death_that_torch_reports_in_the_middle_of_a_step_is_named_with_its_image(
    pool: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        pid = int(workers._live[0].at[0, 0])
        raise RuntimeError(f"DataLoader worker (pid {pid}) is killed by signal: Killed. ")

    monkeypatch.setattr(score_module.Scorer, "score", interrupted)
    with pytest.raises(DataError, match="a loader process died.*at image"):
        score(pool, tmp_path, workers=1)


def test_a_stop_that_reaches_the_workers_too_loses_no_batch(
    pool: tuple[Path, Path, str], tmp_path: Path,
    trap: Callable[[Callable[[], object]], None],
) -> None:  # fmt: skip
    trap(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert score(pool, tmp_path, workers=1)["scored"] == 10


def test_a_worker_of_the_pass_gives_way_and_has_one_thread(
    pool: tuple[Path, Path, str], tmp_path: Path,
    trap: Callable[[Callable[[], object]], None],
) -> None:  # fmt: skip
    before = os.nice(0)

    def tell() -> None:
        (tmp_path / "seen").write_text(f"{os.nice(0) - before} {torch.get_num_threads()}")

    trap(tell)
    score(pool, tmp_path / "out", workers=1)
    assert (tmp_path / "seen").read_text() == "10 1"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> set[str]:
    """Process numbers of those that this process started and that are not collected."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="asks /proc")
@pytest.mark.parametrize(
    ("rounds", "processes"),
    [(12, 0), pytest.param(400, 0, marks=pytest.mark.slow),
     pytest.param(40, 1, marks=pytest.mark.slow)],
)  # fmt: skip
def test_m02_memory_files_and_processes_do_not_grow_over_many_shards(
    pool: tuple[Path, Path, str], tmp_path: Path, rounds: int, processes: int
) -> None:
    def again(number: int) -> None:
        out = tmp_path / f"{number}"
        assert score(pool, out, shard_rows=2, workers=processes)["shards"] == 5

    again(-1)
    files, held, before = open_files(), resident(), children()
    for number in range(rounds):
        again(number)
    assert open_files() <= files + 5
    # A shard's columns take kilobytes, a batch of it 6: a leak of one batch a shard would show in
    # the many rounds, one of a network (24 MB) in the few.
    assert resident() - held < 48e6
    # Those of other tests in this process are no business of this one.
    states = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        for pid in children() - before
    ]
    assert "Z" not in states
