"""What happens around a run: checks before it, the banner, the plan, the last table."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from hgnetv2_pipeline.durable import require_writable
from hgnetv2_pipeline.errors import DataError, ParameterError, PlanPrinted
from hgnetv2_pipeline.printable import Lines
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.training.config import MULTI_LABEL_LOSSES

if TYPE_CHECKING:
    from hgnetv2_pipeline.project.sweep.runs import SweepRun

_log = logging.getLogger(__name__)

TRAININGS = ("train", "ssld_stage1", "ssld_stage2", "finetune")
BANNER = Lines("""\
+---------------------------------------------------------------------------+
| EMBEDDED SAMPLE: 8x8 digits and photo patches, minutes on a laptop.       |
| Its figures show that every step works; they say nothing about ImageNet.  |
| Your own images: hgnetv2 init NAME --labelled DIR --pool DIR              |
+---------------------------------------------------------------------------+""")


# What a plan needs to be there.
_PLANNED = ("ingestion", "import_weights")


class ProjectHooks:
    """Says at once when a run is on the embedded sample, or cannot reach its end."""

    def __init__(self) -> None:
        self._params: dict[str, Any] = {}
        self._parts: set[str] = set()
        self._loader: Any = None
        self._sweep: list[SweepRun] = []

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        # With --conf-source the configuration is elsewhere than the project.
        context.config_loader.project = context.project_path
        # Kedro reads parameters only when the catalog is made; a mistake should be reported before.
        self._params = dict(context.config_loader["parameters"])
        self._loader = context.config_loader
        identity = self._params["this_run"]["identity"]
        if identity["dataset"] == "sample":
            _log.log(SHOWN, "\n%s", BANNER)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any
    ) -> None:
        """What cannot end well is refused now, not after hours of training the teacher.

        Then, before MLflow or a node has written anything, this command's results are claimed.
        """
        data, identity = self._params["data"], self._params["this_run"]["identity"]
        self._refuse_unwritable(Path(identity["project"]))
        self._parts = {str(node.namespace) for node in pipeline.nodes}
        tags = {tag for node in pipeline.nodes for tag in node.tags}
        self._list_sweep(tags, catalog)
        several = self._layout(Path(identity["project"])) == "multi_label"
        if several and tags & {
            "train_teacher",
            "mining",
            "ssld_stage1",
            "ssld_stage2",
            "comparison",
        }:
            names = "+".join(run_params.get("pipeline_names") or ["__default__"])
            raise ParameterError(
                f"pipeline {names} needs SSLD's teacher, whose one answer per image does not fit "
                "data.layout: multi_label; what works: --pipeline train or finetune with --params "
                "recipe=multi_label, then evaluation, export or prediction with --params "
                f"model=train/{identity['variant']}/{identity['run']}"
            )
        trained = tags | {stage for each in self._sweep for stage in each.stages}
        for name in sorted(trained & {"train", "finetune"}):
            loss = self._params[name]["loss"]["name"]
            if several != (loss in MULTI_LABEL_LOSSES):
                fit = "bce or asymmetric (--params recipe=multi_label)"
                raise ParameterError(
                    f"data.layout {data['layout']} and {name}.loss.name {loss} do not fit: "
                    f"{'several labels' if several else 'one label'} per image needs "
                    f"{fit if several else 'label_smoothing'}"
                )
        if "mining" in tags and not data["pool"]:
            names = "+".join(run_params.get("pipeline_names") or ["__default__"])
            raise DataError(
                f"pipeline {names} mines a pool and data.pool is empty: name folders of unlabelled "
                f"images (data.pool in conf/{identity['environment']}/parameters.yml or --params "
                "data.pool=DIR); of labelled images alone: kedro run without --pipeline, or "
                "--pipeline train, best, evaluation, export, latency, prediction, reporting"
            )
        self._refuse_missing_models(tags)
        if "ingestion" in tags:
            from hgnetv2_pipeline.project.stages import warn_of_unwatched

            warn_of_unwatched(self._params)
        planned = self._params["plan_only"]
        nodes = [node for node in pipeline.nodes if not planned or node.namespace in _PLANNED]
        claims.begin(
            {
                node.name: frozenset(each.name for each in pipeline.from_nodes(node.name).nodes)
                & {each.name for each in nodes}
                for node in nodes
            },
            identity=Identity.model_validate(identity),
            params=self._params,
        )

    def _list_sweep(self, tags: set[str], catalog: Any) -> None:
        """The parameters of every run of a sweep, validated before the first node, as its input."""
        self._sweep = []
        if "sweep" in tags:
            from hgnetv2_pipeline.project.models import check_model
            from hgnetv2_pipeline.project.sweep.runs import LABELLED_ONLY, SSLD, list_runs

            self._sweep = list_runs(self._loader, SSLD if "mining" in tags else LABELLED_ONLY)
            catalog["params:sweep_runs"] = self._sweep
            names = ", ".join(each.name for each in self._sweep)
            _log.info("sweep of %s (variants, size, precision: docs/sweep.md)", names)
            for each in self._sweep:
                for stage in each.stages:
                    init = each.params[stage]["init"]
                    if init != "scratch":
                        check_model(each.run.identity, init, made=each.stages)

    def _layout(self, project: Path) -> str:
        """The layout of the labelled images, looked for only where the parameters leave it open."""
        data = self._params["data"]
        if data["layout"] != "auto":
            return str(data["layout"])
        from hgnetv2_pipeline.project.ingestion.sources import unlinked_layout
        from hgnetv2_pipeline.project.params import DataParams

        return unlinked_layout(DataParams.model_validate(data), project).name

    def _refuse_missing_models(self, tags: set[str]) -> None:
        from hgnetv2_pipeline.project.models import check_model
        from hgnetv2_pipeline.project.node_selection import TAKES_MODEL
        from hgnetv2_pipeline.project.params import TeacherParams
        from hgnetv2_pipeline.project.teaching.probes import check_probes

        identity = Identity.model_validate(self._params["this_run"]["identity"])
        named = [identity.model] if tags & TAKES_MODEL else []
        if "latency" in tags:
            named += self._params["latency"]["beside"]
        if "train_teacher" in tags:
            teacher = TeacherParams.model_validate(self._params["train_teacher"])
            check_probes(teacher, identity.project)
            named += teacher.source
        recipes = [self._params[name] for name in TRAININGS if name in tags]
        if "train_teacher" in tags and not teacher.source and teacher.members:
            recipes.append(self._params["train_teacher"]["recipe"])
        named += [recipe["init"] for recipe in recipes if recipe["init"] != "scratch"]
        for model in named:
            check_model(identity, model, made=tags)

    @staticmethod
    def _refuse_unwritable(project: Path) -> None:
        """Each layer of ``data/`` may lead to another disk; all of them are tried."""
        data = project / "data"
        for folder in (data, *sorted(data.glob("0[2-8]_*"))):
            require_writable(folder / "any", "data/")

    @hook_impl
    def after_pipeline_run(self) -> None:
        claims.end()

    @hook_impl
    def on_pipeline_error(self) -> None:
        claims.end()

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """With ``plan_only`` the lists are made, to be counted; then all ends with a table."""
        claims.at(node.name)
        if not self._params["plan_only"] or node.namespace in _PLANNED:
            return
        from hgnetv2_pipeline.project.planning.chain import PARTS, plan_chain, plan_sweep

        if self._sweep:
            _log.info("%s", plan_sweep(self._sweep))
            raise PlanPrinted("plan_only: nothing was trained")
        if not self._parts & {*PARTS}:
            raise PlanPrinted("plan_only: nothing in this pipeline takes hours")
        _log.log(SHOWN, "%s", plan_chain(self._params, self._parts))
        raise PlanPrinted("plan_only: nothing was trained")
