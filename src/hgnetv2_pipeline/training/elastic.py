"""One run in many processes, by torch elastic: on this machine alone, or with agents on others.

The agent runs in the calling process. It starts ``launch.work`` once a device, and when one of the
processes dies it stops the others and starts all of them again, which resume from the newest
checkpoint. Further machines join by plain ``torchrun`` on the same ``spec.json``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.durable import read_json, write_text
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.ownership import take
from hgnetv2_pipeline.processes.side_by_side import ERRORS
from hgnetv2_pipeline.stopping import signals
from hgnetv2_pipeline.training import launch
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_log = logging.getLogger(__name__)

SPEC = "spec.json"
_TALKATIVE = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.elastic.agent.server.api",
    "torch.multiprocessing.spawn",
    "torchelastic-events-null",
)
# torch 2.15's agents keep one store for all rounds, where the process that comes back first finds
# the addresses of the dead. Asked for, every round has its own; all agents must agree on it.
_OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def train_many(spec: RunSpec, distributed: DistributedConfig) -> None:
    """Train ``spec`` in as many processes as ``distributed`` says; results lie in ``spec.out``.

    Raises:
        Interrupted: a stop was requested; the state is saved and the same call resumes it.
        ParameterError, DataError, WeightsError, DiskFullError, RuntimeError: what ended the first
            process that failed once no restart was left, by its exit code.
    """
    # The process that saves may be one of another machine.
    with take(spec.out, run=run_id(spec)):
        file = write_text(spec.out / SPEC, spec.model_dump_json(indent=2) + "\n")
        launch.refusal(file).unlink(missing_ok=True)
        _launch(spec, file, distributed)


def _launch(spec: RunSpec, file: Path, distributed: DistributedConfig) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    processes = distributed.processes_here(spec.device)
    # torchrun's own name for "a free port of this machine".
    endpoint = distributed.rdzv_endpoint or "localhost:0"
    _log.info(
        "%d processes%s", processes * distributed.nnodes,
        f" on {distributed.nnodes} machines; on each further one run: "
        + join_command(file, distributed, processes)
        if distributed.nnodes > 1
        else "",
    )  # fmt: skip
    # The imports take seconds: they are done once, in the server that forks the processes.
    multiprocessing.get_context("forkserver").set_forkserver_preload(launch.WORKER_IMPORTS)
    config = LaunchConfig(
        min_nodes=distributed.nnodes,
        max_nodes=distributed.nnodes,
        nproc_per_node=processes,
        run_id=run_id(spec),
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=distributed.max_restarts,
        start_method="forkserver",
        # torch would have listened to SIGHUP in spite of nohup, and ended the run at a logout.
        signals_to_handle=",".join(number.name for number in signals()),
    )
    try:
        with _handlers_put_back(), _quiet(), _environment(_OWN_STORE):
            elastic_launch(config, launch.work)(str(file))
    except SignalException as stopped:
        raise Interrupted(
            f"stopped by {signal.Signals(stopped.sigval).name}; what was saved is resumed by the "
            "same command"
        ) from None
    except ChildFailedError as error:
        raise _cause(file, *error.get_first_failure()) from None


def _cause(file: Path, rank: int, failure: ProcessFailure) -> Exception:
    """The error of the process that failed first, in its own words where it left any."""
    # The process that told its reason may not be the one whose end the agent saw first.
    if launch.refusal(file).is_file():
        told = read_json(launch.refusal(file))
        known = {**ERRORS, Interrupted.exit_code: Interrupted}
        return known.get(told["code"], RuntimeError)(told["message"])
    hint = " (often the out-of-memory killer)" if failure.exitcode == -signal.SIGKILL else ""
    # torch keeps a traceback beside the message of an exception.
    reason: Any = failure.message
    message = reason if isinstance(reason, str) else reason["message"]
    ended = "ended" if failure.exitcode > 0 else "is dead"
    return RuntimeError(
        f"process {rank} of {file.parent.name} {ended}: {message}{hint}; the same command goes on "
        "from the newest checkpoint"
    )


def run_id(spec: RunSpec) -> str:
    """The name by which agents of one run find each other."""
    return "-".join([spec.stage, spec.variant, spec.out.name])


def join_command(file: Path, distributed: DistributedConfig, processes: int) -> str:
    """What a further machine, which shares the project's folder, is to run."""
    spec = RunSpec.model_validate_json(file.read_text(encoding="utf-8"))
    variables = " ".join(f"{name}={value}" for name, value in _OWN_STORE.items())
    return (
        f"{variables} torchrun --nnodes {distributed.nnodes} --nproc-per-node {processes} "
        f"--rdzv-backend c10d --rdzv-endpoint {distributed.rdzv_endpoint} --rdzv-id {run_id(spec)} "
        f"--max-restarts {distributed.max_restarts} -m {launch.__name__} {file}"
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
    import threading

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
