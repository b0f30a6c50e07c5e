"""Who makes a result: locks between processes, clones and machines, and what the dead leave."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hgnetv2_pipeline import ownership
from hgnetv2_pipeline.durable import write_text
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.ownership import (
    HeldError,
    join_helpers,
    lock_file,
    make_aside,
    new_partial,
    partial_folders,
    refuse_held,
    sole,
    sweep_temporaries,
    take,
    take_all,
)
from other_process import other, tree

SECONDS = 60


def holder(path: Path) -> str:
    return f"held = ownership.take(Path({str(path)!r}))"


def dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.run(["true"], check=True)  # noqa: S607
    del done
    process = subprocess.Popen(["true"])  # noqa: S607
    process.wait()
    return process.pid


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    run = tmp_path / "seed=0"
    (run / "checkpoints").mkdir(parents=True)
    write_text(run / "checkpoints" / "step", "5")
    with other(holder(run)) as first:
        before = tree(tmp_path)
        with pytest.raises(ParameterError) as caught:
            take(run)
        assert tree(tmp_path) == before
    said = str(caught.value)
    assert "\n" not in said
    assert f"another run is writing to {run}: process {first.pid} on {os.uname().nodename}" in said
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", said)
    assert "--params run=NAME" in said
    assert caught.value.exit_code == 2


def test_a_lock_lies_outside_its_folder_and_goes_when_it_is_let_go(tmp_path: Path) -> None:
    with take(tmp_path / "a"):
        assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
    with take(tmp_path / "a", "val"):
        assert lock_file(tmp_path / "a", "val") == tmp_path / "a" / ".val.lock"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_lock_that_the_disk_has_no_room_for_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(OSError, match="No space left"):
            take(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    with take(tmp_path / "a"):
        assert lock_file(tmp_path / "a").is_file()
    assert list(tmp_path.iterdir()) == [], "held once, let go of once"


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with other(holder(tmp_path / "a")) as first:
        first.kill()
        # Not even waited for: a process that nobody has asked how it ended counts as dead.
        while (process := ownership._process(first.pid)) is not None and process[0] != "Z":
            time.sleep(0.01)
        with take(tmp_path / "a"):
            held = json.loads(lock_file(tmp_path / "a").read_text())
            assert [one["pid"] for one in held] == [os.getpid()]
    assert list(tmp_path.iterdir()) == []


def written(path: Path, **changes: object) -> Path:
    """A lock as this process would write it, with changes."""
    with take(path):
        values = json.loads(lock_file(path).read_text())[0]
    lock_file(path).write_text(json.dumps([values | changes]) + "\n")
    return lock_file(path)


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"pid": 1, "started": "1"}, False),  # a number given again: another start
        ({"pid": 1, "started": ""}, True),  # where starts are not known the number must do
        ({"pid": 2**40}, False),
        ({"pid": dead()}, False),
    ],
)
def test_a_process_is_known_by_its_number_and_its_start(
    tmp_path: Path, changes: dict[str, object], held: bool
) -> None:
    lock = written(tmp_path / "a", **changes)
    if held:
        with pytest.raises(HeldError):
            take(tmp_path / "a")
        assert lock.is_file()
    else:
        take(tmp_path / "a").release()
        assert not lock.exists()


@pytest.mark.parametrize("silent", [-600.0, 0.0, ownership.SILENT_SECONDS - 30])
def test_a_holder_on_another_machine_lives_while_it_gives_a_sign(
    tmp_path: Path, silent: float
) -> None:
    lock = written(tmp_path / "a", machine="another", host="node7", pid=dead())
    then = time.time() - silent
    os.utime(lock, (then, then))
    with pytest.raises(HeldError, match="on node7") as caught:
        take(tmp_path / "a")
    assert f"or remove {lock}" in str(caught.value)
    then = time.time() - ownership.SILENT_SECONDS - 5
    os.utime(lock, (then, then))
    take(tmp_path / "a").release()


def test_a_holder_gives_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(ownership, "_beating", None)
    with take(tmp_path / "a"):
        os.utime(lock_file(tmp_path / "a"), (1, 1))
        deadline = time.monotonic() + SECONDS
        while lock_file(tmp_path / "a").stat().st_mtime < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock_file(tmp_path / "a").stat().st_mtime > 100


WHOLE = {
    "pid": os.getppid(), "started": "", "machine": ownership._machine(), "host": "a", "since": "b",
    "run": "", "helps": False,
}  # fmt: skip


@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["pid", "started", "machine", "x"]), inner)
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
        st.integers(1, 200).map(lambda cut: b'[{"pid": 1, "started": "5", "machine": "x"'[:cut]),
        st.just(b"[" * 100_000),
        # Whole but for one part, which is of another kind.
        st.tuples(
            st.sampled_from(["pid", "started", "machine", "host", "since", "run"]),
            st.sampled_from([0, -1, True, None, 1.5, [], {}]),
        ).map(lambda part: json.dumps([WHOLE | {part[0]: part[1]}]).encode()),
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_lock_is_nobodys(tmp_path: Path, content: bytes) -> None:
    lock_file(tmp_path / "a").write_bytes(content)
    take(tmp_path / "a").release()
    assert not lock_file(tmp_path / "a").exists()


def test_two_clones_that_share_a_folder_by_a_link_meet(tmp_path: Path) -> None:
    for clone in ("here", "there"):
        (tmp_path / clone).mkdir()
    shared = tmp_path / "shared"
    (shared / "runs" / "a").mkdir(parents=True)
    (tmp_path / "here" / "data").symlink_to(shared)
    (tmp_path / "there" / "data").symlink_to(shared)
    with other(holder(tmp_path / "here" / "data" / "runs" / "a")):
        with pytest.raises(HeldError):
            take(tmp_path / "there" / "data" / "runs" / "a")
        take(tmp_path / "there" / "data" / "runs" / "a-2").release()


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (("teacher", ""), ("teacher/member=0", ""), True),
        (("teacher", ""), ("teacher", "record"), True),
        (("teacher/member=0", ""), ("teacher", "record"), False),
        (("evaluation", "val"), ("evaluation", "test"), False),
        (("lr", ""), ("lr-2", ""), False),
        (("lr-2", ""), ("lr", ""), False),
    ],
)
def test_a_folder_holds_what_lies_in_it_and_no_name_that_begins_like_it(
    tmp_path: Path, first: tuple[str, str], second: tuple[str, str], refused: bool
) -> None:
    folder, name = first
    with other(f"held = ownership.take(Path({str(tmp_path / folder)!r}), {name!r})"):
        place = (tmp_path / second[0], second[1])
        if refused:
            with pytest.raises(HeldError):
                take(*place)
            with pytest.raises(HeldError):
                refuse_held([place])
        else:
            refuse_held([place])
            take(*place).release()


def test_several_are_taken_together_or_none(tmp_path: Path) -> None:
    with other(holder(tmp_path / "outer" / "inner")):
        with pytest.raises(HeldError, match="inner|outer"):
            take_all([(tmp_path / "a", ""), (tmp_path / "outer", ""), (tmp_path / "z", "")])
        assert [path.name for path in tmp_path.rglob("*.lock")] == [".inner.lock"]


def test_what_a_process_starts_works_under_its_lock_and_is_protected_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = (
        "import sys; from pathlib import Path; from hgnetv2_pipeline import ownership\n"
        f"held = ownership.take(Path({str(tmp_path / 'a')!r}))\n"
        "print('child', flush=True); sys.stdin.read()"
    )
    body = f"""
        held = ownership.take(Path({str(tmp_path / "a")!r}))
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "child\\n"
    """
    monkeypatch.setattr(ownership, "ORPHAN_SECONDS", 0.0)
    with other(body) as starter:
        holders = json.loads(lock_file(tmp_path / "a").read_text().splitlines()[0])
        assert [one["helps"] for one in holders] == [False, True]
        # The starter alone is killed; its child, which waits for its input, goes on.
        os.kill(starter.pid, signal.SIGSTOP)
        with pytest.raises(HeldError, match=f"process {starter.pid} "):
            take(tmp_path / "a")
        keeper = os.open(f"/proc/{holders[1]['pid']}/fd/0", os.O_RDONLY)  # its pipe stays open
        starter.kill()
        starter.wait()
        os.close(keeper)
        # Orphans are waited for: they save their state and end by themselves.
        monkeypatch.setattr(ownership, "ORPHAN_SECONDS", float(SECONDS))
        os.kill(holders[1]["pid"], signal.SIGTERM)
        take(tmp_path / "a").release()


def test_a_process_of_another_machine_that_joins_a_run_works_under_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = written(tmp_path / "a", machine="another", pid=dead(), run="train-b0-a")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "train-b0-b")
    with pytest.raises(HeldError):
        take(tmp_path / "a")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "train-b0-a")
    with take(tmp_path / "a"):
        assert [one["helps"] for one in json.loads(lock.read_text())] == [False, True]
    assert [one["machine"] for one in json.loads(lock.read_text().splitlines()[0])] == ["another"]


def test_the_starter_moves_nothing_while_what_it_started_works(tmp_path: Path) -> None:
    with take(tmp_path / "a"), other(holder(tmp_path / "a")):
        with pytest.raises(HeldError):
            take(tmp_path / "a")
        with join_helpers(tmp_path / "a" / "shards"):
            pass


def test_processes_that_share_the_files_of_a_result_do_not_refuse_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"held = ownership.join_helpers(Path({str(tmp_path / 'a')!r})); held.__enter__()"
    monkeypatch.setattr(ownership, "ORPHAN_SECONDS", 0.0)
    with other(body) as one, other(body), join_helpers(tmp_path / "a"):
        assert len(json.loads(lock_file(tmp_path / "a").read_text())) == 3
        with pytest.raises(HeldError, match=f"process {one.pid} "):
            take(tmp_path / "a")


def test_a_forked_process_gives_nothing_of_its_parents_back(tmp_path: Path) -> None:
    with take(tmp_path / "a"):
        child = multiprocessing.get_context("fork").Process(target=lambda: None)
        child.start()
        child.join()
        assert lock_file(tmp_path / "a").is_file()


def test_two_threads_of_a_process_do_not_make_the_same(tmp_path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with sole(tmp_path / "a"):
            inside.set()
            leave.wait(SECONDS)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(SECONDS)
    with pytest.raises(HeldError, match="this one"), sole(tmp_path / "a"):
        pytest.fail("held twice")
    with sole(tmp_path / "b"):
        leave.set()
    with sole(tmp_path / "a", wait=True):
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_second_hold_of_the_same_process_keeps_the_first(tmp_path: Path) -> None:
    first, second = take(tmp_path / "a"), take(tmp_path / "a")
    second.release()
    second.release()
    assert lock_file(tmp_path / "a").is_file()
    first.release()
    assert not lock_file(tmp_path / "a").exists()


@pytest.mark.parametrize("names", [("lr", "lr-2"), ("seed=0", "seed=0-b"), ("a", "a-abcdefgh")])
def test_partial_folders_are_told_by_their_whole_name(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    made = {name: new_partial(tmp_path / name) for name in names}
    (tmp_path / f".partial-{names[1]}-x_y8z9ab").mkdir()  # as versions before this one wrote it
    assert partial_folders(tmp_path / names[0]) == [made[names[0]]]
    assert len(partial_folders(tmp_path / names[1])) == 2
    assert partial_folders(tmp_path / names[0], dead=True) == []


def test_making_aside_sweeps_the_dead_ones_attempts_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "shapes"
    with other(f"ownership.new_partial(Path({str(target)!r}))") as killed:
        killed.kill()
        killed.wait()
        (tmp_path / ".partial-shapes-2-x_y8z9ab").mkdir()
        with make_aside(target) as folder:
            (folder / "a").write_text("a")
            assert partial_folders(target) == [folder]
    assert [path.name for path in tmp_path.iterdir()] == [".partial-shapes-2-x_y8z9ab"]


def test_scratch_folders_of_the_dead_go_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = f"""
        import tempfile
        tempfile.tempdir = {str(tmp_path)!r}
        held = ownership.scratch("mining")
        (held.__enter__() / "spill").write_text("x")
    """
    with other(body) as killed:
        with ownership.scratch("mining"):
            assert len(list(tmp_path.iterdir())) == 2, "that of a living process stays"
        killed.kill()
        killed.wait()
    (tmp_path / "hgnetv2-mining-own-notes").mkdir()
    with ownership.scratch("mining") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, tmp_path / "hgnetv2-mining-own-notes"])


def test_a_temporary_file_goes_with_the_next_write_if_its_writer_is_dead(tmp_path: Path) -> None:
    target = tmp_path / "history.csv"
    body = f"""
        from hgnetv2_pipeline.durable import write_aside
        held = write_aside(Path({str(target)!r}))
        held.__enter__().write_text("half")
    """
    with other(body) as writer:
        write_text(target, "1")
        assert len(list(tmp_path.iterdir())) == 2, "that of a living process stays"
        writer.kill()
        writer.wait()
        write_text(tmp_path / "history", "another target")
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        write_text(target, "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "history.csv"]


def test_under_a_lock_temporary_files_of_any_age_and_version_go(tmp_path: Path) -> None:
    kept = ["a.csv", ".hidden.tmp", "tmp", ".a.csv.x", "archive/.b.1234abcd.tmp"]
    gone = [
        ".a.csv.x_y8z9ab.tmp", "sub/.b.parquet.0123abcd-77-88-0a1b2c.tmp", ".step=00000001.77.tmp",
        "specs/.member=0.json.00112233-5--aabbcc.tmp",
    ]  # fmt: skip
    for name in (*kept, *gone):
        write_text(tmp_path / name, "x")
    sweep_temporaries(tmp_path)
    assert sorted(tree(tmp_path)) == sorted(kept)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_modes_of_the_umask_which_nobody_changes_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    before = os.umask(umask)

    def never(mask: int) -> int:
        raise AssertionError("threads that make files meanwhile would make them for everybody")

    setter: Callable[[int], int] = os.umask
    monkeypatch.setattr(os, "umask", never)
    try:
        assert write_text(tmp_path / "a", "x").stat().st_mode & 0o777 == 0o666 & ~umask
        assert new_partial(tmp_path / "b").stat().st_mode & 0o777 == 0o777 & ~umask
    finally:
        monkeypatch.undo()
        setter(before)
