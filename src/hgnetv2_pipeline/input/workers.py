"""Worker processes that make batches: the one way in which training, evaluation, the teacher's
passes and mining have their images read.

Workers are handed step numbers and make whole batches, one thread each, and give way to the step.
What goes wrong in one of them comes up in the process that asked, at once and in its own words: an
error as itself, a death or a hang with the image it was at, shared memory that is full with its
remedies. None of them outlives the process that started it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hgnetv2_pipeline.errors import DataError, DiskFullError
from hgnetv2_pipeline.exits import OTHER_TRACEBACK
from hgnetv2_pipeline.input.batches import SampleReader
from hgnetv2_pipeline.input.jpeg import optional
from hgnetv2_pipeline.input.shared_memory import PREFETCH, full, space, warn_if_short
from hgnetv2_pipeline.stopping import when_starter_dies

_NICE = 10
_TIMEOUT_SECONDS = 120.0
_DEATH_SECONDS = 5.0
_DISMISSED_SECONDS = 2.0
# Of the loaders that run, for ``_dead_worker``.
_live: list[_Steps[Any]] = []

# Of the loaders that somebody holds, and the process that ends their workers when it ends.
_begun: weakref.WeakSet[_Steps[Any]] = weakref.WeakSet()
_guarding = 0


def _end_workers_at_exit() -> None:
    """Once in each process: end the workers of loaders that nobody has closed when it ends.

    multiprocessing asks its children once by SIGTERM at the end of a process and waits for them,
    and a worker gives way to the second alone.
    """
    global _guarding
    if _guarding != os.getpid():
        _guarding = os.getpid()
        util.Finalize(None, _end_workers, exitpriority=10)


def _end_workers() -> None:
    pids = {pid for steps in _begun for pid in steps.at[:, 0].tolist()}
    if pids and threading.current_thread() is threading.main_thread():
        # torch's handler would raise for each that is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.pid in pids:
            child.kill()


class Readout(Protocol):
    """What a maker makes; torch pins its memory by ``pin_memory``, which it may have."""

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Key and reason of every image that could not be used."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, which travel in shared memory."""


M = TypeVar("M", bound=Readout)
M_co = TypeVar("M_co", bound=Readout, covariant=True)


class Maker(Protocol[M_co]):
    """Makes batches as a pure function of the step; travels to the workers by pickle."""

    @property
    def reader(self) -> SampleReader:
        """What it reads, and is seen reading."""

    def make(self, step: int) -> M_co:
        """The batch of a step."""


class _Packed:
    """An object pickled where it was made; who receives it gets the object.

    torch would pickle in a thread of the worker, which prints its errors and sends nothing.
    """

    def __init__(self, value: object) -> None:
        self.data = bytes(ForkingPickler.dumps(value))

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkingPickler.loads, (self.data,)


class _Failed:
    """A worker's error, sent as a value, with its traceback as a note (``--debug`` shows it).

    torch would raise it with the whole traceback as its message.
    """

    bad: tuple[()] = ()

    def __init__(self, error: Exception) -> None:
        try:
            ForkingPickler.loads(ForkingPickler.dumps(error))
            self.error = error
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")
        self.error.add_note(OTHER_TRACEBACK + "".join(traceback.format_exception(error)))


