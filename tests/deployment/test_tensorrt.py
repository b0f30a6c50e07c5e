"""The calls to TensorRT: their names against the 11.4 bindings, their order against a stand-in."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_tensorrt
import numpy as np
import onnx
import pytest
from fake_tensorrt import CLASSES, SIDE, HostDevice

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines import with_tensorrt
from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export.precisions import convert_onnx
from hgnetv2_pipeline.deployment.kit import cuda_memory, libraries, plan_runner, plans
from hgnetv2_pipeline.deployment.kit.libraries import TENSORRT, TENSORRT_RTX, PlanError
from hgnetv2_pipeline.deployment.kit.plan_runner import PlanRunner
from hgnetv2_pipeline.deployment.kit.plans import BatchProfile, PlanSpec, provide_plan
from hgnetv2_pipeline.deployment.kit.timing import time_plan
from hgnetv2_pipeline.deployment.timing import latency
from hgnetv2_pipeline.deployment.timing.latency import measure_latency
from hgnetv2_pipeline.errors import WeightsError

NAMES = json.loads((Path(__file__).with_name("tensorrt_names.json")).read_text())["names"]
# The variables of the modules that call TensorRT and what they hold.
HOLDS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "sizes": "IOptimizationProfile", "given": "ITensor",
    "engine": "ICudaEngine", "_context": "IExecutionContext",
    "_runtime": "Runtime",
}  # fmt: skip
# What TensorRT for RTX alone has, and test_tensorrt_rtx.py holds against it.
RTX_ONLY = {
    "ComputeCapability": (), "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE", "DISABLED"),
    "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
    "EngineInvalidityDiagnostics": ("__members__",), "EngineValidity": ("INVALID",),
    "config": ("num_compute_capabilities", "set_compute_capability", "set_runtime_cache",
               "create_runtime_cache", "cuda_graph_strategy",
               "dynamic_shapes_kernel_specialization_strategy"),
}  # fmt: skip
IMAGES = np.random.default_rng(0).random((9, 3, SIDE, SIDE), np.float32)


def attributes(path: Path) -> set[tuple[str, str]]:
    """(owner, name) of every ``owner.name`` and ``self.owner.name``; ``trt.A.B`` as (trt.A, B)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Name):
            found.add((owner.id, node.attr))
        elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            root = "" if owner.value.id == "self" else f"{owner.value.id}."
            found.add((f"{root}{owner.attr}", node.attr))
    return found


def test_every_name_of_tensorrt_exists_in_the_bindings() -> None:
    used: set[tuple[str, str]] = set()
    for module in (libraries, plan_runner, plans, with_tensorrt):
        used |= attributes(Path(module.__file__))
    top = {name for owner, name in used if owner == "trt"}
    assert {"Builder", "OnnxParser", "Runtime", "ILogger", "BuilderFlag"} <= top
    assert top - {"__version__"} - RTX_ONLY.keys() <= set(NAMES)
    checked = 0
    for owner, name in used:
        if name in RTX_ONLY.get(owner.removeprefix("trt."), ()) or name == "__init__":
            continue
        kind = owner.removeprefix("trt.") if owner.startswith("trt.") else HOLDS.get(owner)
        if kind is not None:
            assert name in NAMES[kind].split(), f"{kind} has no {name} ({owner}.{name})"
            checked += 1
    assert checked > 20
    assert {owner for owner, _ in used} >= set(HOLDS), "HOLDS names variables that are gone"


