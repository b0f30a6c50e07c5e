"""What of a new result goes to MLflow: numbers, curves, pages, hashes (sent by ``tracking``)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl

from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.project.tracking import tracker

_log = logging.getLogger(__name__)


class MLflowHooks:
    """Parameters, metrics per epoch, artefacts and hashes of whatever was newly made."""

    def __init__(self) -> None:
        self._catalog: Any = None
        self._params: dict[str, Any] = {}

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._params = dict(context.config_loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: Any) -> None:
        params = dict(self._params)
        identity = params.pop("this_run")["identity"]
        names = run_params.get("pipeline_names") or ["__default__"]
        self._catalog = catalog
        tracker.prepare(
            Path(identity["project"]),
            name=f"{'+'.join(names)} {identity['variant']} {identity['run']}",
            params={**params, "env": identity["environment"]},
            tags={"pipeline": "+".join(names), "dataset": identity["dataset"]},
            # A plan is no run.
            enabled=bool(params["mlflow"]) and not params["plan_only"],
        )

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        with tracker.guarded():
            if tracker.enabled:
                self._record(outputs)

    def _record(self, outputs: dict[str, Any]) -> None:
        from hgnetv2_pipeline.datasets import ResultPath
        from hgnetv2_pipeline.project.results import is_newly_made

        for name, value in outputs.items():
            dataset = self._catalog.get(name) if isinstance(value, Path) else None
            if isinstance(dataset, ResultPath):
                # A model without a mistake has no sheet of them.
                if is_newly_made(dataset.file) and dataset.file.is_file():
                    _record_file(name, dataset)
                    if name == "export.bundle":
                        tracker.model(dataset.path)
                if is_newly_made(dataset.path) and (dataset.path / "manifest.json").is_file():
                    _record_folder(name, dataset.path)

    @hook_impl
    def after_pipeline_run(self) -> None:
        with tracker.guarded():
            tracker.end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: BaseException) -> None:
        with tracker.guarded():
            tracker.end("KILLED" if isinstance(error, Interrupted) else "FAILED")


def _record_file(name: str, dataset: Any) -> None:
    """What ``dataset`` shows: numbers as metrics, a curve over its steps, the rest as a file."""
    from hgnetv2_pipeline.datasets import CurveFile, ImageFile, JsonFile, PageFile, TableFile
    from hgnetv2_pipeline.differences import flatten

    file: Path = dataset.file
    if isinstance(dataset, JsonFile):
        loaded = read_json(file)
        if isinstance(loaded, dict):
            tracker.metrics(flatten(loaded, f"{name}."))
        tracker.artifact(name, file)
    elif isinstance(dataset, CurveFile):
        tracker.history(name.removesuffix(".run"), file, dataset.x)
    # A pool's index can be gigabytes; it is named by its hash instead.
    elif isinstance(dataset, PageFile) or (
        isinstance(dataset, ImageFile | TableFile) and file.stat().st_size < 1_000_000
    ):
        tracker.artifact(name, file)


def _record_folder(name: str, folder: Path) -> None:
    """By SHA-256 what a result was made from; of a training its account of the images too."""
    tracker.hashes(name, folder / "manifest.json")
    account = folder / "result.json"
    if account.is_file():  # how many images were listed, used, left out
        result = read_json(account)
        sums = {k: n for k, n in result.items() if k.startswith("n_")}
        tracker.metrics({f"{name}.{key}": count for key, count in sums.items()})
        for forced in result.get("forced_resumes", []):
            changed = "; ".join(forced["changed"])
            tracker.tag(f"{name}.forced_at_step_{forced['step']}", changed)
