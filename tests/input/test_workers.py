"""Worker processes: what goes wrong in one of them is told at once, and in its own words."""

from __future__ import annotations

import ctypes
import errno
import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from hgnetv2_pipeline.data.quarantine import Ledger
from hgnetv2_pipeline.errors import DataError, DiskFullError
from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.input import shared_memory, workers
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.input.loader import iterate_batches
from hgnetv2_pipeline.input.shared_memory import Space, shortage


@dataclass(frozen=True)
class Tensors:
    """What the makers below make."""

    pixels: torch.Tensor
    extra: Any = None
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return int(self.pixels.nbytes)


class Maker:
    """Batches of ``nbytes`` bytes that hold their step's number; ``act`` is called at step 2."""

    def __init__(self, act: Callable[[], object], nbytes: int = 8) -> None:
        rows = pd.DataFrame({"key": ["a.png"], "path": ["a.png"], "offset": [-1], "length": [0]})
        self.reader, self.act, self.nbytes = SampleReader(rows, Path()), act, nbytes

    def make(self, step: int) -> Tensors:
        extra = self.act() if step == 2 else None
        return Tensors(torch.full((self.nbytes,), step, dtype=torch.uint8), extra)


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")


class Peculiar(Exception):
    """An error that cannot be made again from its message, and so not be sent as it is."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def nothing() -> None:
    """At step 2 nothing happens."""


def failing(error: Exception) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def seen(maker: Maker, processes: int, steps: int = 4) -> list[int]:
    return [
        int(made.pixels[0]) for made in iterate_batches(maker, 0, steps, processes, Ledger(1, 0))
    ]


def test_steps_come_in_their_order_from_any_number_of_workers() -> None:
    for processes in (0, 1, 3):
        assert seen(Maker(nothing), processes, steps=9) == list(range(9))


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(
    "error",
    [
        DataError("the store is gone"),
        DiskFullError("no room"),
        OSError(errno.EMFILE, "Too many open files", "a.png"),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_error_of_a_worker_is_raised_as_it_was(error: Exception, processes: int) -> None:
    came = []
    with pytest.raises(type(error)) as caught:
        for made in iterate_batches(Maker(failing(error)), 0, 9, processes, Ledger(1, 0)):
            came.append(int(made.pixels[0]))
    assert str(caught.value) == str(error)
    assert came == [0, 1], "what was made before it is not lost"
    told = "".join(getattr(caught.value, "__notes__", []))
    # For --debug: where in the worker it happened.
    assert not processes or ("Traceback" in told and "in act" in told)
    assert "\n" not in explain(caught.value, debug="--debug")[1]


def test_workers_end_before_an_error_does_that_somebody_keeps() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(DataError) as kept:
        seen(Maker(failing(DataError("the store is gone"))), 2)
    assert set(multiprocessing.active_children()) <= before
    assert str(kept.value) == "the store is gone"


@pytest.mark.parametrize(
    ("act", "words"),
    [(failing(Peculiar(1, 2)), "Peculiar: 1 and 2"), (lambda: lambda: None, "pickle")],
    ids=["an error that cannot be sent", "a batch that cannot be sent"],
)
def test_what_cannot_be_sent_is_told_too(act: Callable[[], object], words: str) -> None:
    with pytest.raises(Exception, match=words):
        seen(Maker(act), 1)


def test_a_tensor_that_torch_cannot_share_is_told_in_its_words() -> None:
    with pytest.raises(Exception, match=r"(?i)share|sparse|serialize|non-leaf"):
        seen(Maker(lambda: torch.ones(2, requires_grad=True) * 2), 1)


def in_little_shared_memory(size: str, nbytes: int, told: Connection) -> None:
    """Load batches of ``nbytes`` with a ``/dev/shm`` of ``size`` of this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = 0x00020000 | (0x10000000 if os.geteuid() else 0)  # of mounts, of users
    private = 1 << 18 | 1 << 14
    if (
        libc.unshare(namespaces)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode())  # noqa: S108
    ):
        told.send(("skipped", os.strerror(ctypes.get_errno())))
        return
    workers._TIMEOUT_SECONDS = 60.0
    try:
        for _ in iterate_batches(Maker(nothing, nbytes), 0, 20, 2, Ledger(1, 0)):
            time.sleep(0.05)  # the workers get ahead
        told.send(("loaded", ""))
    except Exception as error:
        told.send((type(error).__name__, str(error)))


