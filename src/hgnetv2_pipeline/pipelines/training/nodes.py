"""One node trains all four students: what differs between the recipes is in their parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import TeacherLogitsParams
from hgnetv2_pipeline.project.results import Reuse, Work
from hgnetv2_pipeline.project.runs import Resume, begin_run, from_resized, run_spec, stored_logits
from hgnetv2_pipeline.project.teacher import read_teacher
from hgnetv2_pipeline.project.tracking import tracker
from hgnetv2_pipeline.training.config import DistributedConfig, TrainConfig

_log = logging.getLogger(__name__)


def make_trainer(pipeline: str, *, mined: bool, distilled: bool) -> Callable[..., Any]:
    """The node function of one training pipeline, named after it.

    Its inputs after the lists are, where the pipeline has them: the folder with the mined list,
    the teacher, and, for the order of nodes, its stored answers and the run it starts from (named
    by ``init``).
    """

    def train(
        identity: Identity,
        config: TrainConfig,
        logits: TeacherLogitsParams,
        device: str,
        distributed: DistributedConfig,
        redo: list[str],
        resume: Resume,
        lists: Path,
        *upstream: Path,
    ) -> tuple[Path, Path]:
        samples = Lists(lists).index("train")
        if mined:
            samples = upstream[0] / "train_mined.parquet"
        teacher = read_teacher(upstream[int(mined)], identity) if distilled else None
        spec = run_spec(
            identity,
            config,
            pipeline=pipeline,
            out=identity.folder(pipeline),
            lists=Lists(lists),
            train=samples,
            teacher=teacher,
            stored=stored_logits(identity, logits) if distilled else None,
            device=device,
            seed=identity.seed,
            variant=identity.variant,
            resume=resume,
        )
        processes = distributed.processes(device)
        reuse = Reuse(identity.project, redo)
        spec, work = begin_run(reuse, spec, teacher, processes=processes)
        if isinstance(work, Work):
            from hgnetv2_pipeline.training.launch import train_many
            from hgnetv2_pipeline.training.plan import plan_run
            from hgnetv2_pipeline.training.run import train_run

            tracker.begin(spec.out)
            # Stored answers belong to the files that are read, so the plan reads those too.
            read = spec if spec.teacher_logits is None else from_resized(identity, spec)
            plan = plan_run(read, processes=processes)
            _log.info("%s: %s", pipeline, plan)
            if processes == 1:
                train_run(from_resized(identity, spec), report=tracker.reporter(pipeline))
            else:
                train_many(from_resized(identity, spec), distributed)
            work.finish()
        return spec.out, spec.out / "history.csv"

    train.__name__ = pipeline
    return train
