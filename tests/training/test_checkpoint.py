"""Checkpoints are whole or passed over, and belong to one run."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from hang_guard import HANG
from hgnetv2_pipeline import stopping
from hgnetv2_pipeline.errors import DataError, DiskFullError, Interrupted, ParameterError
from hgnetv2_pipeline.stopping import stop_on_signal
from hgnetv2_pipeline.training.checkpoint import load_checkpoint, lock_checkpoints, save_checkpoint
from hgnetv2_pipeline.training.launch import WORKER_IMPORTS

WHO = {"training": {"lr": 0.5, "loss": {"name": "ce"}}, "seed": 0}


def parts(step: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((50,), float(step))}, "progress": {"step": step}}


def save(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        save_checkpoint(folder, step, parts(step), identity=WHO, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_newest_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 5, 12)
    loaded = load_checkpoint(tmp_path, identity=WHO)
    assert loaded is not None
    assert loaded["progress"] == {"step": 12}
    assert torch.equal(loaded["model"]["w"], torch.full((50,), 12.0))


def test_a_folder_without_checkpoints_gives_nothing(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, identity=WHO) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 9, 10, 100, keep=2)
    assert names(tmp_path) == ["step=00000010", "step=00000100"]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "flipped bit": lambda d: _flip(d / "model.pt"),
    "cut short": lambda d: (d / "model.pt").write_bytes((d / "model.pt").read_bytes()[:-9]),
    "file gone": lambda d: (d / "progress.pt").unlink(),
    "manifest gone": lambda d: (d / "manifest.json").unlink(),
    "manifest cut": lambda d: (d / "manifest.json").write_text('{"sha256": {'),
    "manifest empty": lambda d: (d / "manifest.json").write_text("{}"),
}


# Row C06 of docs/reliability.md.
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_passed_over_loudly(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5, 12)
    DAMAGE[damage](tmp_path / "step=00000012")
    with caplog.at_level(logging.WARNING):
        loaded = load_checkpoint(tmp_path, identity=WHO)
    assert loaded is not None
    assert loaded["progress"] == {"step": 5}
    assert "step=00000012 is passed over" in caplog.text


def test_damaged_checkpoint_is_kept_aside_and_never_pushes_out_a_good_one(tmp_path: Path) -> None:
    save(tmp_path, 5, 12)
    _flip(tmp_path / "step=00000012" / "model.pt")
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["damaged-step=00000012", "step=00000006"]


def test_damaged_checkpoint_of_the_same_step_is_written_again(tmp_path: Path) -> None:
    save(tmp_path, 12)
    _flip(tmp_path / "step=00000012" / "model.pt")
    save(tmp_path, 12)
    assert names(tmp_path) == ["damaged-step=00000012", "step=00000012"]
    assert load_checkpoint(tmp_path, identity=WHO) is not None


# Row C07 of docs/reliability.md.
def test_nothing_but_damaged_checkpoints_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    save(tmp_path, 5, 12)
    for folder in tmp_path.iterdir():
        _flip(folder / "model.pt")
    with pytest.raises(DataError, match="all 2 checkpoints"):
        load_checkpoint(tmp_path, identity=WHO)


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    save(tmp_path, 5)
    other = {"training": {"lr": 0.25, "loss": {"name": "ce"}}, "seed": 0}
    with pytest.raises(ParameterError, match=r"training\.lr 0\.5 -> 0\.25") as caught:
        load_checkpoint(tmp_path, identity=other)
    assert "seed" not in str(caught.value)


# Row W12 of docs/reliability.md.
def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    save_checkpoint(tmp_path, 5, {"model": Payload()}, identity=WHO, keep=1)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_checkpoint(tmp_path, identity=WHO)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["os error", "torch error"])
def test_full_disk_keeps_the_earlier_checkpoint_and_says_what_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    save(tmp_path, 5)

    def full(*_: object) -> None:
        if how == "os error":
            raise OSError(28, "No space left on device")
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 768 vs 662")

    monkeypatch.setattr(torch, "save", full)
    usage = shutil._ntuple_diskusage(1 << 30, 1 << 30, 100)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="about 208 bytes needed, 100 free"):
        save(tmp_path, 6)
    assert names(tmp_path) == ["step=00000005"]


def test_a_quota_that_is_used_up_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    whole = torch.save

    class OverQuota(io.RawIOBase):
        def write(self, data: Any) -> int:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    # torch's own words are about file positions.
    monkeypatch.setattr(torch, "save", lambda value, file: whole(value, OverQuota()))
    with pytest.raises(DiskFullError, match="disk quota used up while writing checkpoint"):
        save(tmp_path, 6)
    assert names(tmp_path) == ["step=00000005"]


# Row C11 of docs/reliability.md.
def test_two_runs_in_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from hgnetv2_pipeline.training.checkpoint import lock_checkpoints
        with lock_checkpoints(Path({str(tmp_path / "checkpoints")!r})):
            print("held", flush=True)
            time.sleep(60)
        """
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with (
            pytest.raises(ParameterError, match=f"process {other.pid} on"),
            lock_checkpoints(checkpoints),
        ):
            pytest.fail("the folder was held by two")
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    # The one that held it is dead: the lock is taken over.
    (checkpoints / ".step=00000007.123.tmp").mkdir()
    with lock_checkpoints(checkpoints):
        assert names(checkpoints) == [], "half-written directories are swept"
        with pytest.raises(ParameterError, match="this one"), lock_checkpoints(checkpoints):
            pytest.fail("the folder was held twice")


