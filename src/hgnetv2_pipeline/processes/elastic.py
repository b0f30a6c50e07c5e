"""One job in many processes, by torch elastic: on this machine alone, or with agents on others.

The agent runs in the calling process. It starts a function once per device, and when one of the
processes dies it stops the others and starts all of them again, which resume from what was saved.
Further machines join by plain ``torchrun`` on the same specification. What the processes do on
their side is in ``elastic_worker``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.processes.elastic_worker import refusal
from hgnetv2_pipeline.processes.side_by_side import ERRORS
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.stopping import signals

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_log = logging.getLogger(__name__)

_TALKATIVE = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
    "torch.multiprocessing.spawn",
    "torchelastic-events-null",
)
# torch 2.15's agents keep one store for all rounds, where the process that comes back first finds
# the addresses of the dead. Asked for, every round has its own; all agents must agree on it.
_OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@dataclass(frozen=True)
class Agents:
    """The agents of one job, one per machine, and what each of them starts."""

    job: str
    """The name by which they find each other."""
    machines: int
    processes: int
    """On each machine."""
    endpoint: str | None
    """host:port of the first machine; None for one machine alone."""
    max_restarts: int
    """Times that all processes start again after one has died."""


def run_elastic(
    work: Callable[[str], None], module: str, spec: Path, agents: Agents, *, preload: Sequence[str]
) -> None:
    """Call ``work(spec)`` in as many processes as ``agents`` says, those of this machine.

    ``module`` is what further machines run by torchrun. ``preload``: modules that are imported once
    for all processes.

    Raises:
        Interrupted: a stop was requested; the same call resumes what was saved.
        ParameterError, DataError, WeightsError, DiskFullError, RuntimeError: what ended the first
            process that failed once no restart was left, by its exit code.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    refusal(spec).unlink(missing_ok=True)
    joined = f" on {agents.machines} machines; on each further one run: "
    _log.log(
        SHOWN if agents.machines > 1 else logging.INFO,
        "%d processes%s",
        agents.processes * agents.machines,
        joined + join_command(module, spec, agents) if agents.machines > 1 else "",
    )
    # The imports take seconds: they are done once, in the server that forks the processes.
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(preload))
    config = LaunchConfig(
        min_nodes=agents.machines,
        max_nodes=agents.machines,
        nproc_per_node=agents.processes,
        run_id=agents.job,
        rdzv_backend="c10d",
        # torchrun's own name for "a free port of this machine".
        rdzv_endpoint=agents.endpoint or "localhost:0",
        max_restarts=agents.max_restarts,
        start_method="forkserver",
        # torch would have listened to SIGHUP in spite of nohup, and ended the run at a logout.
        signals_to_handle=",".join(number.name for number in signals()),
    )
    try:
        with _handlers_put_back(), _quiet(), _environment(_OWN_STORE):
            elastic_launch(config, work)(str(spec))
    except SignalException as stopped:
        raise Interrupted(
            f"stopped by {signal.Signals(stopped.sigval).name}; what was saved is resumed by the "
            "same command"
        ) from None
    except ChildFailedError as error:
        raise _cause(spec, *error.get_first_failure()) from None


def join_command(module: str, spec: Path, agents: Agents) -> str:
    """What a further machine, which shares the folder of ``spec``, is to run."""
    variables = " ".join(f"{name}={value}" for name, value in _OWN_STORE.items())
    return (
        f"{variables} torchrun --nnodes {agents.machines} --nproc-per-node {agents.processes} "
        f"--rdzv-backend c10d --rdzv-endpoint {agents.endpoint} --rdzv-id {agents.job} "
        f"--max-restarts {agents.max_restarts} -m {module} {spec}"
    )


def _cause(spec: Path, rank: int, failure: ProcessFailure) -> Exception:
    """The error of the process that failed first, in its own words where it left any."""
    # The process that gave its reason may not be the one whose end the agent saw first.
    if refusal(spec).is_file():
        refused = read_json(refusal(spec))
        known = {**ERRORS, Interrupted.exit_code: Interrupted}
        return known.get(refused["code"], RuntimeError)(refused["message"])
    hint = " (often the out-of-memory killer)" if failure.exitcode == -signal.SIGKILL else ""
    # torch keeps a traceback beside the message of an exception.
    reason: Any = failure.message
    message = reason if isinstance(reason, str) else reason["message"]
    ended = "ended" if failure.exitcode > 0 else "is dead"
    return RuntimeError(
        f"process {rank} of {spec.parent.name} {ended}: {message}{hint}; the same command goes on "
        "from the newest checkpoint"
    )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _handlers_put_back() -> Iterator[None]:
    """torch's agent leaves its signal handlers and settings behind."""
    environment = dict(os.environ)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for name in set(os.environ) - set(environment):
            del os.environ[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """The agent's events, and its tracebacks of dead processes: our one error says what matters."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loggers:
            logger.disabled = False
