"""The teacher's pass over a pool, in processes of its own.

``python -m hgnetv2_pipeline.mining.score_processes SPEC`` is one of them. Also under
``torchrun``, on one machine or several that share a disk: each process takes every
``WORLD_SIZE``-th shard and waits for no other, so that any of them may be stopped and started
again. Exit codes are those of ``errors``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from hgnetv2_pipeline.cpus import available_cpus
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.ownership import helping
from hgnetv2_pipeline.processes.side_by_side import run_side_by_side, run_spec


def score(spec: ScoreSpec) -> None:
    """Do the shards of one process. torchrun's RANK and WORLD_SIZE win over those of ``spec``."""
    from hgnetv2_pipeline.mining.score import score_pool

    rank = int(os.environ.get("RANK", spec.rank))
    place = {
        "rank": rank,
        "world_size": int(os.environ.get("WORLD_SIZE", spec.world_size)),
        "device": _device(spec.device, int(os.environ.get("LOCAL_RANK", rank))),
    }
    with helping(spec.out):
        score_pool(spec.model_copy(update=place))


def score_in_processes(spec: ScoreSpec, processes: int, work: Path) -> None:
    """Score a source with one process (this one) or several side by side.

    Their specifications and logs lie in ``work``; ``spec.json`` there is the one for ``torchrun``,
    by which further machines help. Raises what ``score_pool`` raises.
    """
    write_json(work / "spec.json", spec.model_dump(mode="json"))
    if processes == 1:
        score(spec)
        return
    files = []
    for rank in range(processes):
        share = spec.model_copy(update={"rank": rank, "world_size": processes})
        path = work / f"rank={rank}.json"
        files.append(write_json(path, share.model_dump(mode="json")))
    run_side_by_side(
        __name__,
        files,
        jobs=processes,
        threads=max(1, available_cpus() // processes),
        logs=work,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the specification; returns the exit code."""
    return run_spec(lambda path: score(_read(path)), __doc__ or "", arguments)


def _read(path: Path) -> ScoreSpec:
    try:
        return ScoreSpec.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ParameterError(f"{path}: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} is not a readable JSON file: {error}") from error


def _device(device: str, local_rank: int) -> str:
    """A GPU each for the processes of a machine."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{local_rank % max(1, torch.cuda.device_count())}"


if __name__ == "__main__":
    sys.exit(main())
