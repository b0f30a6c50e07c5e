"""Who makes a result: one command at a time, known to all who share the folder.

A lock is a small file beside the result, never inside it: ``.<name>.lock``, where links are
followed, so that two clones that share one ``data/`` meet. It names its holders (process, host,
machine, start time, since when). On the same machine a holder lives while a process of that number
and start time does. On another one it lives while it touches the file, every ``BEAT_SECONDS``:
after ``SILENT_SECONDS`` without a sign it counts as dead. What a holder starts (loader processes,
trainings side by side, the processes of torch elastic) works under its lock, and is named there
too, so that work goes on being protected when the one that started it was killed.

What is unfinished bears the mark of its process in its name (``mark``), so that what was left
behind can be told apart from what is being made, of this name and of no other that begins like it.
"""

from __future__ import annotations

import atexit
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.progress import SHOWN

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

BEAT_SECONDS = 15.0
SILENT_SECONDS = 180.0
ORPHAN_SECONDS = 60.0
"""How long one waits for processes whose starter was killed: they save their state and end."""
_EDIT_SECONDS = 30.0
_LEFT_SECONDS = 24 * 3600.0
# <machine>-<process>-<its start>-<random>, and what versions before this one wrote.
_MARK = re.compile(r"([0-9a-f]{8})-(\d+)-(\d*)-[0-9a-f]{6}")
_OLDER_MARK = r"[a-z0-9_]{8}|\d+"

Place = tuple[Path, str]
"""A result: its folder, and its name where several share the folder, else ''."""


class HeldError(ParameterError):
    """Another living process makes this result."""


class _OrphanError(HeldError):
    """Only processes that were started by one that is dead work on it still."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    ``run`` is the name by which processes of other machines join its work; ``helps``: it works
    under the lock of another.
    """

    pid: int
    started: str
    machine: str
    host: str
    since: str = field(compare=False)
    run: str = field(default="", compare=False)
    helps: bool = field(default=False, compare=False)


@dataclass
class _Held:
    count: int = 0
    run: str = ""


_guard = threading.RLock()
_held: dict[Path, _Held] = {}
_making: set[Path] = set()
_beating: threading.Thread | None = None


# Processes.


