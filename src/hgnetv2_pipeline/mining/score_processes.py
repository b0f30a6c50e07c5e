"""The teacher's pass over a pool, in processes of its own.

``python -m hgnetv2_pipeline.mining.score_processes SPEC`` is one of them. Also under
``torchrun``, on one machine or several that share a disk: each process takes every
``WORLD_SIZE``-th shard and waits for no other, so that any of them may be stopped and started
again. Exit codes are those of ``errors``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hgnetv2_pipeline.devices import own_gpu
from hgnetv2_pipeline.mining.score_spec import ScoreSpec
from hgnetv2_pipeline.ownership import join_helpers
from hgnetv2_pipeline.processes.specs import (
    local_rank,
    read_spec,
    run_from_file,
    run_specs,
    shares,
    torchrun_share,
    write_spec,
)


def score_share(spec: ScoreSpec) -> None:
    """Do the shards of one process. torchrun's RANK and WORLD_SIZE win over those of ``spec``."""
    from hgnetv2_pipeline.mining.score import score_pool

    spec = torchrun_share(spec)
    place = {"device": own_gpu(spec.device, local_rank(spec.rank))}
    with join_helpers(spec.out):
        score_pool(spec.model_copy(update=place))


def score_in_processes(spec: ScoreSpec, processes: int, work: Path) -> None:
    """Score a source with one process (this one) or several side by side.

    Their specifications and logs are in ``work``; ``spec.json`` there is the one for ``torchrun``,
    by which further machines help. Raises what ``score_pool`` raises.
    """
    write_spec(work / "spec.json", spec)
    if processes == 1:
        score_share(spec)
    else:
        run_specs(__name__, shares(spec, processes), work, jobs=processes, logs=work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the specification; returns the exit code."""
    return run_from_file(
        lambda path: score_share(read_spec(ScoreSpec, path)), __doc__ or "", arguments
    )


if __name__ == "__main__":
    sys.exit(main())
