"""The models of a sweep made, one after another: trained, exported, judged; failures kept apart."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.deployment.card import precision_file
from hgnetv2_pipeline.errors import DataError, DiskFullError, Interrupted
from hgnetv2_pipeline.ownership import HeldError
from hgnetv2_pipeline.project.deployment.exporting import export_result, write_export
from hgnetv2_pipeline.project.evaluation import evaluation_result, write_evaluation
from hgnetv2_pipeline.project.lists import Lists
from hgnetv2_pipeline.project.params import EvaluationParams, ExportParams, TeacherLogitsParams
from hgnetv2_pipeline.project.run import Run
from hgnetv2_pipeline.project.sweep.runs import SweepRun
from hgnetv2_pipeline.project.teaching.teacher import read_teacher
from hgnetv2_pipeline.project.training.runs import (
    Training,
    logits_store,
    make_run_spec,
    train_missing,
)
from hgnetv2_pipeline.training.config import RunSpec, TrainConfig

_log = logging.getLogger(__name__)

SPLIT = "val"
"""What the models are chosen on. The test set stays what nothing was chosen on."""


@dataclass(frozen=True)
class Entry:
    """One model file of a sweep, or what became of it: ``state`` and ``reason``."""

    run: SweepRun
    precision: str
    state: str = "measured"  # or refused (by the gate of its precision), failed
    reason: str = ""
    model: Path | None = None
    counts: Path | None = None
    answers: Path | None = None

    @property
    def name(self) -> str:
        """As in ``b1 at 224 px int8``."""
        return f"{self.run.name} {self.precision}"


class SweepFailedError(DataError):
    """Some of a sweep could not be made; the others were, and are in its table."""


def make_entries(
    run: Run, runs: Sequence[SweepRun], lists: Lists, mined: Path | None, teacher: Path | None
) -> list[Entry]:
    """Make what is not finished of each of ``runs``; one that fails leaves the others alone.

    Raises:
        Interrupted, DiskFullError, HeldError: what the same command goes on from.
        Exception: all of them failed; the error of the last.
    """
    entries: list[Entry] = []
    for number, each in enumerate(runs, 1):
        _log.info("sweep, %d of %d: %s", number, len(runs), each.name)
        precisions = each.params["precision"]
        try:
            _train(run, each, lists, mined, teacher)
            refused = _export(each, lists)
            entries += [_judge(each, name, refused.get(name), lists) for name in precisions]
        except (Interrupted, DiskFullError, HeldError):
            raise
        except Exception as error:
            if number == len(runs) and not any(entry.state != "failed" for entry in entries):
                raise
            _log.error("sweep: %s failed, the others go on: %s", each.name, error)
            _log.debug("the failure of %s", each.name, exc_info=True)
            entries += [Entry(each, name, "failed", str(error)) for name in precisions]
    return entries


def report_failures(entries: Iterable[Entry]) -> None:
    """Raise SweepFailedError where something failed, after all else was made."""
    failed = {entry.run.name: entry.reason for entry in entries if entry.state == "failed"}
    if failed:
        said = "; ".join(f"{name} failed: {why}" for name, why in failed.items())
        raise SweepFailedError(f"the sweep is finished but for what failed: {said}")


def _train(
    run: Run, each: SweepRun, lists: Lists, mined: Path | None, teacher: Path | None
) -> None:
    """The trainings of one run, each in a process of its own, whose end is no end of ours."""
    for stage in each.stages:
        training = _training(each, stage, lists, mined, teacher)

        def announce(specs: Sequence[RunSpec], stage: str = stage) -> None:
            _log.info("sweep: %s, %s is trained", each.name, stage)

        train_missing(
            each.run,
            [training],
            jobs=1,
            folder=run.folder("sweep") / "trainings" / each.name.replace(" ", "-") / stage,
            announce=announce,
        )


def _training(
    each: SweepRun, stage: str, lists: Lists, mined: Path | None, teacher: Path | None
) -> Training:
    """The training that ``kedro run --pipeline STAGE`` of this variant would make."""
    its, found = each.run, None
    images, stored = lists.index("train"), None
    if mined is not None and teacher is not None:
        found = read_teacher(teacher, its.identity)
        logits = TeacherLogitsParams.model_validate(each.params["teacher_logits"])
        stored = logits_store(its, logits)
        images = mined / "train_mined.parquet" if stage == "ssld_stage1" else images
    config = TrainConfig.model_validate(each.params[stage])
    spec = make_run_spec(its, config, pipeline=stage, train=images, teacher=found, stored=stored)
    return spec, found


def _export(each: SweepRun, lists: Lists) -> dict[str, str]:
    """Export one run; the precisions that their gate refused, with the reason."""
    from hgnetv2_pipeline.deployment.export.gate import ExportError

    its, refused = each.run, dict[str, str]()
    wanted = list(each.params["precision"])
    while True:
        given = {**each.params["export"], "precisions": wanted or ["fp32"]}
        params = ExportParams.model_validate(given)
        try:
            its.produce(
                export_result(its, params, lists),
                partial(write_export, run=its, params=params, lists=lists),
            )
            return refused
        except ExportError as error:
            if error.precision not in wanted:
                raise
            _log.warning("sweep: %s", error)
            wanted.remove(str(error.precision))
            refused[str(error.precision)] = str(error)


def _judge(each: SweepRun, precision: str, refused: str | None, lists: Lists) -> Entry:
    """The answers of an exported file to the images of ``SPLIT``."""
    if refused:
        return Entry(each, precision, "refused", refused)
    its, engine = each.run, each.params["latency"]["engines"][0]
    given: dict[str, Any] = {**each.params["evaluation"], "engine": engine, "precision": precision}
    params = EvaluationParams.model_validate(given)
    spec = evaluation_result(its, params, SPLIT, lists)
    made = its.produce(spec, lambda aside: write_evaluation(aside, its, params, SPLIT, lists))
    counts, answers = (made.folder / name for name in spec.outputs)
    model = its.folder("export") / precision_file(precision)
    return Entry(each, precision, model=model, counts=counts, answers=answers)