@pytest.mark.parametrize("nbytes", [300_000, 100_000], ids=["no batch fits", "some batches fit"])
def test_p09_full_shared_memory_is_named_at_once_with_its_remedies(nbytes: int) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_little_shared_memory, args=("256k", nbytes, theirs))
    child.start()
    theirs.close()
    kind, message = ours.recv()
    child.join(60)
    assert child.exitcode == 0, "its workers ended with it"
    if kind == "skipped":
        pytest.skip(f"this system lets tests mount nothing: {message}")
    assert kind == "DiskFullError", message
    assert message.startswith("shared memory is full: /dev/shm (262 kB, ")
    assert f"has no room for a batch of {nbytes // 1000} kB of 2 loader processes" in message
    for remedy in ("--shm-size=1g", "--ipc=host", "lower the number of workers (now 2; 0 needs"):
        assert remedy in message
    assert "\n" not in message and "image" not in message


def test_p09_a_worker_killed_by_a_page_without_memory_is_told_the_same() -> None:
    steps: Any = workers._Steps(Maker(nothing), 0, 1, 2)
    steps.at[1, 0] = 4711
    workers._live.append(steps)
    try:
        bus = "DataLoader worker (pid 4711) is killed by signal: Bus error. \nIt is possible"
        error = workers._dead_worker(RuntimeError(bus))
    finally:
        workers._live.remove(steps)
    assert isinstance(error, DiskFullError)
    assert "--ipc=host" in str(error)


@pytest.mark.parametrize(
    ("processes", "nbytes", "free", "short"),
    [
        # 64 MB are docker's default; a batch of 128 at 224 pixels takes 19 MB.
        (2, 19_267_584, 64 << 20, True),
        (16, 19_267_584, 1 << 30, True),
        (16, 19_267_584, 2 << 30, False),
        (1, 1 << 20, 64 << 20, False),
        (0, 19_267_584, 0, False),
    ],
)
def test_p09_shared_memory_is_compared_with_all_batches_that_may_wait(
    processes: int, nbytes: int, free: int, short: bool
) -> None:
    told = shortage(processes, nbytes, Space(free, free))
    assert bool(told) is short
    if short:
        assert f"workers (now {processes}; 0 needs none)" in told
        gigabytes = int(told.split("--shm-size=")[1].split("g ")[0])
        assert not shortage(processes, nbytes, Space(gigabytes << 30, gigabytes << 30))
    assert shortage(processes, nbytes, None) == "", "a system that does not say has enough"


def test_a_shortage_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "space", lambda: Space(1000, 1000))
    monkeypatch.setattr(shared_memory, "_warned", [])
    for _ in range(2):
        seen(Maker(nothing, 300), 1)
    assert [r.levelname for r in caplog.records if "shared memory" in r.message] == ["WARNING"]


class Discarded:
    """What nobody uses any more; its end in another process than it began in leaves a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pid, self.itself = folder, os.getpid(), self

    def __del__(self) -> None:
        if os.getpid() != self.pid:
            (self.folder / f"ended in {os.getpid()}").touch()


def test_what_the_run_has_discarded_does_not_end_in_a_worker(tmp_path: Path) -> None:
    gc.disable()
    try:
        Discarded(tmp_path)
        made = list(iterate_batches(Maker(lambda: gc.collect() and None), 0, 4, 2, Ledger(1, 0)))
    finally:
        gc.enable()
    assert len(made) == 4
    assert not [*tmp_path.iterdir()]
