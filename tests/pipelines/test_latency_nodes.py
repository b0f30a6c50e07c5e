"""The latency pipeline's node: what is measured, kept, reused, and told when it cannot run."""

from __future__ import annotations

import shutil
from importlib.metadata import packages_distributions
from typing import Any

import pytest
import torch

from hgnetv2_pipeline import processor
from hgnetv2_pipeline.datasets import ReusedRecord
from hgnetv2_pipeline.deployment.choices import NEEDS
from hgnetv2_pipeline.deployment.engines.ladder import model_file
from hgnetv2_pipeline.deployment.export.precisions import convert_onnx
from hgnetv2_pipeline.deployment.timing import machine
from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.pipelines.latency.nodes import measure
from hgnetv2_pipeline.project.identity import Identity
from hgnetv2_pipeline.project.params import LatencyParams
from hgnetv2_pipeline.project.results import is_newly_made
from tiny_project import run_of

MODEL = "train/b0/seed=0"


def parameters(**given: Any) -> LatencyParams:
    values: dict[str, Any] = {
        "engines": ["ort"], "precisions": ["fp32"], "batch_sizes": [1], "warmup": 1, "runs": 3,
        "threads": 1, "beside": [], "turns": 0, "cold_starts": 0,
    }  # fmt: skip
    return LatencyParams(**(values | given))


def run(who: Identity, params: LatencyParams) -> tuple[dict[str, Any], Any]:
    _, summary, history = measure(run_of(who), params, who.folder("export"))
    return read_json(summary), history


def test_models_engines_and_batch_sizes_are_swept_and_kept(exported: Identity) -> None:
    params = parameters(
        engines=["ort", "tensorrt"], batch_sizes=[1, 2], beside=["scratch:b0"], turns=1
    )
    summary, history = run(exported, params)
    rows = [row for row in summary["rows"] if "ratios" not in row]
    assert [(row["model"], row["batch_size"], row["n_timed"]) for row in rows] == [
        (MODEL, 1, 3), ("scratch:b0", 1, 3), (MODEL, 2, 3), ("scratch:b0", 2, 3),
    ]  # fmt: skip
    assert {row["image_size"] for row in rows} == {32}
    turns = [row for row in summary["rows"] if "ratios" in row]
    assert [set(both["ratios"]) for both in turns] == [{MODEL, "scratch:b0"}] * 2
    assert summary["ort-fp32-bs2.p50_ms"] == rows[2]["p50_ms"]
    # What cannot run here is named, with the reason, and costs the others nothing.
    assert {(gap["engine"], gap["model"]) for gap in summary["not_run"]} == {
        ("tensorrt", MODEL), ("tensorrt", "scratch:b0"),
    }  # fmt: skip
    assert "tensorrt is not installed" in summary["not_run"][0]["reason"]
    folder = exported.folder("latency")
    assert read_json(folder / "ort-fp32-bs1.json") == rows[0]
    assert read_json(folder.parents[2] / "scratch/b0/ort-fp32-bs2.json") == rows[3]
    assert len(history["rows"]) == 6
    assert is_newly_made(folder / "latency.json")
    again, nothing = run(exported, params)
    assert again == summary
    assert isinstance(nothing, ReusedRecord)


def test_a_network_of_timms_is_timed_at_the_size_of_the_model(exported: Identity) -> None:
    beside = "timm:resnet10t"  # 176 pixels by itself
    summary, _ = run(exported, parameters(beside=[beside]))
    assert [(row["model"], row["image_size"]) for row in summary["rows"]] == [
        (MODEL, 32), (beside, 32),
    ]  # fmt: skip


def test_pytorch_runs_the_weights_in_the_precision_asked_for(exported: Identity) -> None:
    params = parameters(engines=["torch"], precisions=["bf16", "tf32"], beside=["scratch:b0"])
    who = exported.model_copy(update={"model": "scratch:b0"})
    (who.folder("latency").parent).mkdir(parents=True, exist_ok=True)
    alone = params.model_copy(update={"beside": []})
    _, path, _ = measure(run_of(who), alone, exported.folder("export"))
    summary = read_json(path)
    (row,) = summary["rows"]
    assert (row["model"], row["engine"], row["precision"]) == ("scratch:b0", "torch", "bf16")
    (gap,) = summary["not_run"]
    assert "tf32 needs an NVIDIA GPU" in gap["reason"]


def test_another_device_for_pytorch_is_another_measurement(exported: Identity) -> None:
    params = parameters(engines=["torch"])
    who = exported.model_copy(update={"model": "scratch:b1"})
    _, _, history = measure(run_of(who), params, exported.folder("export"))
    assert len(history["rows"]) == 1
    kept = who.folder("latency") / "torch-fp32-bs1.manifest.json"
    assert read_json(kept)["params"]["device"] == "cpu"
    if not torch.cuda.is_available():  # auto is what it finds
        _, _, nothing = measure(run_of(who, device="auto"), params, exported.folder("export"))
        assert isinstance(nothing, ReusedRecord)


def test_another_machine_or_version_is_another_measurement(
    exported: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parameters()
    run(exported, params)
    _, nothing = run(exported, params)
    assert isinstance(nothing, ReusedRecord)
    here = machine.what_runs_here()
    assert here["onnxruntime"] and here["cpu"] == processor.describe()
    brought_by = packages_distributions()
    for module in {name for names in NEEDS.values() for name in names} - {"cuda"}:
        distributions = {name.replace("_", "-") for name in brought_by.get(module, [])}
        assert not distributions or distributions & {*here}, module
    monkeypatch.setattr(machine, "what_runs_here", lambda: here | {"onnxruntime": "9.9"})
    _, history = run(exported, params)
    assert len(history["rows"]) == 1


def test_nothing_to_measure_is_an_error_with_its_reason(exported: Identity) -> None:
    with pytest.raises(ParameterError, match=r"none of tensorrt can run here.*not installed"):
        run(exported, parameters(engines=["tensorrt"]))


def test_a_cold_start_is_timed_on_the_command_itself(exported: Identity) -> None:
    summary, _ = run(exported, parameters(cold_starts=1))
    found = summary["rows"][-1]["cold_start"]
    assert found["n_starts"] == 1
    assert 0 < found["min_s"] <= found["median_s"] <= found["max_s"]
    assert summary["cold_start_s"] == found["median_s"]


def test_a_measurement_depends_on_the_file_it_times(exported: Identity) -> None:
    folder = exported.folder("export")
    convert_onnx(folder / "model.onnx", folder / "model.fp16.onnx", "fp16")
    shutil.copy(folder / "model.fp16.onnx", folder / "model.bf16.onnx")
    try:
        run(exported, parameters(precisions=["fp32", "fp16"]))
        for precision, file in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx")):
            kept = read_json(exported.folder("latency") / f"ort-{precision}-bs1.manifest.json")
            assert kept["inputs"] == {f"model {MODEL}": sha256_file(folder / file)}
        # OpenVINO computes in bf16 with the fp32 file, TensorRT reads one of its own.
        read = [
            model_file(folder / "model.onnx", name, "bf16") for name in ("openvino", "tensorrt")
        ]
        assert [path.name for path in read] == ["model.onnx", "model.bf16.onnx"]
    finally:
        for name in ("fp16", "bf16"):
            (folder / f"model.{name}.onnx").unlink(missing_ok=True)
