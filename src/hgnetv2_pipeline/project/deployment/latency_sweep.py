"""Models x engines x precisions x batch sizes, each measured once and kept in a file of its own."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgnetv2_pipeline.devices import found_device
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.ownership import scratch
from hgnetv2_pipeline.project.identity import Identity, model_id
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.results import ResultSpec
from hgnetv2_pipeline.project.run import Run

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

_log = logging.getLogger(__name__)


@dataclass
class Sweep:
    """What ``latency`` measures: the model of ``run`` and those beside it, at ``size`` pixels.

    ``rows`` are all measurements, ``new`` those of this run, ``not_run`` what an engine refused,
    with its reason.
    """

    run: Run
    params: LatencyParams
    size: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    new: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, str]] = field(default_factory=list)
    _exports: dict[str, Path] = field(default_factory=dict)

    def measure(self) -> None:
        """Measure what is not there yet; one line per model, engine and precision that cannot run.

        Raises:
            ParameterError: none of the engines can run here.
        """
        params = self.params
        # One thread is what a server gives a request; OpenMP and ONNX Runtime read this at start.
        os.environ["OMP_NUM_THREADS"] = str(params.threads)
        models = [self.identity.model, *params.beside]
        for engine, precision in itertools.product(params.engines, params.precisions):
            able = models
            for batch_size in params.batch_sizes:
                able = [m for m in able if self._protocol(m, engine, precision, batch_size)]
                if params.turns and len(able) > 1:
                    self._turns(able, engine, precision, batch_size)
        if params.cold_starts:
            self._cold_start()
        if not self.rows:
            raise ParameterError(
                f"latency: none of {', '.join(params.engines)} can run here: "
                f"{self.not_run[0]['reason']} (latency.engines)"
            )

    def summary(self) -> dict[str, Any]:
        """All measurements, with the key figures of the run's own model."""
        figures = key_figures(self.identity.model, self.rows)
        return {**figures, "rows": self.rows, "not_run": self.not_run}

    @property
    def identity(self) -> Identity:
        return self.run.identity

    @property
    def device(self) -> str | None:
        """The device that PyTorch is to use; None: the one it finds."""
        return None if self.run.device == "auto" else self.run.device

    def folder(self, model: str, name: str = "latency") -> Path:
        """The folder ``name`` of a model, which need not be ``identity.model``."""
        base = self.identity.folder(name).parents[self.identity.model_id.count("/")]
        return base / model_id(model)

    def _load(self, model: str, engine: str, precision: str, batch_size: int) -> Any:
        from hgnetv2_pipeline.deployment.engines.ladder import load_engine
        from hgnetv2_pipeline.project.models import model_source

        on_weights = engine.startswith("torch")
        loaded = load_engine(
            model_source(self.identity, model) if on_weights else self._exported(model),
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            threads=self.params.threads,
            device=self.device if on_weights else None,
            root=self.identity.project,
            preprocess=self._preprocess(model) if on_weights else None,
        )
        loaded.require_batch(batch_size)
        return loaded

    def _preprocess(self, model: str) -> Preprocess | None:
        """That of timm's and fresh networks, which are timed at the size of the run's model."""
        from hgnetv2_pipeline.data.preprocess import Preprocess
        from hgnetv2_pipeline.deployment.timing.benchmark import has_no_preprocess

        return Preprocess.at_size(self.size) if has_no_preprocess(model) else None

    def _device(self) -> str:
        """Where PyTorch computes: a CPU's latency says nothing of a GPU's."""
        return self.device or found_device()

    def _exported(self, model: str) -> Path:
        """A model's ONNX file; random weights are as fast as trained ones, fresh LABs are not."""
        if model not in self._exports:
            self._exports[model] = self._export(model)
        return self._exports[model]

    def _export(self, model: str) -> Path:
        path = self.folder(model, "export") / "model.onnx"
        # An export that was asked for takes this place; it is the same network.
        exported = (path.parent / "export.manifest.json").is_file() and path.is_file()
        if model == self.identity.model or exported:
            return path
        from hgnetv2_pipeline.project.models import weights_input

        resized = self._preprocess(model)

        def make(aside: Path) -> None:
            from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx
            from hgnetv2_pipeline.deployment.timing.benchmark import is_fresh, unsettle
            from hgnetv2_pipeline.project.models import load_model

            loaded = load_model(self.identity, model, classes=None)
            if is_fresh(model):
                unsettle(loaded.network)
            preprocess = resized or loaded.preprocess
            export_onnx(
                loaded.network.eval(), aside / "model.onnx", preprocess.crop,
                preprocess=preprocess, metadata={"variant": loaded.info["variant"] or model},
            )  # fmt: skip

        self.run.produce(
            ResultSpec(
                folder=path.parent,
                pipeline="latency",
                inputs={"weights": weights_input(self.identity, model)},
                params={
                    "model": model,
                    "image_size": self.size,
                    "preprocess": resized.fingerprint if resized else None,
                },
                outputs=["model.onnx"],
            ),
            make,
        )
        return path

    def _input(self, model: str, engine: str, precision: str) -> Path | str:
        """What a measurement depends on: the weights, or the exported file that is timed."""
        from hgnetv2_pipeline.deployment.engines.ladder import model_file
        from hgnetv2_pipeline.project.models import weights_input

        if engine.startswith("torch"):
            return weights_input(self.identity, model)
        return model_file(self._exported(model), engine, precision)

    def _protocol(self, model: str, engine: str, precision: str, batch_size: int) -> bool:
        """One engine by PaddleClas's protocol; false, and said, where it cannot run here."""
        from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable

        params = self.params

        def make() -> dict[str, Any]:
            from hgnetv2_pipeline.deployment.timing.latency import measure_latency

            with self._load(model, engine, precision, batch_size) as loaded:
                found = measure_latency(
                    loaded, batch_size=batch_size, warmup=params.warmup, runs=params.runs
                )
            return {**found, "model": model}

        counts = {"warmup": params.warmup, "runs": params.runs}
        name = f"{engine}-{precision}-bs{batch_size}"
        try:
            self._keep([model], engine, name, {"precision": precision, **counts}, make, batch_size)
        except EngineUnavailable as error:
            _log.warning("latency: %s not measured: %s", model, error)
            refused = {"model": model, "engine": engine, "precision": precision}
            self.not_run.append({**refused, "reason": str(error)})
            return False
        return True

    def _turns(self, models: list[str], engine: str, precision: str, batch_size: int) -> None:
        """All models in turns, so that a change of the machine's mood meets each of them."""

        def make() -> dict[str, Any]:
            from hgnetv2_pipeline.deployment.timing.latency import compare_latency

            engines = {m: self._load(m, engine, precision, batch_size) for m in models}
            found = compare_latency(engines, batch_size=batch_size, rounds=self.params.turns)
            for row in found["rows"]:
                row["model"] = row["label"]
            return found

        name = f"turns-{engine}-{precision}-bs{batch_size}"
        more = {"precision": precision, "turns": self.params.turns}
        self._keep(models, engine, name, more, make, batch_size)

    def _cold_start(self) -> None:
        """``hgnetv2 predict`` on the exported model, from nothing."""

        def make() -> dict[str, Any]:
            from hgnetv2_pipeline.deployment.timing.cold_start import (
                predict_command,
                time_starts,
                write_photograph,
            )

            model = self._exported(self.identity.model)
            with scratch("latency") as place:
                image = write_photograph(place / "one.jpg")
                found = time_starts(predict_command(model, image), runs=self.params.cold_starts)
            return {"model": self.identity.model, "cold_start": found}

        more = {"cold_starts": self.params.cold_starts}
        self._keep([self.identity.model], "auto", "cold-start", more, make)

    def _keep(
        self,
        models: list[str],
        engine: str,
        name: str,
        params: dict[str, Any],
        make: Callable[[], dict[str, Any]],
        batch_size: int | None = None,
    ) -> None:
        """The measurement ``name`` in the first model's folder, made if it is not there."""
        from hgnetv2_pipeline.deployment.timing.machine import what_runs_here

        folder = self.folder(models[0])
        result = self.run.produce(
            ResultSpec(
                folder=folder,
                name=name,
                pipeline="latency",
                inputs={
                    f"model {model}": self._input(model, engine, params.get("precision", "fp32"))
                    for model in models
                },
                params={
                    **params,
                    "models": models,
                    "engine": engine,
                    "batch_size": batch_size,
                    "threads": self.params.threads,
                    "image_size": self.size,
                    "machine": what_runs_here(),
                    **({"device": self._device()} if engine.startswith("torch") else {}),
                },
                outputs=[f"{name}.json"],
            ),
            lambda aside: write_json(aside / f"{name}.json", make()),
        )
        found = read_json(folder / f"{name}.json")
        self.rows.append(found)
        if not result.reused:
            self.new.append(found)


def key_figures(model: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The numbers that a run is followed by: those of ``model`` alone, flat.

    >>> key_figures("m", [{"model": "m", "engine": "ort", "precision": "fp32", "batch_size": 1,
    ...                    "p50_ms": 2.0, "mean_ms": 3.0}])
    {'ort-fp32-bs1.p50_ms': 2.0, 'ort-fp32-bs1.mean_ms': 3.0}
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.get("model") != model:
            continue
        if "cold_start" in row:
            found["cold_start_s"] = row["cold_start"]["median_s"]
            continue
        name = f"{row['engine']}-{row['precision']}-bs{row['batch_size']}"
        kinds = ("p50_ms", "mean_ms", "p90_ms", "p99_ms", "cpu_ms", "gpu_p50_ms")
        found |= {f"{name}.{kind}": row[kind] for kind in kinds if kind in row}
    return found