def _child(context: Any, target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """A process that has torch imported already, and the end of its pipe."""
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=target, args=(*arguments, theirs))
    child.start()
    theirs.close()
    return child, ours


@pytest.fixture(scope="module")
def context() -> Any:
    """Starts processes from a server that has the imports done: each kill is cheap."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*WORKER_IMPORTS, __name__])
    return found


def _save_for_ever(folder: Path, dies_at: int, told: Connection) -> None:
    """Saves step after step; kills itself before its ``dies_at``-th touch of the disk, if not 0."""
    touches = 0

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal touches
            touches += 1
            if touches == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **options)

        return call

    for owner, name in (
        (torch, "save"), (os, "fsync"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree"),
    ):  # fmt: skip
        setattr(owner, name, counted(getattr(owner, name)))
    for step in range(1, 100_000):
        tensors = {name: torch.full((100_000,), float(step)) for name in ("a", "b", "c")}
        save_checkpoint(folder, step, tensors, identity=WHO, keep=2)
        told.send(step)


# Rows C01 and C02 of docs/reliability.md.
@pytest.mark.parametrize("kills", [3, pytest.param(500, marks=pytest.mark.slow)])
def test_kill_at_any_moment_leaves_the_newest_complete_checkpoint(
    tmp_path: Path, context: Any, kills: int
) -> None:
    for attempt in range(kills):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        # Half of them between two touches of the disk, anywhere in the first checkpoints; half by
        # the clock, from outside.
        dies_at = random.randint(12, 50) if attempt % 2 else 0
        child, told = _child(context, _save_for_ever, folder, dies_at)
        newest = 0
        if not dies_at:
            newest = told.recv()
            time.sleep(random.uniform(0, 0.02))
            child.kill()
        child.join(HANG)
        assert child.exitcode == -signal.SIGKILL
        with contextlib.suppress(EOFError):
            while True:
                newest = told.recv()
        loaded = load_checkpoint(folder, identity=WHO)
        assert loaded is not None or not newest, (attempt, dies_at)
        if loaded is None:  # killed within the first
            continue
        values = {float(value) for tensor in loaded.values() for value in tensor.unique()}
        assert len(values) == 1, "files of one checkpoint belong together"
        assert values.pop() >= newest
        shutil.rmtree(folder)


# Row C06 of docs/reliability.md.
@pytest.mark.parametrize("times", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_any_damage_is_found_and_the_one_before_is_loaded(tmp_path: Path, times: int) -> None:
    save(tmp_path, 5, 12)
    newest = tmp_path / "step=00000012"
    whole = {path: path.read_bytes() for path in newest.iterdir()}
    for _ in range(times):
        path, data = random.choice(list(whole.items()))
        place = random.randrange(len(data))
        how = random.choice(["flip", "cut", "gone"])
        lost = data[place:] if how == "cut" else data[place : place + 1]
        if path.name == "manifest.json" and how != "gone" and lost.isspace():
            continue  # between words of JSON: nothing is lost
        if how == "gone":
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[:place])
        else:
            flipped = data[place] ^ 1 << random.randrange(8)
            path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        loaded = load_checkpoint(tmp_path, identity=WHO)
        assert loaded is not None
        assert loaded["progress"] == {"step": 5}, (how, path.name, place)
        path.write_bytes(data)
    loaded = load_checkpoint(tmp_path, identity=WHO)
    assert loaded is not None
    assert loaded["progress"] == {"step": 12}


def _fill_a_small_disk(folder: Path, told: Connection) -> None:
    """In a mount namespace of its own: a disk of 3 MB on ``folder``, and two saves of 2 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = 0x00020000 | (0x10000000 if os.geteuid() else 0)  # of mounts, of users
    private = 1 << 18 | 1 << 14
    if (
        libc.unshare(namespaces)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=3m")
    ):
        told.send(("refused", os.strerror(ctypes.get_errno())))
        return
    big = {"model": torch.zeros(500_000), "progress": {"step": 1}}
    save_checkpoint(folder, 1, big, identity=WHO, keep=2)
    try:
        save_checkpoint(folder, 2, big, identity=WHO, keep=2)
    except DiskFullError as error:
        told.send((str(error), sorted(path.name for path in folder.iterdir())))
        told.send(load_checkpoint(folder, identity=WHO) is not None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs of its own")
def test_really_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, context: Any) -> None:
    child, told = _child(context, _fill_a_small_disk, tmp_path)
    message, left = told.recv()
    if message == "refused":
        pytest.skip(f"this system lets tests mount nothing: {left}")
    assert "disk full while writing checkpoint" in message
    assert "about 2,000,008 bytes needed" in message
    assert left == ["step=00000001"]
    assert told.recv(), "the earlier checkpoint loads"
    child.join(HANG)