@functools.cache
def _machine() -> str:
    """What two processes that can see each other's numbers have in common."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname()
    return f"{boot} {space}"


def _process(pid: int) -> tuple[str, int, str] | None:
    """State, parent and start (ticks since the machine's) of a process; None where unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), fields[19]


def _lives(pid: int, started: str) -> bool:
    """Whether a process of this machine lives; a number that was given again is another one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    known = _process(pid)
    return known is None or (known[0] not in "ZX" and started in ("", known[2]))


@functools.cache
def _own_start(pid: int) -> str:
    """When this process began; asked for at every lock, and the system takes a millisecond."""
    known = _process(pid)
    return known[2] if known else ""


def _myself() -> Holder:
    return Holder(
        pid=os.getpid(),
        started=_own_start(os.getpid()),
        machine=_machine(),
        host=socket.gethostname(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def _ancestors() -> set[tuple[int, str]]:
    """Number and start of the processes that this one descends from."""
    found: set[tuple[int, str]] = set()
    known = _process(os.getpid())
    if known is None:
        return {(os.getppid(), "")}
    while known is not None and (parent := known[1]) > 0:
        known = _process(parent)
        if known is not None:
            found.add((parent, known[2]))
    return found


def _alive(holder: Holder, path: Path) -> bool:
    if holder.machine == _machine():
        return _lives(holder.pid, holder.started)
    return _silence(path) < SILENT_SECONDS


def _silence(path: Path) -> float:
    """Seconds since a lock was last touched."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _covers(holder: Holder, ancestors: set[tuple[int, str]]) -> bool:
    """Whether this process works for ``holder``: was started by it, or has joined its run."""
    if holder.machine == _machine() and (holder.pid, holder.started) in ancestors:
        return True
    return bool(holder.run) and holder.run == os.environ.get("TORCHELASTIC_RUN_ID")


# Locks.


def lock_file(folder: Path, name: str = "") -> Path:
    """Where the lock of a result is: in its folder if others share that, else beside it."""
    real = folder.resolve()
    return real / f".{name}.lock" if name else real.parent / f".{real.name}.lock"


@dataclass
class Claim:
    """A lock that this process holds until ``release``, or until it ends."""

    path: Path
    open: bool = True

    def release(self) -> None:
        """Let go; a second call does nothing."""
        with _guard:
            if self.open:
                self.open = False
                _let_go(self.path)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        # Work that nobody can finish any more is nobody's. At the end of the interpreter all was
        # let go of before its modules are taken apart.
        if self.open and _held:
            self.release()


def take(folder: Path, name: str = "", *, run: str = "") -> Claim:
    """Hold the lock of a result; a second time in this process too.

    ``run`` is the name (torch elastic's) under which processes of other machines work for this one.

    Raises:
        HeldError: another living process holds it, or that of a folder around it. Processes that
            this one was started by do not count: it works under their locks.
    """
    return _patiently(lambda: _take(folder, lock_file(folder, name), run))


def _take(folder: Path, path: Path, run: str) -> Claim:
    with _guard:
        ancestors = _ancestors()
        for above in _around(path):
            _refuse_others(folder, above, _read(above), ancestors)
        me = _myself()
        with _edited(path) as holders:
            _refuse_others(folder, path, holders, ancestors)
            others = [one for one in holders if one != me and _alive(one, path)]
            before = next((one for one in holders if one == me), me)
            known = _held.get(path, _Held())
            named = run or known.run
            holders[:] = [*others, replace(before, run=named, helps=bool(others))]
        # Not before the lock is written: a disk that is full leaves nothing held.
        known.count, known.run = known.count + 1, named
        _held[path] = known
        _start_beating()
        claim = Claim(path)
        # Again, since one that takes a folder around this one looks inside it before and after.
        try:
            for above in _around(path):
                _refuse_others(folder, above, _read(above), ancestors)
        except BaseException:
            claim.release()
            raise
    return claim


def _patiently(act: Callable[[], _T]) -> _T:
    """``act``, again and again while orphans alone are in its way and may still end."""
    deadline, announced = time.monotonic() + ORPHAN_SECONDS, False
    while True:
        try:
            return act()
        except _OrphanError as error:
            if time.monotonic() > deadline:
                raise
            if not announced:
                _log.log(SHOWN, "waiting for processes that a killed run had started: %s", error)
                announced = True
        time.sleep(0.2)


def take_all(places: Sequence[Place]) -> list[Claim]:
    """Hold the locks of several results, or none of them.

    Raises:
        HeldError: as ``take``; also for a result directly inside one of the folders.
    """
    refuse_held(places)
    claims: list[Claim] = []
    try:
        for folder, name in sorted({lock_file(*place): place for place in places}.values()):
            claims.append(take(folder, name))
        _refuse_held(places)
    except BaseException:
        release_all(claims)
        raise
    return claims


def release_all(claims: Sequence[Claim]) -> None:
    """Let go of all of them."""
    for claim in claims:
        claim.release()


def refuse_held(places: Sequence[Place]) -> None:
    """Raise ``HeldError`` if another living process makes one of these, or what is inside.

    Nothing is taken. Locks of the dead among them are removed, where that is allowed.
    """
    _patiently(lambda: _refuse_held(places))


def _refuse_held(places: Sequence[Place]) -> None:
    dead: set[Path] = set()
    with _guard:
        ancestors = _ancestors()
        for folder, name in places:
            path = lock_file(folder, name)
            inside = [] if name else sorted(folder.resolve().glob(".*.lock"))
            for lock in (*_around(path), path, *inside):
                holders = _read(lock)
                _refuse_others(folder, lock, holders, ancestors)
                if not any(_alive(one, lock) for one in holders) and lock.is_file():
                    dead.add(lock)
        for lock in sorted(dead):
            # A folder that may only be read keeps it, and it says nothing to anybody.
            with suppress(OSError), _edited(lock, make=False):
                pass


def is_dead(folder: Path, name: str = "") -> bool:
    """Whether a lock is there that nobody holds any more."""
    path = lock_file(folder, name)
    with _guard:
        return path.is_file() and not any(_alive(one, path) for one in _read(path))


@contextmanager
def sole(folder: Path, name: str = "", *, run: str = "", wait: bool = False) -> Iterator[None]:
    """Be the only one, among the threads of this process too, that makes a result.

    With ``wait``, for what several runs need alike, one waits for another that makes it.
    """
    path = lock_file(folder, name)
    announced = False
    while True:
        with _guard:
            mine = path not in _making
            if mine:
                _making.add(path)
        try:
            if not mine:
                raise HeldError(_refusal(folder, path, _myself(), " (this one)"))
            claim = take(folder, name, run=run)
            break
        except BaseException as error:
            if mine:
                _making.discard(path)
            if not (wait and isinstance(error, HeldError)):
                raise
            if not announced:
                _log.log(SHOWN, "waiting: %s", error)
                announced = True
        time.sleep(0.5)
    try:
        yield
    finally:
        _making.discard(path)
        claim.release()


@contextmanager
def join_helpers(folder: Path) -> Iterator[None]:
    """Be named among those that work on a result, whoever holds it, so that nobody takes it over.

    For processes that share the work file by file, which any of them may do without the others.
    ``folder`` may be inside the result.
    """
    path = lock_file(folder)
    with _guard:
        me, ancestors = _myself(), _ancestors()
        for lock in (path, *_around(path)):
            if any(one == me or _covers(one, ancestors) for one in _read(lock)):
                path = lock
                break
        with _edited(path) as holders:
            if me not in holders:
                living = [one for one in holders if _alive(one, path)]
                holders[:] = [*living, replace(me, helps=True)]
        _held.setdefault(path, _Held()).count += 1
        _start_beating()
    try:
        yield
    finally:
        Claim(path).release()


def _around(path: Path) -> list[Path]:
    """The locks of the folders that a result is in."""
    return [folder.parent / f".{folder.name}.lock" for folder in path.parents if folder.name]


def _refuse_others(
    folder: Path, path: Path, holders: Sequence[Holder], ancestors: set[tuple[int, str]]
) -> None:
    me = _myself()
    living = [one for one in holders if one != me and _alive(one, path)]
    others = [one for one in living if not _covers(one, ancestors)]
    if others:
        orphans = me not in holders and all(one.helps for one in living)
        raise (_OrphanError if orphans else HeldError)(_refusal(folder, path, others[0]))


def _refusal(folder: Path, path: Path, holder: Holder, which: str = "") -> str:
    far = holder.machine != _machine()
    silent = _silence(path)
    return (
        f"another run is writing to {folder}: process {holder.pid} on {holder.host}{which}, since "
        f"{holder.since}; wait for it, or give this one its own run (--params run=NAME), whose "
        "folders are its own"
        + (
            f". It last gave a sign of life {max(silent, 0):.0f} s ago: if it is dead, try again "
            f"in {max(1.0, SILENT_SECONDS - silent):.0f} s, or remove {path}"
            if far
            else ""
        )
    )


def _read(path: Path) -> list[Holder]:
    """The holders that a lock names; none where it is missing or says nothing readable."""
    try:
        with path.open("rb") as file:
            return _parsed(file.read(1 << 20))
    except OSError:
        return []


def _parsed(content: bytes) -> list[Holder]:
    try:
        # What follows the first line is left of a longer one that was written over.
        holders = [Holder(**values) for values in json.loads(content.partition(b"\n")[0])]
    except (ValueError, TypeError, RecursionError):
        return []
    return holders if all(map(_is_sound, holders)) else []


def _is_sound(holder: Holder) -> bool:
    """Whether the parts of a holder are of their kinds; 0 and below would mean many processes."""
    words = (holder.started, holder.machine, holder.host, holder.since, holder.run)
    return type(holder.pid) is int and holder.pid > 0 and all(type(word) is str for word in words)


@contextmanager
def _edited(path: Path, *, make: bool = True) -> Iterator[list[Holder]]:
    """The holders in a lock, alone with it; what the body leaves of them is written, or, if none
    is left alive, the file removed. If the body raises, the file stays as it was."""
    handle = _opened(path, make=make)
    try:
        before = _parsed(os.pread(handle, 1 << 20, 0))
        holders = list(before)
        yield holders
        left = [one for one in holders if _alive(one, path)]
        if not left:
            path.unlink(missing_ok=True)
        elif left != before or [one.run for one in left] != [one.run for one in before]:
            content = json.dumps([asdict(one) for one in left]).encode() + b"\n"
            os.pwrite(handle, content, 0)
            os.ftruncate(handle, len(content))
    except BaseException:
        if os.fstat(handle).st_size == 0:
            path.unlink(missing_ok=True)  # made by this call
        raise
    finally:
        os.close(handle)


def _opened(path: Path, *, make: bool) -> int:
    """A handle to a lock file that no other process edits until it is closed."""
    import fcntl

    deadline = time.monotonic() + _EDIT_SECONDS
    while True:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = path.stat()
            if os.path.samestat(there, os.fstat(handle)):
                return handle
        except FileNotFoundError:
            pass  # its last holder removed it just now
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return handle  # a file system without locks: what the file says must do
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                os.close(handle)
                raise
        os.close(handle)
        if time.monotonic() > deadline:
            raise HeldError(f"{path} is being edited by another process that does not go on")
        time.sleep(0.01)


def _let_go(path: Path) -> None:
    known = _held.get(path)
    if known is None:
        return
    known.count -= 1
    if known.count > 0:
        return
    del _held[path]
    me = _myself()
    # The folder may be gone, or may have become unwritable: then nobody can read the lock either,
    # or finds its holder dead.
    with suppress(OSError), _edited(path, make=False) as holders:
        holders[:] = [one for one in holders if one != me]


def _start_beating() -> None:
    """Touch the locks now and then: to other machines it is the only sign of life."""
    global _beating
    if _beating is not None and _beating.is_alive():
        return

    def beat() -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            for path in list(_held):
                with suppress(OSError):
                    os.utime(path)

    _beating = threading.Thread(target=beat, name="ownership", daemon=True)
    _beating.start()


def _forget() -> None:
    """A forked process holds nothing: it works under the locks of its parent."""
    global _beating, _guard
    _beating, _guard = None, threading.RLock()
    _held.clear()
    _making.clear()


@atexit.register
def _let_go_of_all() -> None:
    with _guard:
        for path, known in list(_held.items()):
            known.count = 1
            _let_go(path)


os.register_at_fork(after_in_child=_forget)


# What is unfinished.


def mark() -> str:
    """What the name of something unfinished says of the process that makes it."""
    me = _myself()
    machine = hashlib.sha256(me.machine.encode()).hexdigest()[:8]
    return f"{machine}-{me.pid}-{me.started}-{secrets.token_hex(3)}"


def is_left_behind(path: Path, marked: str) -> bool:
    """Whether what bears this mark was left by a process that is dead.

    Of one on another machine, when it is a day old: nothing is in the making for so long, since
    long work is saved in parts.
    """
    found = _MARK.fullmatch(marked)
    if found is not None:
        machine, pid, started = found.groups()
        if machine == hashlib.sha256(_machine().encode()).hexdigest()[:8]:
            return not _lives(int(pid), started)
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _LEFT_SECONDS
    return False


def mark_of_temporary(name: str, target: str = "") -> str | None:
    """The mark in ``.<target>.<mark>.tmp``; None for any other name, and another target's."""
    stem = re.escape(target) if target else ".+"
    found = re.fullmatch(rf"\.{stem}\.({_MARK.pattern}|{_OLDER_MARK})\.tmp", name)
    return found[1] if found else None


def partial_folders(folder: Path, name: str = "", *, dead: bool = False) -> list[Path]:
    """The folders ``.partial-<name>-<mark>`` of a result, exactly; they are beside it.

    With ``dead`` those alone that a dead process left.
    """
    base, stem = _beside(folder, name)
    exact = re.compile(rf"\.partial-{re.escape(stem)}-({_MARK.pattern}|[a-z0-9_]{{8}})")
    found = [(path, match[1]) for path in _listed(base) if (match := exact.fullmatch(path.name))]
    return [path for path, marked in found if not dead or is_left_behind(path, marked)]


def new_partial(folder: Path, name: str = "") -> Path:
    """An empty folder to make a result in, on the same disk as its place."""
    base, stem = _beside(folder, name)
    base.mkdir(parents=True, exist_ok=True)
    path = base / f".partial-{stem}-{mark()}"
    path.mkdir()
    return path


@contextmanager
def make_aside(folder: Path) -> Iterator[Path]:
    """Be the only one that makes ``folder``: yields an empty folder beside it, gone afterwards.

    What killed processes left of their own attempts goes first.
    """
    with sole(folder):
        for path in partial_folders(folder):
            _remove(path)
        aside = new_partial(folder)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """An empty folder among the machine's temporary files, gone afterwards.

    Those that killed processes left for the same purpose go first.
    """
    base, prefix = Path(tempfile.gettempdir()), f"hgnetv2-{what}-"
    for path in base.glob(f"{prefix}*"):
        if _MARK.fullmatch(marked := path.name.removeprefix(prefix)) and is_left_behind(
            path, marked
        ):
            with suppress(OSError):  # another user's
                _remove(path)
    folder = base / f"{prefix}{mark()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_dead(target: Path) -> None:
    """Remove what dead processes left of earlier attempts to write the file ``target``."""
    prefix = f".{target.name}."
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if not entry.name.startswith(prefix):
                continue
            marked = mark_of_temporary(entry.name, target.name)
            if marked is not None and is_left_behind(Path(entry.path), marked):
                _remove(Path(entry.path))


def sweep_temporaries(folder: Path, *, targets: Sequence[str] = ()) -> None:
    """Remove the temporary files that dead processes left in ``folder``.

    Without ``targets`` all below it, also those of unknown age and machine: for who holds the
    folder's lock, under which nobody else writes there. With ``targets`` (names relative to the
    folder) those of these files alone.
    """
    if targets:
        for target in targets:
            place = folder / target
            for path in _listed(place.parent):
                if mark_of_temporary(path.name, place.name) is not None:
                    _remove(path)
        return
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "archive"]
        for name in [*folders, *files]:
            if mark_of_temporary(name) is not None:
                _remove(Path(where) / name)


def _beside(folder: Path, name: str) -> Place:
    return (folder, name) if name else (folder.parent, folder.name)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    _log.info("removing %s, left half-written by a process that was killed", path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
