"""How fast the exported model answers, by the seed page's protocol, beside other models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hgnetv2_pipeline.datasets import Unchanged
from hgnetv2_pipeline.durable import read_json, write_json
from hgnetv2_pipeline.pipelines.identity import Identity, model_id
from hgnetv2_pipeline.pipelines.params import LatencyParams
from hgnetv2_pipeline.pipelines.reuse import Reuse


def measure(
    identity: Identity, params: LatencyParams, redo: list[str], bundle: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Time ``model`` and those ``beside`` it; one JSON an engine, precision and batch size."""
    # One thread is what a server gives a request; OpenMP and ONNX Runtime read this at start.
    os.environ["OMP_NUM_THREADS"] = str(params.threads)
    reuse = Reuse(identity.project, redo)
    exported = identity.folder("export") / "model.onnx"
    size = read_json(exported.parent / "preprocess.json")["crop"]
    new: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for model in (identity.model, *params.beside):
        base = identity.folder("latency").parents[identity.model_id.count("/")]
        folder = base / model_id(model)
        path = exported if model == identity.model else _export_other(reuse, identity, model, size)
        for engine in params.engines:
            for batch_size in params.batch_sizes:
                name = f"{engine}-fp32-bs{batch_size}"
                result = reuse.produce(
                    folder,
                    name=name,
                    pipeline="latency",
                    inputs={"model": path},
                    params={
                        "model": model,
                        "engine": engine,
                        "batch_size": batch_size,
                        "warmup": params.warmup,
                        "runs": params.runs,
                        "threads": params.threads,
                        "image_size": size,
                    },
                    outputs=[f"{name}.json"],
                    make=_measurement(path, model, engine, batch_size, params, f"{name}.json"),
                )
                rows.append(read_json(folder / f"{name}.json"))
                if not result.reused:
                    new.append(rows[-1])
    summary = identity.folder("latency") / "latency.json"
    if new or not summary.is_file():
        write_json(summary, {"rows": rows})
    return summary.parent, summary, {"rows": new} if new else Unchanged()


def _measurement(
    path: Path, model: str, engine: str, batch_size: int, params: LatencyParams, name: str
) -> Any:
    def make(aside: Path) -> None:
        from hgnetv2_pipeline.deployment import load_engine, measure_latency

        found = measure_latency(
            load_engine(path, engine=engine, threads=params.threads),
            batch_size=batch_size,
            warmup=params.warmup,
            runs=params.runs,
        )
        write_json(aside / name, {**found, "model": model})

    return make


def _export_other(reuse: Reuse, identity: Identity, model: str, size: int) -> Path:
    """Another model as ONNX, by the same door; random weights are as fast as trained ones."""
    folder = identity.folder("export").parents[identity.model_id.count("/")] / model_id(model)

    def make(aside: Path) -> None:
        from hgnetv2_pipeline.deployment import export_onnx
        from hgnetv2_pipeline.pipelines.measure import load_model

        loaded = load_model(identity, model, classes=None, image_size=size)
        export_onnx(
            loaded.network.eval(), aside / "model.onnx", loaded.preprocess.crop,
            preprocess=loaded.preprocess, metadata={"variant": model},
        )  # fmt: skip

    reuse.produce(
        folder,
        pipeline="latency",
        inputs={},
        params={"model": model, "image_size": size},
        outputs=["model.onnx"],
        make=make,
    )
    return folder / "model.onnx"
