"""One of the processes that torch elastic starts: how it ends with its agent, and what it leaves
for the others to know when it fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.stopping import when_starter_dies

# Of the network between processes when one of them is gone, or does not answer in time.
_LOST = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "pair closure", "gloo",
)  # fmt: skip
PEER_SECONDS = 2.0


class PeerGoneError(RuntimeError):
    """Another process of the job is dead or does not answer; this one cannot go on alone."""

    exit_code = 1


def run_worker(main: Callable[[Sequence[str]], int], spec: str) -> None:
    """``main([spec])`` as torch elastic calls it in a process of its own."""
    # A Ctrl-C on the terminal reaches the agent, which passes it on: not twice.
    os.setsid()
    when_starter_dies(lambda: os.kill(os.getpid(), signal.SIGTERM))
    if code := main([spec]):
        sys.exit(code)


@contextmanager
def report_failure(spec: Path) -> Iterator[None]:
    """Round the work of one process: what ends it is reported to the agent, where there is one.

    Where the work was refused before, and a restart would only come to that again, the process ends
    at once with the same exit code.

    Raises:
        PeerGoneError: the work failed because another process is dead, stopped or hangs.
    """
    if refused := _refused_before(spec):
        sys.exit(refused)
    _lost_file(spec, int(_rank())).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if _peer_is_gone(error):
            # The agent names whom it finds dead first; that should be the other one, which has
            # meanwhile the time to be found.
            silent = _silent_peers(spec)
            named = f"process {', '.join(map(str, silent))}" if silent else "another process"
            gone = f"{named} is dead, stopped or hangs (process {_rank()}: {_first_line(error)})"
            _tell_agent(gone)
            raise PeerGoneError(gone) from error
        code, message = explain(error, debug="--debug", place=spec.parent)
        if code > 1:
            _refuse(spec, code, message)
        raise


def refusal(spec: Path) -> Path:
    """Where a process says why starting it again is of no use."""
    return spec.with_suffix(".refused.json")


def _refused_before(spec: Path) -> int:
    """Under elastic: the exit code that a restart would only come to again; 0 if it may help."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if _rank() == "0" and "TORCHELASTIC_RUN_ID" in os.environ:
            refusal(spec).unlink(missing_ok=True)  # of an earlier start, since mended perhaps
    else:
        with suppress(OSError, ValueError):
            before = read_json(refusal(spec))
            if before["run"] == os.environ.get("TORCHELASTIC_RUN_ID"):
                return int(before["code"])
    return 0


def _refuse(spec: Path, code: int, message: str) -> None:
    """Leave word that a restart of this process is of no use."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    with suppress(OSError):
        record = {"code": code, "message": message, "run": os.environ["TORCHELASTIC_RUN_ID"]}
        refusal(spec).write_text(json.dumps(record), encoding="utf-8")
    _tell_agent(message)


def _tell_agent(message: str) -> None:
    """Leave the reason of this process's end where torch elastic looks for it."""
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            reply = {"message": message, "timestamp": int(time.time())}
            Path(place).write_text(json.dumps(reply), encoding="utf-8")


def _peer_is_gone(error: Exception) -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1" and any(sign in str(error) for sign in _LOST)


def _lost_file(spec: Path, rank: int) -> Path:
    """Where process ``rank`` says that it lost the others."""
    return spec.with_suffix(f".lost-{rank}.json")


def _silent_peers(spec: Path) -> list[int]:
    """The processes that have not noticed, as this one has, that they lost another.

    All that wait for one that is stopped or hangs give up at nearly the same moment, each by its
    own clock; the one they waited for says nothing. This process waits ``PEER_SECONDS`` for them.
    """
    with suppress(OSError):
        _lost_file(spec, int(_rank())).touch()
    time.sleep(PEER_SECONDS)
    others = set(range(int(os.environ["WORLD_SIZE"]))) - {int(_rank())}
    return sorted(rank for rank in others if not _lost_file(spec, rank).exists())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rank() -> str:
    return os.environ.get("RANK", "0")
