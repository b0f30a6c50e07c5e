"""One process or many: run a module on several specifications side by side.

Each job is ``python -m MODULE SPEC.json`` in a process of its own: it has its own threads, a crash
of one leaves the others running, and none outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hgnetv2_pipeline.errors import (
    DataError,
    DiskFullError,
    Interrupted,
    ParameterError,
    WeightsError,
)
from hgnetv2_pipeline.progress import Progress
from hgnetv2_pipeline.stopping import stop_on_signal

_log = logging.getLogger(__name__)

TAIL_LINES = 15
POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
# What a process of ours means by its exit code.
ERRORS = {
    error.exit_code: error for error in (ParameterError, DataError, WeightsError, DiskFullError)
}


@dataclass
class _Job:
    spec: Path
    log: Path
    process: subprocess.Popen[bytes]


def run_side_by_side(
    module: str, spec_files: Sequence[Path], *, jobs: int, threads: int, logs: Path
) -> None:
    """Run ``python -m module spec`` for every spec, at most ``jobs`` at once.

    Each process gets ``threads`` threads and writes to ``logs/<name of the spec>.log``. SIGTERM and
    SIGINT are passed on, and the processes are waited for.

    Raises:
        Interrupted: a process ended with 75 or a stop was requested; the same call goes on.
        ParameterError, DataError, WeightsError, DiskFullError, RuntimeError: the first process that
            failed, by its exit code, with the end of its log. The others are asked to stop.
    """
    if jobs < 1 or threads < 1:
        raise ParameterError(f"jobs {jobs} and threads {threads} must both be at least 1")
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(spec_files), list[_Job]()
    failed: _Job | None = None
    interrupted = False
    with (
        stop_on_signal(lambda: _signal(running, signal.SIGTERM)) as stopped,
        Progress(len(waiting), _work_of(module), "run") as progress,
    ):
        try:
            while running or waiting:
                while waiting and len(running) < jobs and not (stopped or failed or interrupted):
                    running.append(_start(module, waiting.pop(0), threads, logs))
                if not running:
                    break
                time.sleep(POLL_SECONDS)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    code = job.process.returncode
                    if code == 0:
                        progress.advance(note=job.spec.stem)
                    elif code == Interrupted.exit_code:
                        interrupted = True
                    elif failed is None:
                        failed = job
                        _log.error("%s failed, stopping the others", job.spec.stem)
                        _signal(running, signal.SIGTERM)
        finally:
            # Only on the way out of an unexpected error is anything still running.
            _signal(running, signal.SIGKILL)
            for job in running:
                job.process.wait()
    if stopped:
        raise Interrupted(
            "stopped; the runs in progress are saved, and the same command resumes them"
        )
    if failed is not None:
        raise _failure(failed)
    if interrupted:
        raise Interrupted("a run was stopped from outside and saved; the same command resumes it")


def _work_of(module: str) -> str:
    """What ``module`` does, in words: of ``hgnetv2_pipeline.training.launch`` training."""
    return module.removesuffix(".launch").rpartition(".")[2].replace("_", " ")


def _start(module: str, spec: Path, threads: int, logs: Path) -> _Job:
    log = logs / f"{spec.stem}.log"
    package_parent = Path(__file__).resolve().parents[2]
    count = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "PYTHONPATH": os.pathsep.join(
            part for part in (str(package_parent), os.environ.get("PYTHONPATH", "")) if part
        ),
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C on a terminal reaches every process of the group; we pass it on once ourselves.
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )
    return _Job(spec, log, process)


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What a child calls between fork and exec, to get SIGTERM, on which it saves its state, when
    its parent dies; None where the system is not Linux."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: the child may do next to nothing between fork and exec.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(Interrupted.exit_code)

    return ask


def _signal(running: list[_Job], number: signal.Signals) -> None:
    for job in running:
        if job.process.poll() is None:
            job.process.send_signal(number)


def _failure(job: _Job) -> Exception:
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    code = job.process.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    hint = " (often the out-of-memory killer)" if code == -signal.SIGKILL else ""
    error = ERRORS.get(code, RuntimeError)(
        f"run {job.spec.stem} ended with {how}{hint}; the end of {job.log}:"
    )
    for line in lines[-TAIL_LINES:]:
        error.add_note(line)
    return error