class _Steps(Dataset[Any], Generic[M]):
    """Step numbers as a map-style dataset for torch's DataLoader.

    Each worker leaves its process id and the row it reads in ``at`` [workers, 2], in shared memory:
    a process that dies or hangs can no longer say where it was.
    """

    def __init__(self, maker: Maker[M], start: int, count: int, workers: int) -> None:
        self.maker, self.start, self.count = maker, start, count
        with _report_if_full(workers):
            self.at = torch.zeros((workers, 2), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> _Packed | _Failed:
        try:
            made = self.maker.make(self.start + index)
            with _report_if_full(len(self.at), made.nbytes):
                return _Packed(made)
        except Exception as error:
            return _Failed(error)

    def watch(self, worker: int) -> None:
        """From now on, in this worker, what is read or decoded is noted first."""
        place = self.at[worker]
        place[0] = os.getpid()

        def note(row: int) -> None:
            place[1] = row

        self.maker.reader.note_row = note  # type: ignore[method-assign]

    def key(self, worker: int) -> str:
        """The image that a worker was last seen at."""
        return str(self.maker.reader.keys[int(self.at[worker, 1])].as_py())

    def late(self, step: int) -> DataError:
        """A step that did not come in time; workers are handed steps in turn."""
        return DataError(
            f"a loader process gave nothing for {_TIMEOUT_SECONDS:g} s; it is at image "
            f"{self.key((step - self.start) % len(self.at))}: see whether its disk answers"
        )

    def dismiss(self) -> None:
        """Have all workers end now: torch would wait for one that hangs, for seconds each time."""
        pids = set(self.at[:, 0].tolist())
        ours = [child for child in multiprocessing.active_children() if child.pid in pids]
        for child in ours:
            if child.pid is not None:
                os.kill(child.pid, signal.SIGQUIT)
        deadline = time.monotonic() + _DISMISSED_SECONDS
        for child in ours:
            child.join(max(0.0, deadline - time.monotonic()))

    def dead(self) -> list[str]:
        """Where workers were that are dead, or are found dead within moments."""
        deadline = time.monotonic() + _DEATH_SECONDS
        while True:
            alive = {process.pid for process in multiprocessing.active_children()}
            pids = self.at[:, 0].tolist()
            keys = [self.key(w) for w, pid in enumerate(pids) if pid and pid not in alive]
            if keys or time.monotonic() > deadline:
                return keys
            time.sleep(0.05)


@contextmanager
def _report_if_full(workers: int, nbytes: int = 0) -> Iterator[None]:
    """torch's word that shared memory has no room, as ours with its remedies."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if "No space left" in str(error):
            raise full(workers, nbytes) from error
        raise


@contextmanager
def watch_workers() -> Iterator[None]:
    """Around all work on batches: says which image a worker died at, and the likely cause.

    torch notices a death in a signal handler, so that its error may come up wherever the caller is.
    """
    try:
        yield
    except RuntimeError as error:
        raise _dead_worker(error) or error from None


def _dead_worker(error: RuntimeError) -> DataError | DiskFullError | None:
    """What torch says of a worker that died, with the image it was at; None of other errors."""
    found = re.search(r"DataLoader worker .pid\D*([\d, ]+)", str(error))
    pids = {int(pid) for pid in found[1].split(",")} if found else set()
    dead = [
        (steps, steps.key(worker))
        for steps in _live
        for worker, (pid, _) in enumerate(steps.at.tolist())
        if pid in pids
    ]
    if not dead:
        return None
    reason = str(error).splitlines()[0]
    # Written to a page that shared memory had no room for.
    if "Bus error" in reason:
        return full(len(dead[0][0].at))
    return _death([key for _, key in dead], reason)


def _death(keys: list[str], reason: str) -> DataError:
    images = ", ".join(dict.fromkeys(keys))
    return DataError(
        f"a loader process died, often by the out-of-memory killer, at image {images}: "
        f"lower the number of workers, or see whether that file kills it again ({reason})"
    )


def from_workers(maker: Maker[M], start: int, count: int, workers: int) -> Iterator[M]:
    """What ``maker`` makes of steps ``start`` to ``start + count - 1``; see ``made_batches``."""
    if workers == 0:
        for step in range(start, start + count):
            yield maker.make(step)
        return
    context: Any = None
    if torch.cuda.is_initialized():
        # A process that has a CUDA context must not be forked. Its stand-in imports once for all.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
    steps, before = _Steps(maker, start, count, workers), space()
    loader: Any = DataLoader(
        steps,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=PREFETCH,
        timeout=_TIMEOUT_SECONDS,
        pin_memory=torch.cuda.is_initialized(),
        worker_init_fn=_beside_the_step,
        # Its own, or the loader would draw from the caller's.
        generator=torch.Generator(),
        multiprocessing_context=context,
    )
    _live.append(steps)
    _begun.add(steps)
    _end_workers_at_exit()
    batches: Any = None
    try:
        with watch_workers(), _nothing_collected_by_children():
            batches = iter(loader)
        for step in range(start, start + count):
            try:
                with watch_workers():
                    made: M | _Failed = next(batches)
            except RuntimeError as error:
                if "DataLoader timed out" in str(error):
                    raise steps.late(step) from None
                raise
            except (EOFError, OSError) as error:
                # A batch that a worker had ready is gone with the worker.
                with watch_workers():
                    dead = steps.dead()
                if dead:
                    raise _death(dead, "batches it had made are lost") from None
                raise error
            if isinstance(made, _Failed):
                try:
                    raise made.error
                finally:
                    # The error knows this frame, which would know the error: a circle in which the
                    # loader and its processes would live on.
                    del made
            if step == start:
                warn_if_short(workers, made.nbytes, before)
            yield made
    except Exception as error:
        steps.dismiss()
        if isinstance(error, DataError | DiskFullError):
            error.__context__ = None  # torch's, whose frames hold the loader
        raise
    finally:
        _live.remove(steps)
        # An error knows this frame for as long as somebody keeps it: the loader ends now, and not
        # whenever the error is forgotten, in the middle of other work.
        batches = loader = None


@contextmanager
def _nothing_collected_by_children() -> Iterator[None]:
    """What is here now is never collected in a process forked within.

    What the run no longer uses and has not collected yet may be an engine with threads of its own.
    They do not live on in a child, where destroying it would wait for them or crash.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _beside_the_step(worker: int) -> None:
    """Workers share the CPUs among themselves, one thread each, and give way to the training.

    The process that starts a GPU's kernels needs a core at once: beside 16 workers on 16 cores a
    step of B4 took 103 ms instead of 68 on an H200, though its batch was ready.

    A terminal, or what ends a job, sends its signal to every process of the group: the run decides
    what a stop means, and needs its workers until then. torch's own shutdown asks twice.
    """
    if hasattr(os, "nice"):
        os.nice(_NICE)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))
    # At once and with nothing amiss: see ``dismiss``.
    signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
    # torch looks at the parent, which of a run on a GPU is the server of from_workers.
    when_starter_dies(lambda: os._exit(1))
    info: Any = get_worker_info()
    info.dataset.watch(worker)
    cv2 = optional("cv2")
    if cv2 is not None:
        cv2.setNumThreads(0)
