"""A line per stage while a pipeline runs, and at its end the table and what to do next."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from hgnetv2_pipeline.errors import Interrupted, PlanPrinted
from hgnetv2_pipeline.printable import Lines
from hgnetv2_pipeline.progress import SHOWN, TICK, columns, duration, fitted
from hgnetv2_pipeline.project.evaluation import evaluation_name
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.logs import RunLog
from hgnetv2_pipeline.project.params import RECIPES, EvaluationParams
from hgnetv2_pipeline.project.results import count_archived, count_made, count_of_other_code
from hgnetv2_pipeline.project.terminal.key_figures import key_figure

_log = logging.getLogger(__name__)


class TerminalHooks:
    """Shows a stage, which is all nodes of a namespace, when its last node has ended.

    Stages of which everything was reused share one line.
    """

    def __init__(self) -> None:
        self._params: dict[str, Any] = {}
        self._waiting: Counter[str] = Counter()
        self._stages: set[str] = set()
        self._seconds: dict[str, float] = defaultdict(float)
        self._made: Counter[str] = Counter()
        self._archived: Counter[str] = Counter()
        self._reused: list[str] = []
        self._began, self._before = 0.0, (0, 0)
        self._file: RunLog | None = None

    @property
    def _identity(self) -> Identity:
        return Identity.model_validate(self._params["this_run"]["identity"])

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._params = dict(context.config_loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Count the nodes of each stage, and keep a log of the run."""
        self._waiting = Counter(str(node.namespace) for node in pipeline.nodes)
        self._stages = {*self._waiting}
        self._seconds, self._made, self._reused = defaultdict(float), Counter(), []
        self._archived = Counter()
        count_of_other_code()
        self._end_log()
        folder, project = self._identity.folder("logs"), self._identity.project
        self._file = RunLog(folder, project, when_begun=self._show_reused)
        logging.getLogger().addHandler(self._file)

    @hook_impl
    def before_node_run(self) -> None:
        self._began, self._before = time.monotonic(), (count_made(), count_archived())

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Show the stage, if this was its last node."""
        stage = str(node.namespace)
        self._seconds[stage] += time.monotonic() - self._began
        made, archived = self._before
        self._made[stage] += count_made() - made
        self._archived[stage] += count_archived() - archived
        self._waiting[stage] -= 1
        if self._waiting[stage]:
            return
        if not self._made[stage]:
            self._reused.append(stage)
            return
        self._show_reused()
        words = [key_figure(stage, self._identity, self._params)]
        if earlier := self._archived[stage]:
            words.append(f"{earlier} archived")
        taken = duration(self._seconds[stage])
        line = f"{TICK} {stage:<15} {taken:>12}   {', '.join(filter(None, words))}"
        _log.log(SHOWN, "%s", Lines(line.rstrip()))

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Show the table that the run was for, and what can be done with what it made."""
        self._show_reused()
        self._show_other_code()
        asked = set(run_params.get("pipeline_names") or ())
        if "reporting" in self._stages:
            self._show_summary()
        elif "comparison" in asked or self._made["comparison"]:
            self._show_comparison()
        if following := _what_next(self._identity, self._params, self._stages, asked):
            _log.log(SHOWN, "%s", Lines(f"what next\n{following}"))
        self._end_log()

    @hook_impl
    def on_pipeline_error(self, error: BaseException) -> None:
        self._show_reused()
        self._show_other_code()
        if getattr(error, "exit_code", 1) not in (PlanPrinted.exit_code, Interrupted.exit_code):
            _log.info("ended by %s", type(error).__name__, exc_info=error)
        self._end_log()

    def _show_reused(self) -> None:
        if self._reused:
            line = f"{TICK} reused: {', '.join(self._reused)}"
            _log.log(SHOWN, "%s", Lines(fitted(line, columns())))
            self._reused = []

    def _show_other_code(self) -> None:
        if count := count_of_other_code():
            _log.warning(
                "%d of the reused results were made by other code of this project (the log names "
                "them); to make them again: --params redo=all, or redo=PIPELINE", count,
            )  # fmt: skip

    def _show_summary(self) -> None:
        from hgnetv2_pipeline.project.report_files import report_inputs
        from hgnetv2_pipeline.reporting.build import terminal_summary

        _log.log(SHOWN, "%s", Lines(f"\n{terminal_summary(report_inputs(self._identity))}\n"))

    def _show_comparison(self) -> None:
        from hgnetv2_pipeline.project.training.arms_table import describe_comparison

        file = self._identity.folder("comparison_report") / "comparison.json"
        _log.log(SHOWN, "%s", Lines(f"\n{describe_comparison(file, self._identity.model)}\n"))

    def _end_log(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _what_next(
    identity: Identity, params: Mapping[str, Any], stages: set[str], asked: set[str]
) -> Lines:
    """Commands that go on from what ``stages`` made, each with what it is for. ``asked`` are the
    pipelines that were named."""
    report = identity.folder("report") / "report.html"
    export = identity.folder("export")
    mistakes = _mistakes(identity, params)
    found: list[tuple[str, str | Path]] = []
    if "reporting" in stages and report.is_file():
        found.append(("read the report", report.relative_to(identity.project)))
    if "sweep" in asked:
        from hgnetv2_pipeline.reporting.sweep_page import PAGE

        page = identity.folder("sweep") / PAGE
        found.append(("see the plot", page.relative_to(identity.project)))
    if "evaluation" in asked and mistakes.is_file():
        found.append(("wrong answers", mistakes.relative_to(identity.project)))
    for stage in (each for each in RECIPES if each in asked):
        measure = f"{identity.run_command} --pipeline evaluation --params"
        found.append(("measure it", f"{measure} model={stage}/{identity.variant}/{identity.run}"))
    if "label_errors" in asked:
        found.append(
            ("correct labels", identity.run_command.replace("kedro run", "hgnetv2 review"))
        )
    if "export" in stages and (export / "model.onnx").is_file():
        bundle = export.relative_to(identity.project)
        found.append(("classify images", f"hgnetv2 predict --model {bundle} IMAGES"))
    if not found:
        return Lines("")
    if (identity.project / "mlflow.db").is_file():
        found.append(("compare runs", "mlflow ui --backend-store-uri sqlite:///mlflow.db"))
    if identity.dataset == "sample":
        found.append(("your own images", "hgnetv2 init NAME --labelled DIR --pool DIR"))
    width = columns()
    rows = [(f"  {purpose:<16} {what}", f"  {purpose}\n    {what}") for purpose, what in found]
    return Lines("\n".join(one if len(one) <= width else two for one, two in rows))


def _mistakes(identity: Identity, params: Mapping[str, Any]) -> Path:
    """Where this run's evaluation puts its table of the surest wrong answers."""
    measured = EvaluationParams.model_validate(params["evaluation"])
    folder = identity.folder("error_analysis") / evaluation_name(measured, params["split"])
    return folder / "mistakes.csv"
