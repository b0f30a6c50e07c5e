"""What of a command goes to MLflow: a run for it, a child for each training and measurement.

The command's run has the headline, the lists of images, the pages, the effective configuration and
all hashes; a child has the curves and figures of its part (sent by ``tracking``).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl

from hgnetv2_pipeline.differences import flatten
from hgnetv2_pipeline.durable import read_json
from hgnetv2_pipeline.errors import Interrupted
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.tracking import TrackedCommand, tracker

_log = logging.getLogger(__name__)

# What identifies a run; of all other parameters, only what is not as usual is recorded.
_IDENTITY = (
    "dataset", "variant", "run", "seed", "recipe", "teacher", "model", "split", "device",
)  # fmt: skip
# What was typed and says nothing that a run's name does not say, or that sets it off from others.
_SAID_OTHERWISE = {"dataset", "variant", "run", "seed", "redo", "resume", "device", "plan_only"}
_COUNTS = ("n_listed", "n_used", "n_quarantined", "n_refused")
CARD = "MODEL_CARD.md"
_LARGEST = 1_000_000


class MLflowHooks:
    """Feeds the tracker with whatever was newly made."""

    def __init__(self) -> None:
        self._loader: Any = None
        self._params: dict[str, Any] = {}
        self._pipeline: Any = None
        self._catalog: Any = None
        self._identity: Identity | None = None
        self._seen: dict[str, Any] = {}
        self._logged: dict[str, float] = {}
        self._exported: Any = None
        self._evaluation_run: str | None = None

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        self._loader = context.config_loader
        self._params = dict(self._loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        params = dict(self._params)
        identity = self._identity = Identity.model_validate(params.pop("this_run")["identity"])
        names = "+".join(run_params.get("pipeline_names") or ["__default__"])
        settings = params["mlflow"]
        self._catalog, self._pipeline = catalog, pipeline
        self._seen, self._logged = {}, {}
        self.__dict__.pop("_usual", None)
        self._exported = self._evaluation_run = None
        # A plan is no run.
        enabled = bool(settings["enabled"]) and not params["plan_only"]
        tracker.prepare(
            TrackedCommand(
                identity.project,
                _name_of(identity, names, self._loader.runtime_params),
                params=self._own_values,
                tags={"pipeline": names, "dataset": identity.dataset, **settings["tags"]},
                uri=settings["uri"],
                experiment=settings["experiment"],
            ),
            enabled=enabled,
        )

    @cached_property
    def _usual(self) -> dict[str, Any]:
        """The parameters as ``conf/base`` and the recipe say them."""
        usual: dict[str, Any] = self._loader.usual_parameters()
        return usual

    def _own_values(self) -> dict[str, Any]:
        """Who the run is, and the parameters of what runs that are not as usual."""
        from hgnetv2_pipeline.project.params import own_values

        assert self._identity is not None
        read = {name.removeprefix("params:") for name in self._pipeline.inputs()} - {"this_run"}
        own = own_values(self._params, self._usual)
        own = {k: v for k, v in own.items() if k.partition(".")[0] in read | {"training", "data"}}
        known = {name: self._params[name] for name in _IDENTITY}
        return known | {"env": self._identity.environment} | own

    @hook_impl
    def after_node_run(self, outputs: dict[str, Any]) -> None:
        with tracker.guarded():
            if tracker.enabled:
                self._record(outputs)

    def _record(self, outputs: dict[str, Any]) -> None:
        from hgnetv2_pipeline.datasets import ResultPath
        from hgnetv2_pipeline.project.results import is_newly_made

        made = {}
        for name, value in outputs.items():
            dataset = self._catalog.get(name) if isinstance(value, Path) else None
            if isinstance(dataset, ResultPath):
                self._seen[name] = dataset
                if dataset.path.is_dir():
                    self._record_trainings(dataset.path)
                # A model without a mistake has no sheet of them.
                new = is_newly_made(dataset.file) or is_newly_made(dataset.path)
                if new and dataset.file.exists():
                    made[name] = dataset
        for name, dataset in made.items():
            self._record_result(name, dataset)
        if made and not tracker.started:
            tracker.run()
        if tracker.started:
            self._log_headline()

    def _record_trainings(self, folder: Path) -> None:
        """Those in ``folder`` that are new, in whichever process they were trained."""
        from hgnetv2_pipeline.project.experiment import trainings
        from hgnetv2_pipeline.project.results import is_newly_made

        assert self._identity is not None
        for each in trainings.trainings_below(folder):
            if is_newly_made(each) or tracker.is_unrecorded(each):
                trainings.record_training(tracker, each, self._identity, self._usual)

    def _record_result(self, name: str, dataset: Any) -> None:
        """A measurement or export as a child run, a page or picture as a file."""
        from hgnetv2_pipeline.datasets import ImageFile, PageFile

        if name == "evaluation.metrics":
            self._record_evaluation(dataset.file)
        elif name == "latency.summary":
            self._record_latency(dataset.file)
        elif name == "export.bundle":
            self._record_export(dataset.path)
        elif isinstance(dataset, PageFile):
            tracker.run().artifact(dataset.file)
        elif isinstance(dataset, ImageFile) and dataset.file.stat().st_size < _LARGEST:
            tracker.run().artifact(dataset.file, "pictures")

    def _record_evaluation(self, file: Path) -> None:
        from hgnetv2_pipeline.project.experiment.registry import write_answers

        metrics = read_json(file)
        run = tracker.child(f"evaluation of {metrics['model']} on {metrics['split']}")
        counts = {*_COUNTS, "n", *(name for name in metrics if name.endswith("_count"))}
        run.metrics({name: value for name, value in metrics.items() if name not in counts})
        run.params({name: metrics[name] for name in ("model", "split", "engine", "precision")})
        run.artifact(file)
        with tempfile.TemporaryDirectory() as folder:
            if answers := write_answers(file.with_suffix(".parquet"), Path(folder)):
                run.artifact(answers)
        self._evaluation_run = run.run_id
        tracker.close(run)

    def _record_latency(self, file: Path) -> None:
        summary = read_json(file)
        assert self._identity is not None
        run = tracker.child(f"latency of {self._identity.model}")
        run.metrics({name: value for name, value in summary.items() if name != "rows"})
        run.artifact(file)
        tracker.close(run)

    def _record_export(self, folder: Path) -> None:
        from hgnetv2_pipeline.project.deployment.logged_model import log_exported_model
        from hgnetv2_pipeline.project.experiment.registry import Export

        manifest = read_json(folder / "manifest.json")
        run = tracker.child(f"export of {manifest['model']}")
        run.metrics({name: manifest[name] for name in ("params", "macs", "parity_error")})
        run.params({name: manifest[name] for name in ("model", "variant", "image_size", "opset")})
        run.artifact(folder / "manifest.json")
        if (card := folder / CARD).is_file():
            run.artifact(card)
            tracker.run().artifact(card)
        with tracker.as_default():
            uri = log_exported_model(folder, run.run_id)
        self._exported = Export(manifest["files"]["model.onnx"], run.run_id, uri)
        tracker.close(run)
        _log.info("MLflow model %s", uri)

    def _log_headline(self) -> None:
        from hgnetv2_pipeline.project.experiment.headline import headline

        found = headline(self._files())
        new = {name: value for name, value in found.items() if self._logged.get(name) != value}
        if new:
            tracker.run().metrics(new)
            self._logged |= new

    def _files(self) -> dict[str, Path]:
        return {name: each.file for name, each in self._seen.items() if each.file.is_file()}

    def _finish(self) -> None:
        """What is said once, at the end: lists, configuration, hashes, note."""
        import yaml

        from hgnetv2_pipeline.project.experiment.headline import note
        from hgnetv2_pipeline.project.experiment.images import inputs_of

        assert self._identity is not None
        run = tracker.run()
        for each in list(self._seen.values()):
            if each.path.is_dir():  # what was trained before a later node failed
                self._record_trainings(each.path)
        run.inputs(inputs_of(self._identity))
        params = {name: value for name, value in self._params.items() if name != "this_run"}
        run.text(yaml.safe_dump(params, sort_keys=False), "configuration.yaml")
        run.text(json.dumps(self._hashes(), indent=2, sort_keys=True), "hashes.json")
        run.text(json.dumps(self._counts(), indent=2, sort_keys=True), "images.json")
        if said := note(self._files()):
            run.tags({"mlflow.note.content": said})

    def _hashes(self) -> dict[str, Any]:
        """Of every result, by SHA-256, what it was made from and what came out."""
        folders = {each.path if each.path.is_dir() else each.path.parent
                   for each in self._seen.values()}  # fmt: skip
        found = {}
        assert self._identity is not None
        for folder in sorted(folders):
            for manifest in sorted(folder.glob("*manifest.json")):
                known = read_json(manifest)
                if "fingerprint" in known:
                    name = manifest.relative_to(self._identity.project).as_posix()
                    found[name] = {key: known[key] for key in ("inputs", "outputs")}
        return found

    def _counts(self) -> dict[str, Any]:
        """Of every step, how many images were listed, used, quarantined and refused."""
        found: dict[str, Any] = {}
        for name, dataset in self._seen.items():
            result = dataset.path / "result.json"
            file = result if result.is_file() else dataset.file
            known = read_json(file) if file.suffix == ".json" else None
            if isinstance(known, Mapping) and _COUNTS[0] in known:
                found[name] = {count: known[count] for count in _COUNTS}
        return found

    def _register(self) -> None:
        """The export as a version of the registered model, judged by this run's evaluation."""
        from hgnetv2_pipeline.project.experiment import registry

        wanted, files = self._params["mlflow"]["register"], self._files()
        if not wanted or "export.bundle" not in files:
            return
        assert self._identity is not None
        name = wanted if isinstance(wanted, str) else _registered_name(self._identity)
        manifest = read_json(files["export.bundle"])
        export = self._exported or registry.Export(manifest["files"]["model.onnx"])
        metrics = files.get("evaluation.metrics")
        evaluation = None
        if metrics and read_json(metrics)["model"] == manifest["model"]:
            evaluation = registry.read_evaluation(metrics, self._evaluation_run)
        with tracker.as_default():
            said = registry.register(tracker.run().client, name, export, evaluation)
        if said:
            _log.info("MLflow registry: %s", said)

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: BaseException) -> None:
        self._end("KILLED" if isinstance(error, Interrupted) else "FAILED")

    def _end(self, status: str) -> None:
        with tracker.guarded():
            if tracker.enabled and tracker.started:
                self._finish()
                if status == "FINISHED":
                    self._register()
        with tracker.guarded():
            tracker.end(status)


def _name_of(identity: Identity, pipelines: str, typed: Mapping[str, Any] | None) -> str:
    """Who the run is, which pipelines where not the whole chain, and what was typed besides."""
    said = [f"{k}={v}" for k, v in flatten(typed or {}).items() if k not in _SAID_OTHERWISE]
    parts = [identity.dataset, identity.variant, identity.run]
    parts += [] if pipelines == "__default__" else [pipelines]
    return " ".join([*parts, *(each for each in said if not each.startswith("mlflow"))])[:200]


def _registered_name(identity: Identity) -> str:
    return f"{identity.dataset}-{identity.variant}"