def test_every_name_of_cuda_exists_in_its_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = Path(cuda_memory.__file__).read_text(encoding="utf-8")
    called = {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_call"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(called) > 15
    assert [name for name in called if not hasattr(runtime, name)] == []
    for owner, name in attributes(Path(cuda_memory.__file__)):
        if owner == "_cuda" and not name.startswith("__"):
            assert hasattr(runtime, name), name
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_the_exported_operators_are_in_tensorrts_parser(b0_onnx: Path) -> None:
    """As its own table lists them for float32, fp16, bf16, and Q/DQ for int8."""
    table = {
        "Add", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Gemm",
        "GlobalAveragePool", "Identity", "MaxPool", "Mul", "Pad", "QuantizeLinear", "ReduceMean",
        "Relu", "Sigmoid", "Softmax",
    }  # fmt: skip
    builder = Path(
        importlib.import_module("hgnetv2_pipeline.deployment.export.onnx_graph").__file__
    )
    written = {
        node.args[0].value
        for node in ast.walk(ast.parse(builder.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("_node", "make_node")
        and isinstance(node.args[0], ast.Constant)
    }
    assert written >= {node.op_type for node in onnx.load(b0_onnx).graph.node}
    assert written <= table


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ONNX file as far as its card goes."""
    card = ModelCard(
        preprocess=Preprocess(SIDE, SIDE), classes=CLASSES, more={"tensorrt_profile": "2,3,4"}
    )
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "none", [], []))
    onnx.helper.set_model_props(proto, card.to_props())
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def use(monkeypatch: pytest.MonkeyPatch, calls: list[str], **arguments: object) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module(calls, **arguments))


SIZES = BatchProfile(2, 3, 4)


def provide(path: Path, precision: str = "fp32", profile: BatchProfile = SIZES) -> Path:
    spec = PlanSpec(TENSORRT, precision, profile, "GPU (sm_90)")
    return provide_plan(path, path.parent / "plans", spec)


def test_a_plan_is_built_strongly_typed_without_tf32_and_noted(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    use(monkeypatch, calls)
    plan = provide(model)
    assert calls == [
        "network 2", "parse", "limit workspace", "clear TF32", "add profile", "timing cache of 0",
        "build",
    ]  # fmt: skip
    note = json.loads(plan.with_suffix(".json").read_text())
    assert (note["precision"], note["version"], note["gpu"]) == ("fp32", "11.4", "GPU (sm_90)")
    assert (note["library"], note["warnings"]) == ("tensorrt", [])
    assert note["profile"] == {"least": 2, "best": 3, "most": 4}
    assert json.loads(plan.read_bytes())[2] == [4, 3, SIDE, SIDE]
    calls.clear()
    assert provide(model) == plan
    assert calls == []  # it is there
    other = provide(model, "tf32")
    assert other != plan
    assert "clear TF32" not in calls
    assert "timing cache of 7" in calls  # what the first build left
    plan.write_bytes(b"flipped")
    calls.clear()
    assert provide(model) == plan
    assert "build" in calls


# Row O04 of docs/reliability.md.
@pytest.mark.parametrize("changed", ["onnx", "tensorrt", "gpu", "profile", "precision"])
def test_the_key_of_a_plan_covers_all_it_depends_on(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"gpu": "B", "profile": BatchProfile(1, 2, 3), "precision": "fp16"}
    use(monkeypatch, [])
    spec = PlanSpec(TENSORRT, "fp32", BatchProfile(), "A")
    first = spec.facts("ab")
    if changed == "tensorrt":
        use(monkeypatch, [], version="10.9")
    elif changed in other:
        spec = dataclasses.replace(spec, **{changed: other[changed]})
    assert spec.facts("cd" if changed == "onnx" else "ab") != first


def test_what_cannot_be_built_says_why_in_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, [], takes_cache=False)  # a cache of another GPU gives way to an empty one
    (model.parent / "plans").mkdir()
    (model.parent / "plans" / plans.TIMING_CACHE).write_bytes(b"of another GPU")
    assert provide(model).is_file()
    with pytest.raises(PlanError, match="does not take the profile"):
        provide(model, profile=BatchProfile(1, 1, 65))
    with pytest.raises(PlanError, match="1 <= least <= best <= most"):
        BatchProfile(2, 1, 3)
    with pytest.raises(PlanError, match="precision 'fp8'"):
        provide(model, "fp8")
    use(monkeypatch, [], builds=False)
    with pytest.raises(PlanError, match="could not build"):
        provide(model, "fp16")
    model.write_bytes(b"broken")
    with pytest.raises(PlanError, match="cannot read the ONNX model: no such operator$"):
        provide(model)
    names = {path.suffix for path in (model.parent / "plans").iterdir()}
    assert names == {".plan", ".json", ".cache"}


def open_engine(
    model: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> with_tensorrt.TensorRTEngine:
    use(monkeypatch, calls)
    monkeypatch.setattr(with_tensorrt, "CudaDevice", lambda: HostDevice(calls))
    return load_engine(model)


def test_auto_builds_loads_and_runs_in_the_documented_order(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    engine = open_engine(model, monkeypatch, calls)
    assert (engine.name, engine.device, engine.classes) == (
        "tensorrt", "stand-in GPU (sm_00)", [*CLASSES],
    )  # fmt: skip
    place = calls.index("deserialize")
    assert calls[place:] == [
        "deserialize", f"reserve images {4 * 3 * SIDE * SIDE}", "address images",
        "reserve logits 12", "address logits",
    ]  # fmt: skip
    calls.clear()
    for _ in range(3):
        assert engine.logits(IMAGES[:3]) == pytest.approx(IMAGES[:3].mean((2, 3)), abs=1e-6)
    assert calls == [
        "upload 3", "shape 3", "infer", "execute on 7", "download",
        "upload 3", "synchronize", "capture", "replay", "execute on 7", "download",
        "upload 3", "replay", "execute on 7", "download",
    ]  # fmt: skip


def test_the_benchmark_gets_the_gpus_own_time_with_and_without_copies(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    engine = open_engine(model, monkeypatch, calls)
    monkeypatch.setattr(latency, "peak_gflops", lambda *_, **__: None)
    monkeypatch.setattr(latency, "peak_gb_s", lambda _: None)
    calls.clear()
    found = measure_latency(engine, batch_size=3, warmup=3, runs=4)
    assert calls.count("upload 3") == 1 + 7  # once for the images that stay
    assert calls[-5:] == ["mark", "replay", "execute on 7", "mark", "synchronize"]
    # The stand-in's clock counts its calls.
    assert found["without_copies"]["gpu_p50_ms"] == 3
    assert found["gpu_p50_ms"] == 5
    assert found["without_copies"]["p50_ms"] > 0
    assert engine.resident(IMAGES[:5]) is None  # more than the plan takes at once


def test_another_batch_size_is_recorded_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    engine = open_engine(model, monkeypatch, calls)
    for count in (3, 3, 2, 2, 3, 3):
        engine.logits(IMAGES[:count])
    assert calls.count("capture") == 3
    assert [call for call in calls if call.startswith("shape")] == ["shape 3", "shape 2", "shape 3"]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_batches_outside_the_profile_are_cut_up_or_filled(
    count: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(model, monkeypatch, [])
    for _ in range(2):
        assert engine.logits(IMAGES[:count]) == pytest.approx(IMAGES[:count].mean((2, 3)), abs=1e-6)


def test_a_plan_beside_text_files_is_loaded_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    preprocess = tmp_path / "preprocess.json"
    preprocess.write_text(json.dumps(Preprocess(SIDE, SIDE).to_dict()))
    plan = tmp_path / "model.engine"
    plan.write_text(json.dumps([[size, 3, SIDE, SIDE] for size in (1, 1, 4)]))
    calls: list[str] = []
    assert open_engine(plan, monkeypatch, calls).logits(IMAGES[:1]).shape == (1, 3)
    assert "build" not in calls
    preprocess.write_text(json.dumps(Preprocess(32, 32).to_dict()))
    with pytest.raises(WeightsError, match="preprocessing gives 32x32"):
        load_engine(plan)
    use(monkeypatch, [], loads=False)
    with pytest.raises(EngineUnavailable, match="cannot load this plan.*build it again here"):
        load_engine(plan, "tensorrt")
    use(monkeypatch, [], dtype="float16")
    with pytest.raises(EngineUnavailable, match="not float32"):
        load_engine(plan, "tensorrt")


CARD = "NVIDIA GeForce RTX 4090 (sm_89)"


def open_rtx(
    path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], **arguments: object
) -> with_tensorrt.TensorRTEngine:
    fake = fake_tensorrt.module(calls, version="1.7", **arguments)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", fake)
    monkeypatch.setattr(with_tensorrt, "CudaDevice", lambda: HostDevice(calls, CARD))
    return load_engine(path, "tensorrt-rtx")


def test_rtx_takes_no_timing_cache_and_keeps_what_it_compiles(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    engine = open_rtx(model, monkeypatch, calls)
    assert (engine.name, engine.place, engine.versions["tensorrt-rtx"]) == (
        "tensorrt-rtx", "cuda", "1.7",
    )  # fmt: skip
    assert calls[: calls.index("deserialize")] == [
        "network 2", "parse", "limit workspace", "clear TF32", "add profile",
        "capability SM89 of 1", "build",
    ]  # fmt: skip
    for _ in range(3):
        assert engine.logits(IMAGES[:3]) == pytest.approx(IMAGES[:3].mean((2, 3)), abs=1e-6)
    assert "capture" not in calls  # it records its graphs itself
    (plan,) = (model.parent / "plans").glob("*.plan")
    cache = plan.with_suffix(".NVIDIA-GeForce-RTX-4090-sm-89.cache")
    assert cache.read_bytes() == b"compiled"
    engine.logits(IMAGES[:2])
    calls.clear()
    open_rtx(model, monkeypatch, calls).logits(IMAGES[:1])
    assert "build" not in calls
    assert "runtime cache of 8" in calls
    assert cache.read_bytes() == b"compiled" * 2


def test_what_was_compiled_is_written_once_for_each_batch_size(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_rtx(model, monkeypatch, [])
    written: list[Path] = []
    monkeypatch.setattr(plan_runner, "write_whole", lambda path, data: written.append(path))
    for count in (2, 3, 2, 3, 2):
        engine.logits(IMAGES[:count])
    assert len(written) == 2


def test_without_a_context_or_a_runtime_the_reason_is_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    with pytest.raises(EngineUnavailable, match="cannot run this plan now.*GPU memory"):
        open_rtx(model, monkeypatch, calls, context=False)
    assert calls[-1] == "device closed"
    fake = fake_tensorrt.module([], version="1.7")

    def runtime(logger: object) -> None:
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(fake, "Runtime", runtime)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", fake)
    with pytest.raises(EngineUnavailable, match="TensorRT for RTX cannot start"):
        load_engine(model, "tensorrt-rtx")


def test_ctrl_c_during_a_build_is_raised_when_the_library_is_done(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def interrupted(builder: object, network: object, config: object) -> bytes:
        signal.raise_signal(signal.SIGINT)
        calls.append("built all the same")
        return b"plan"

    use(monkeypatch, calls)
    monkeypatch.setattr(sys.modules["tensorrt"].Builder, "build_serialized_network", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        provide(model)
    assert calls[-1] == "built all the same"
    assert signal.getsignal(signal.SIGINT) is before
    assert not [*model.parent.rglob("*.plan")]


def test_a_plan_that_is_not_what_was_asked_or_noted_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_rtx(model, monkeypatch, [])
    (plan,) = (model.parent / "plans").glob("*.plan")
    (plan.parent / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    (plan.parent / "preprocess.json").write_text(json.dumps(Preprocess(SIDE, SIDE).to_dict()))
    assert load_engine(plan, "tensorrt-rtx").precision == "fp32"
    with pytest.raises(EngineUnavailable, match="is fp32, not int8"):
        load_engine(plan, "tensorrt-rtx", precision="int8")
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(EngineUnavailable, match="not the plan that its note speaks of"):
        load_engine(plan, "tensorrt-rtx")


def test_a_runtime_cache_that_cannot_be_kept_stops_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_rtx(model, monkeypatch, [])

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plan_runner, "write_whole", full)
    for count in (1, 2, 3):
        assert engine.logits(IMAGES[:count]).shape == (count, 3)
    assert caplog.text.count("the next start compiles again") == 1


# Rows O04 and O05 of docs/reliability.md.
def test_a_plan_built_ahead_of_time_is_taken_if_it_is_of_this_file_and_runs_here(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    open_rtx(model, monkeypatch, calls)
    (built,) = (model.parent / "plans").glob("*.plan")
    ahead = with_tensorrt.plan_beside(model, TENSORRT_RTX)
    for suffix in (".plan", ".json"):
        built.with_suffix(suffix).rename(ahead.with_suffix(suffix))
    calls.clear()
    assert open_rtx(model, monkeypatch, calls).model == str(ahead)
    assert "build" not in calls
    # The library says that it does not run here: another is built; by its own name it is refused.
    words = r"another version of it built the plan, the plan is not for this GPU"
    with pytest.raises(EngineUnavailable, match=rf"1.7 cannot run this plan \({words}\); build it"):
        open_rtx(model, monkeypatch, calls, invalid=3)
    assert f"{ahead}: TensorRT for RTX 1.7 cannot run this plan ({words})" in caplog.text
    # Of another file.
    model.write_bytes(model.read_bytes() + b"\x12\x00")
    caplog.clear()
    assert "plans" in open_rtx(model, monkeypatch, calls).model
    assert f"{ahead} is not of {model} as it is, in fp32; another plan is built" in caplog.text


# Row O05 of docs/reliability.md.
def test_the_plan_of_one_library_is_not_run_by_the_other(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    open_rtx(model, monkeypatch, calls)
    (plan,) = (model.parent / "plans").glob("*.plan")
    (plan.parent / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    (plan.parent / "preprocess.json").write_text(json.dumps(Preprocess(SIDE, SIDE).to_dict()))
    use(monkeypatch, calls)
    with pytest.raises(EngineUnavailable, match=r"tensorrt: .*: engine tensorrt-rtx built it"):
        load_engine(plan, "tensorrt")
    assert load_engine(plan).name == "tensorrt-rtx"
    plan.with_suffix(".json").write_text("[no note")
    assert load_engine(plan, "tensorrt").precision == "fp32"


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / ".a.plan.1.tmp"
    left.write_bytes(b"of a process that was killed")
    os.utime(left, (0, 0))
    (tmp_path / ".a.plan.2.tmp").write_bytes(b"of one that may still write")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            plans.write_whole(tmp_path / "a.plan", b"plan")
    assert [path.name for path in tmp_path.iterdir()] == [".a.plan.2.tmp"]
    plans.write_whole(tmp_path / "a.plan", b"plan")
    assert (tmp_path / "a.plan").read_bytes() == b"plan"


def test_the_protocol_counts_and_marks_as_it_says(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    use(monkeypatch, calls)
    plan = provide(model, profile=BatchProfile(1, 1, 4))
    runner = PlanRunner(plan, HostDevice(calls))
    calls.clear()
    found = time_plan(runner, IMAGES[:1], warmup=3, runs=20)
    assert (found["batch_size"], found["n_warmup"], found["n_timed"]) == (1, 3, 20)
    assert calls.count("mark") == 4 * 23
    # The stand-in's clock counts its calls: replay and execute are between the inner marks.
    assert found["gpu"]["p50_ms"] == found["gpu"]["mean_ms"] == 3
    assert found["gpu_with_copies"]["p50_ms"] == 7
    assert 0 < found["wall"]["min_ms"] <= found["wall"]["p50_ms"] <= found["wall"]["p99_ms"]
    runner.close()


def test_what_keeps_tensorrt_from_working_here_is_a_reason_for_the_next_rung(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    use(monkeypatch, calls)
    monkeypatch.setattr(with_tensorrt, "CudaDevice", lambda: HostDevice(calls))
    (model.parent / "plans").write_text("a file where the folder of plans would be")
    with pytest.raises(EngineUnavailable, match=r"tensorrt: cannot keep a plan in .*plans"):
        load_engine(model, "tensorrt")
    # A library of TensorRT's that is missing comes as OSError from its own package.
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: not found')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(EngineUnavailable, match=r"cannot be imported \(libnvinfer.so.11"):
        load_engine(model, "tensorrt")


def test_without_a_gpu_the_reason_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, [])

    class Status(int):
        name = "cudaErrorNoDevice"

    fake = SimpleNamespace(cudaGetDeviceCount=lambda: (Status(100), None))
    bindings = SimpleNamespace(runtime=fake)
    monkeypatch.setattr(cuda_memory, "find_driver", lambda: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    with pytest.raises(
        EngineUnavailable, match="tensorrt: cannot look for GPUs: CUDA says cudaErr"
    ):
        load_engine(model, "tensorrt")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineUnavailable, match="pip install cuda-bindings"):
        load_engine(model, "tensorrt")


def test_a_recorded_graph_is_destroyed_when_nobody_can_start_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diary: list[str] = []
    answers = {
        "cudaGetDeviceCount": 1, "cudaGetDeviceProperties": SimpleNamespace(
            name=b"A GPU", major=9, minor=0
        ), "cudaStreamEndCapture": "graph", "cudaGraphInstantiate": "ready",
        "cudaStreamCreateWithFlags": 7, "cudaRuntimeGetVersion": 13000,
        "cudaDriverGetVersion": 13000,
    }  # fmt: skip

    class Runtime:
        cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's names
        cudaStreamCaptureMode = SimpleNamespace(  # noqa: N815
            cudaStreamCaptureModeThreadLocal="thread"
        )

        def __getattr__(self, name: str) -> object:
            def call(*given: object) -> tuple[object, ...]:
                diary.append(" ".join([name, *(str(one) for one in given if one in ("ready",))]))
                return (0, answers[name]) if name in answers else (0,)

            return call

    monkeypatch.setattr(cuda_memory, "find_driver", lambda: None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=Runtime()))
    device = cuda_memory.CudaDevice()
    replay = device.capture(lambda: None)
    replay()
    assert diary[-2:] == ["cudaGraphDestroy", "cudaGraphLaunch ready"]
    del replay
    assert diary[-1] == "cudaGraphExecDestroy ready"


@pytest.mark.gpu
def test_memory_events_and_graphs_on_a_real_gpu() -> None:
    device = cuda_memory.CudaDevice()
    device.reserve("a", 6)
    values = np.arange(6, dtype=np.float32)
    device.upload("a", values)
    assert np.array_equal(device.download("a", (2, 3)), values.reshape(2, 3))
    replay = device.capture(lambda: device.start_download("a", 6))
    device.upload("a", values + 1)
    first = device.mark()
    replay()
    last = device.mark()
    device.synchronize()
    assert device.between(first, last) > 0
    assert np.array_equal(device.download("a", (6,)), values + 1)
    device.forget(first, last)
    del replay
    device.close()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tensorrt", marks=pytest.mark.tensorrt),
        pytest.param("tensorrt-rtx", marks=pytest.mark.gpu),
    ],
)
def test_a_real_plan_gives_the_fp32_logits(
    b0_onnx: Path, name: str, precision: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b0_onnx.read_bytes())
    side = load_engine(path, "ort").preprocess.crop
    images = np.random.default_rng(0).standard_normal((3, 3, side, side), np.float32)
    expected = load_engine(path, "ort").logits(images)
    if precision in ("fp16", "bf16"):
        convert_onnx(path, tmp_path / f"model.{precision}.onnx", precision)
    engine = load_engine(path, name, precision=precision)
    bare = engine.resident(images)
    assert bare is not None
    assert all(engine.stopwatch().lap(bare).gpu > 0 for _ in range(3))
    for _ in range(3):  # by itself, recorded, replayed
        error = np.abs(engine.logits(images) - expected).max() / expected.std()
        assert error < (1e-3 if precision == "fp32" else 5e-2)
