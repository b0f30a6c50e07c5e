"""Work as a JSON specification for a process of its own: written and started, read and run.

A module that can be started so has ``main`` call ``run_from_file``. Its specification is a pydantic
model; those that share their work with others have the fields ``rank`` and ``world_size``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hgnetv2_pipeline.durable import never_for_everyone, read_json, write_text
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.printable import show_logs, show_tracebacks
from hgnetv2_pipeline.processes.side_by_side import run_side_by_side
from hgnetv2_pipeline.processor import available_cpus
from hgnetv2_pipeline.progress import SHOWN, TerminalHandler

_log = logging.getLogger(__name__)

Spec = TypeVar("Spec", bound=BaseModel)


def run_specs(
    module: str,
    specs: Mapping[str, BaseModel],
    folder: Path,
    *,
    jobs: int,
    threads: int | None = None,
    logs: Path,
) -> None:
    """Write each of ``specs`` as ``folder/NAME.json`` and run ``module`` on all of them.

    At most ``jobs`` run at once; ``threads`` None gives each its part of the processors. Raises
    what ``run_side_by_side`` raises.
    """
    files = [write_spec(folder / f"{name}.json", spec) for name, spec in specs.items()]
    threads = threads or max(1, available_cpus() // jobs)
    run_side_by_side(module, files, jobs=jobs, threads=threads, logs=logs)


def shares(spec: Spec, processes: int) -> dict[str, Spec]:
    """``spec`` for each of the ``processes`` that share its work, by name."""
    return {
        f"rank={rank}": spec.model_copy(update={"rank": rank, "world_size": processes})
        for rank in range(processes)
    }


def torchrun_share(spec: Spec) -> Spec:
    """``spec`` with the rank and world size that torchrun gave this process, if it started it."""
    given = {
        name: int(os.environ[name.upper()])
        for name in ("rank", "world_size")
        if name.upper() in os.environ
    }
    return spec.model_copy(update=given)


def local_rank(rank: int) -> int:
    """Which of the processes of this machine this one is; ``rank`` where torchrun does not say."""
    return int(os.environ.get("LOCAL_RANK", rank))


def write_spec(path: Path, spec: BaseModel) -> Path:
    """Write ``spec`` as the JSON that ``read_spec`` reads, whole or not at all."""
    return write_text(path, spec.model_dump_json(indent=2) + "\n")


def read_spec(model: type[Spec], path: Path) -> Spec:
    """The specification in the file ``path``.

    Raises:
        ParameterError: it is not readable JSON, or not such a specification.
    """
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is not a readable JSON file: {error}") from error
    try:
        return parse(model, values, where="")
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error


def parse(model: type[Spec], values: Any, *, where: str) -> Spec:
    """Validate ``values``; every fault goes into one ``ParameterError`` line that says where."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            place = ".".join(filter(None, [where, *map(str, fault["loc"])]))
            message = fault["msg"].removeprefix("Value error, ")
            given = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
            faults.append(f"{place}: {message}{given}" if place else f"{message}{given}")
        raise ParameterError("; ".join(faults)) from error


def run_from_file(
    run: Callable[[Path], None], what: str, arguments: Sequence[str] | None = None
) -> int:
    """What ``python -m MODULE SPEC.json`` does: log, run, and say by exit code how it went."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("spec", type=Path, help="JSON file of what to do")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    if os.environ.get("RANK", "0") != "0":
        # Under torchrun every process would say the same; the others speak up only about trouble.
        logging.disable(logging.INFO)
    show_logs()
    show_tracebacks()
    never_for_everyone()
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=_handlers(options.spec),
    )
    for ours in ("hgnetv2_pipeline", "__main__"):
        logging.getLogger(ours).setLevel(logging.INFO)
    try:
        run(options.spec)
    except Exception as error:
        code, message = explain(error, debug="--debug", place=options.spec.parent)
        # What nobody foresaw leaves its traceback in the log.
        if options.debug or (code == 1 and not hasattr(error, "exit_code")):
            raise
        _log.error("%s", message)
        return code
    return 0


def _handlers(spec: Path) -> list[logging.Handler]:
    """Of a process that torch elastic started, which shares a terminal with others, details go to
    a log beside ``spec``; any other writes all to standard error, which is its log."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return [logging.StreamHandler(sys.stderr)]
    console = TerminalHandler(sys.stderr)
    console.setLevel(SHOWN)
    return [console, logging.FileHandler(spec.with_suffix(".log"), encoding="utf-8", delay=True)]