def _busy_until_stopped(echo: float, told: Connection) -> None:
    stopping.ECHO_SECONDS = echo
    with stop_on_signal() as stop:
        told.send("ready")
        while not stop:
            time.sleep(0.01)
        told.send("asked")
        time.sleep(60)


# Row P02 of docs/reliability.md.
@pytest.mark.parametrize("echo", [0.1, 60.0])
def test_second_signal_ends_the_process_at_once_unless_it_is_the_first_passed_on(
    context: Any, echo: float
) -> None:
    child, told = _child(context, _busy_until_stopped, echo)
    told.recv()
    os.kill(child.pid, signal.SIGTERM)
    told.recv()
    child.join(0.3)
    assert child.is_alive(), "the first one waits for the step to end"
    os.kill(child.pid, signal.SIGINT)
    child.join(HANG if echo < 1 else 0.5)
    if echo < 1:
        assert child.exitcode == Interrupted.exit_code
    else:
        assert child.is_alive(), "a scheduler's signal, and that of the agent, are one request"
        child.kill()
        child.join()


@pytest.mark.parametrize("nohup", [False, True])
def test_the_end_of_a_terminal_asks_for_a_stop_unless_nohup_said_no(nohup: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert bool(stop) is not nohup
            # torch's agent would listen to it all the same.
            assert (signal.SIGHUP in stopping.signals()) is not nohup
    finally:
        signal.signal(signal.SIGHUP, before)


def test_manifest_names_every_file_with_its_hash(tmp_path: Path) -> None:
    save(tmp_path, 5)
    manifest = json.loads((tmp_path / "step=00000005" / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"model.pt", "progress.pt"}
    assert manifest["identity"] == WHO
