"""A training run in processes of its own: ``python -m hgnetv2_pipeline.training.launch spec.json``.

Also under ``torchrun``, which starts it several times, and by ``train_many``. Exit codes are those
of ``errors``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hgnetv2_pipeline.ownership import take
from hgnetv2_pipeline.processes.elastic import Agents, run_elastic
from hgnetv2_pipeline.processes.elastic_worker import report_failure, run_worker
from hgnetv2_pipeline.processes.specs import read_spec, run_from_file, write_spec
from hgnetv2_pipeline.training.config import DistributedConfig, RunSpec

SPEC = "spec.json"
# What a process needs before its first step (an optimiser imports the compiler); imported once for
# all processes of a machine.
WORKER_IMPORTS = ("hgnetv2_pipeline.training.run", "torch._dynamo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the specification; returns the exit code."""
    return run_from_file(_train, "One training run from the JSON of a RunSpec.", arguments)


def _train(path: Path) -> None:
    with report_failure(path):
        from hgnetv2_pipeline.training.run import train_run

        train_run(read_spec(RunSpec, path))


def work(spec: str) -> None:
    """``main`` as torch elastic calls it in a process of its own."""
    run_worker(main, spec)


def train_many(spec: RunSpec, distributed: DistributedConfig) -> None:
    """Train ``spec`` in as many processes as ``distributed`` says; results go to ``spec.out``.

    Raises:
        Interrupted: a stop was requested; the state is saved and the same call resumes it.
        ParameterError, DataError, WeightsError, DiskFullError, RuntimeError: what ended the first
            process that failed once no restart was left, by its exit code.
    """
    agents = agents_of(spec, distributed)
    # The process that saves may be one of another machine.
    with take(spec.out, run=agents.job):
        file = write_spec(spec.out / SPEC, spec)
        run_elastic(work, __name__, file, agents, preload=WORKER_IMPORTS)


def agents_of(spec: RunSpec, distributed: DistributedConfig) -> Agents:
    """The processes that train ``spec``, as torch elastic is to start them."""
    return Agents(
        job="-".join([spec.stage, spec.variant, spec.out.name]),
        machines=distributed.nnodes,
        processes=distributed.processes_here(spec.device),
        endpoint=distributed.rdzv_endpoint,
        max_restarts=distributed.max_restarts,
    )


if __name__ == "__main__":
    sys.exit(main())
