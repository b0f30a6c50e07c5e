"""Which engine is taken and why; what each refuses; that all give the same logits."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from deployment_cases import CLASSES, SIDE

from hgnetv2_pipeline import processor
from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import ENGINES, NAMED_ONLY
from hgnetv2_pipeline.deployment.engines import base, ladder, with_ort, with_ort_rtx
from hgnetv2_pipeline.deployment.engines.base import EngineUnavailable
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.engines.with_openvino import OpenVinoEngine
from hgnetv2_pipeline.deployment.engines.with_torch import TorchEngine
from hgnetv2_pipeline.deployment.kit import cuda_memory
from hgnetv2_pipeline.deployment.self_test import ALLOWED, self_test_images
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.weights.load import save_weights

IMAGES = np.random.default_rng(3).standard_normal((3, 3, SIDE, SIDE), np.float32)


@pytest.fixture
def run_folder(b0: Backbone, tmp_path: Path) -> Path:
    """A finished training run, as far as inference is concerned."""
    facts = {
        "format": "hgnetv2_pipeline/1",
        "variant": "b0",
        "stage": "train",
        "classes": json.dumps(list(CLASSES)),
        "num_classes": str(len(CLASSES)),
        "preprocess": json.dumps(Preprocess(66, SIDE).to_dict()),
        "inputs": "{}",
    }
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / "student.safetensors", b0, facts)
    return tmp_path / "run"


def installed_only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let ``find_spec`` of the ladder see only these libraries."""

    def find(name: str) -> object:
        return object() if name in names else None

    monkeypatch.setattr(base, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=find)))


def test_auto_takes_onnx_runtime_and_names_the_reasons_against_the_others(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed_only(monkeypatch, "onnxruntime", "torch")
    with caplog.at_level(logging.INFO):
        engine = load_engine(b0_onnx)
    assert engine.name == "ort"
    said = [record.message for record in caplog.records if record.name == ladder.__name__]
    assert said[0].startswith("engine ort on ")
    assert "not tensorrt: tensorrt is not installed" in said[1]
    text = "\n".join(said[1:])
    assert "not ort-cuda: this onnxruntime has no CUDAExecutionProvider" in text
    assert "not openvino: openvino is not installed" in text


def test_auto_takes_torch_for_weights(run_folder: Path) -> None:
    assert load_engine(run_folder).name == "torch"


@pytest.mark.parametrize(
    ("engine", "hint"), [("tensorrt", "'tensorrt>=10"), ("openvino", "openvino")]
)
def test_a_named_engine_that_is_not_installed_fails_in_one_line_with_the_hint(
    engine: str, hint: str, b0_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_only(monkeypatch, "onnxruntime", "torch")
    with pytest.raises(EngineUnavailable, match=rf"{engine} is not installed \(pip install {hint}"):
        load_engine(b0_onnx, engine)


def test_named_engines_refuse_what_they_cannot_run(b0_onnx: Path, run_folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match="torch: runs weights"):
        load_engine(b0_onnx, "torch")
    with pytest.raises(EngineUnavailable, match="ort: runs ONNX files.*export first"):
        load_engine(run_folder, "ort")
    with pytest.raises(EngineUnavailable, match="no bf16 on this engine"):
        load_engine(b0_onnx, "ort", precision="bf16")


def test_a_device_leaves_out_the_engines_of_the_other(
    b0_onnx: Path, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert load_engine(b0_onnx, device="cpu").name == "ort"
    assert "ort-cuda: runs on cuda, and device=cpu was asked for" in caplog.text
    with pytest.raises(EngineUnavailable, match="ort: runs on cpu, and device=cuda was asked for"):
        load_engine(b0_onnx, "ort", device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(EngineUnavailable, match="PyTorch sees no NVIDIA GPU"):
            load_engine(run_folder, "torch", device="cuda")


def test_a_broken_installation_is_a_reason_and_no_crash(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_only(monkeypatch, "onnxruntime", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)  # makes `import openvino` fail
    with pytest.raises(EngineUnavailable, match="openvino: cannot be imported"):
        load_engine(b0_onnx, "openvino")


def test_unknown_names_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="unknown engine 'tensorr'.*did you mean 'tensorrt'"):
        load_engine(tmp_path / "model.onnx", "tensorr")
    with pytest.raises(ParameterError, match="unknown device 'gpu'"):
        load_engine(tmp_path / "model.onnx", device="gpu")
    with pytest.raises(ParameterError, match="batch_size=0"):
        load_engine(tmp_path / "model.onnx", batch_size=0)
    with pytest.raises(WeightsError, match="no such model file"):
        load_engine(tmp_path / "model.onnx")
    assert [name for name in ENGINES if name not in NAMED_ONLY] == [
        "tensorrt", "tensorrt-rtx", "ort-cuda", "openvino", "ort", "torch",
    ]  # fmt: skip


def test_the_plugin_of_tensorrt_for_rtx_says_what_keeps_it_from_loading(
    b0_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str) -> None:
        with_ort_rtx._devices.cache_clear()
        with pytest.raises(EngineUnavailable, match=f"^ort-tensorrt-rtx: {match}"):
            load_engine(b0_onnx, "ort-tensorrt-rtx")

    refused(r"onnxruntime_ep_nv_tensorrt_rtx is not installed \(pip install")
    plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.__spec__ = ModuleSpec(plugin.__name__, None)
    plugin.get_library_path = lambda: str(tmp_path / "libplugin.so")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)

    def no_driver() -> None:
        raise cuda_memory.CudaError("there is no NVIDIA driver on this machine")

    monkeypatch.setattr(with_ort_rtx, "find_driver", no_driver)
    refused("there is no NVIDIA driver on this machine$")
    monkeypatch.setattr(with_ort_rtx, "find_driver", lambda: None)
    refused(".*libplugin.so")  # ONNX Runtime's own words
    given: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "onnxruntime.register_execution_provider_library",
        lambda name, path: given.append((name, path)),
    )
    refused("the plugin finds no RTX GPU")
    assert given == [("NvTensorRTRTXExecutionProvider", str(tmp_path / "libplugin.so"))]


def test_torch_and_onnx_runtime_give_the_same_logits(run_folder: Path, b0_onnx: Path) -> None:
    ours = load_engine(run_folder, "torch")
    theirs = load_engine(b0_onnx, "ort", threads=1)
    expected = theirs.logits(IMAGES)
    assert np.abs(ours.logits(IMAGES) - expected).max() <= 5e-5 * expected.std()
    assert (ours.classes, ours.preprocess) == (theirs.classes, theirs.preprocess)
    assert (ours.card.variant, ours.card.macs) == (theirs.card.variant, theirs.card.macs)
    assert ours(IMAGES[:1]).dtype == np.float32


def test_a_scratch_network_gets_the_published_preprocessing_and_numbers_as_names() -> None:
    engine = load_engine("scratch:b0", "torch", preprocess=Preprocess(32, 32))
    assert engine.classes[:3] == ["0", "1", "2"]
    assert engine.logits(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 1000)


def test_an_empty_batch_gives_no_rows(b0_onnx: Path) -> None:
    assert load_engine(b0_onnx).logits(IMAGES[:0]).shape == (0, len(CLASSES))


@pytest.mark.parametrize(
    "images", [IMAGES[0], IMAGES.astype(np.float64), IMAGES[:, :2], IMAGES[..., :32]]
)
def test_batches_of_another_shape_or_type_are_refused(images: np.ndarray, b0_onnx: Path) -> None:
    with pytest.raises(ParameterError, match=r"takes float32\[N, 3, 64, 64\]"):
        load_engine(b0_onnx).logits(images)


def test_a_file_without_a_card_needs_preprocessing_and_names(b0_onnx: Path, tmp_path: Path) -> None:
    import onnx

    bare = onnx.load(b0_onnx)
    del bare.metadata_props[:]
    path = tmp_path / "bare.onnx"
    onnx.save(bare, path)
    with pytest.raises(WeightsError, match="carries no card"):
        load_engine(path)
    given = {"preprocess": Preprocess(66, SIDE), "classes": list("abcdefg")}
    assert load_engine(path, **given).classes == list("abcdefg")
    with pytest.raises(ParameterError, match="7 outputs and 2 class names"):
        load_engine(path, **{**given, "classes": ["a", "b"]})
    with pytest.raises(WeightsError, match="takes"):
        load_engine(path, **{**given, "preprocess": Preprocess()})


def test_a_provider_that_fell_back_to_the_cpu_is_no_gpu(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = SimpleNamespace(get_providers=lambda: both[1:])
    asked: list[object] = []

    def open_session(path: str, providers: list[object], **options: object) -> object:
        asked.extend(providers)
        return session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    with pytest.raises(EngineUnavailable, match="CUDAExecutionProvider did not start"):
        with_ort.OrtCudaEngine(b0_onnx)
    with pytest.raises(EngineUnavailable, match="CUDAExecutionProvider did not start"):
        with_ort.OrtCudaEngine(b0_onnx, tf32=True)
    assert asked[::2] == [("CUDAExecutionProvider", {"use_tf32": on}) for on in "01"]


def test_a_gpu_without_room_is_no_damaged_file(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    on_a_cpu = onnxruntime.InferenceSession
    full = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0 ;"

    def open_session(path: str, providers: list[object], **options: object) -> object:
        if len(providers) == 2:
            raise RuntimeError(full)
        return on_a_cpu(path, providers=providers, **options)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    with caplog.at_level(logging.INFO):
        assert load_engine(b0_onnx).name == "ort"
    assert "ort-cuda: CUDAExecutionProvider did not start ([ONNXRuntimeError]" in caplog.text


def test_onnx_runtime_on_a_gpu_names_the_gpu(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession(b0_onnx, providers=both[1:])
    session = SimpleNamespace(
        get_providers=lambda: both, get_inputs=real.get_inputs, get_outputs=real.get_outputs,
        get_modelmeta=real.get_modelmeta, run=real.run,
    )  # fmt: skip
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    monkeypatch.setattr(with_ort, "clocks", lambda place: {"name": f"A GPU for {place}"})
    engine = load_engine(b0_onnx, "ort-cuda")
    assert (engine.device, engine.place) == ("A GPU for cuda", "cuda")
    assert engine.logits(IMAGES).shape == (3, len(CLASSES))


needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


def openvino_is_off(folder: Path) -> float:
    """By how much OpenVINO's int8 logits, taken unasked, miss the answers that the file carries, in
    their standard deviation; 0 where that is within what the file allows.

    VNNI alone does not make it right: on a Xeon with VNNI and no AMX it is 0.2 (OpenVINO 2026.4).
    """
    engine = OpenVinoEngine(folder / "model.int8.onnx", threads=1)
    test = engine.card.self_test
    assert test is not None
    pixels = self_test_images(len(test.logits), engine.preprocess.crop)
    off = test.distance(engine.logits(engine.preprocess.normalize(pixels)))
    return 0.0 if off <= max(test.allowed, ALLOWED["int8"]) else float(off)


@needs_openvino
@pytest.mark.parametrize(
    ("precision", "reference", "allowed"),
    [("fp32", "fp32", 5e-5), ("int8", "int8", 0.1), ("bf16", "fp32", 0.2)],
)
def test_openvino_gives_the_logits_of_onnx_runtime(
    precision: str, reference: str, allowed: float, precisions: Path
) -> None:
    images = np.clip(IMAGES, -2, 2)  # as photographs are, and int8's ranges expect
    expected = load_engine(precisions, "ort", precision=reference).logits(images)
    given = {"engine": "openvino", "precision": precision, "threads": 1}
    fit = {"int8": processor.sums_int8_exactly(), "bf16": processor.computes_bf16()}
    if fit.get(precision) is False:
        with pytest.raises(EngineUnavailable, match="openvino: this processor, "):
            load_engine(precisions, **given)
        return
    if precision == "int8" and (off := openvino_is_off(precisions)):
        with pytest.raises(EngineUnavailable, match=f"wrongly on .* are off by {off:.2g} of"):
            load_engine(precisions, **given)
        return
    engine = load_engine(precisions, **given)
    got = engine.logits(images)
    assert engine.precision == precision
    assert np.abs(got - expected).max() <= allowed * expected.std()
    if precision == "bf16":
        assert np.abs(got - expected).max() > 1e-4 * expected.std(), "it computed in float32"
        return
    # One whole batch, and one that is filled up.
    by_two = load_engine(precisions, **given, batch_size=2).logits(images[:3])
    assert np.abs(by_two - got[:3]).max() <= 5e-5 * expected.std()


@needs_openvino
def test_openvino_does_not_report_that_it_was_imported(b0_onnx: Path, tmp_path: Path) -> None:
    """By itself it would: a thread that posts to Google Analytics, and a folder in the home."""
    program = (
        "import sys, threading\n"
        "from hgnetv2_pipeline.deployment.engines.ladder import load_engine\n"
        "load_engine(sys.argv[1], 'openvino', threads=1)\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert [thread.name for thread in threading.enumerate()] == ['MainThread']\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(b0_onnx)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "precision", "file", "found"),
    [
        ("", None, "model.onnx", "fp32"),
        ("", "fp16", "model.fp16.onnx", "fp16"),
        ("model.onnx", "int8", "model.int8.onnx", "int8"),
        ("model.int8.onnx", None, "model.int8.onnx", "int8"),
        ("model.int8.onnx", "fp32", "model.onnx", "fp32"),
    ],
)
def test_a_precision_names_its_file(
    named: str, precision: str | None, file: str, found: str, precisions: Path
) -> None:
    engine = load_engine(precisions / named, "ort", precision=precision)
    assert Path(engine.model) == precisions / file
    assert engine.precision == found


def timed(monkeypatch: pytest.MonkeyPatch, *, ours: float, plain: float) -> None:
    """Let ``auto`` measure these seconds per image: the engine's, and those of the fp32 file."""
    steps = itertools.cycle([0.0, ours, 0.0, plain])
    clock = SimpleNamespace(process_time=lambda: next(steps), monotonic=lambda: 0.0)
    monkeypatch.setattr(ladder, "time", clock)


def test_auto_takes_no_precision_that_is_slower_here_than_fp32(
    precisions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_only(monkeypatch, "onnxruntime", "torch")
    timed(monkeypatch, ours=0.0333, plain=0.0151)
    told = r"ort: int8 is slower than fp32 on this processor \(33\.3 and 15\.1 ms per image\)"
    with pytest.raises(EngineUnavailable, match=told):
        load_engine(precisions, precision="int8")
    assert load_engine(precisions, "ort", precision="int8").precision == "int8"
    assert load_engine(precisions).precision == "fp32"
    timed(monkeypatch, ours=0.0160, plain=0.0151)  # level, as far as a clock can say
    assert load_engine(precisions, precision="int8").name == "ort"
    # Alone it is all there is.
    timed(monkeypatch, ours=0.0333, plain=0.0151)
    alone = precisions.parent / "alone"
    alone.mkdir(exist_ok=True)
    shutil.copy(precisions / "model.int8.onnx", alone)
    assert load_engine(alone / "model.int8.onnx").name == "ort"


@pytest.fixture
def uncapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a processor that the test makes up: no instruction set is taken away from it."""
    for name in processor._CAPS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("uncapped")
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_openvino_is_not_taken_for_what_the_processor_computes_wrongly_or_piecemeal(
    precision: str, precisions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeOpenVino(["FP32", "BF16", "INT8"])
    monkeypatch.setitem(sys.modules, "openvino", fake)
    fake.__spec__ = importlib.util.spec_from_loader("openvino", loader=None)
    monkeypatch.setattr(processor, "_reported", lambda: frozenset({"avx2"}))
    reason = {"int8": "adds 8-bit products in 16 bits", "bf16": "does not compute in bf16"}
    with pytest.raises(EngineUnavailable, match=f"openvino: this processor.*{reason[precision]}"):
        load_engine(precisions, "openvino", precision=precision)
    monkeypatch.setattr(processor, "_reported", lambda: frozenset({"avx512_vnni", "avx512_bf16"}))
    assert load_engine(precisions, "openvino", precision=precision).precision == precision
    monkeypatch.setattr(processor, "_reported", frozenset)  # a system that does not say
    assert load_engine(precisions, "openvino", precision=precision).precision == precision


def test_auto_does_not_take_pytorch_in_half_precision_where_the_cpu_has_none(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_reported", lambda: frozenset({"avx2"}))
    with pytest.raises(EngineUnavailable, match="torch: bf16 is several times slower than fp32"):
        load_engine(run_folder, device="cpu", precision="bf16")
    named = load_engine(run_folder, "torch", device="cpu", precision="bf16")
    assert named.precision == "bf16"


def test_int8_goes_to_openvino_first_and_every_refusal_has_its_reason(
    precisions: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed(monkeypatch, ours=1.0, plain=1.0)
    with caplog.at_level(logging.INFO):
        if importlib.util.find_spec("openvino") is not None:
            fit = processor.sums_int8_exactly() is not False
            right = fit and not openvino_is_off(precisions)
            taken = load_engine(precisions, precision="int8").name
            assert taken == ("openvino" if right else "ort")
            assert fit or "openvino: this processor, " in caplog.text
            assert right or not fit or "openvino: computes " in caplog.text
            caplog.clear()
        installed_only(monkeypatch, "onnxruntime", "torch")
        assert load_engine(precisions, precision="int8").name == "ort"
    assert "ort-cuda: no int8 on this engine" in caplog.text
    assert "openvino: openvino is not installed" in caplog.text
    with pytest.raises(EngineUnavailable, match=r"tensorrt: bf16 needs model\.bf16\.onnx beside"):
        load_engine(precisions, "tensorrt", precision="bf16")
    with pytest.raises(EngineUnavailable, match="ort: no tf32 on this engine"):
        load_engine(precisions, "ort", precision="tf32")
    with pytest.raises(ParameterError, match="unknown precision 'int4'"):
        load_engine(precisions, precision="int4")
    with pytest.raises(EngineUnavailable, match="no engine can run .* openvino: no tf32"):
        load_engine(precisions, precision="tf32")


class FakeOpenVino(ModuleType):
    """As much of ``openvino`` as the engine calls, answering through ONNX Runtime."""

    __version__ = "2026.4"

    def __init__(self, able: list[str]) -> None:
        super().__init__("openvino")
        self.able, self.config, self.outputs = able, {}, []
        self.Core = lambda: self

    def get_property(self, device: str, name: str) -> object:
        return self.able if name == "OPTIMIZATION_CAPABILITIES" else f"fake {device}"

    def read_model(self, content: BytesIO) -> FakeOpenVino:
        with NamedTemporaryFile(suffix=".onnx") as file:
            Path(file.name).write_bytes(content.getvalue())
            self.inner, self.sizes = with_ort.OrtEngine(Path(file.name)), []
        return self

    def input(self, index: int) -> SimpleNamespace:
        free = SimpleNamespace(is_static=False)
        return SimpleNamespace(get_partial_shape=lambda: [free, 3, SIDE, SIDE])

    def reshape(self, shape: list[int]) -> None:
        self.shape = shape

    def compile_model(self, model: object, device: str, config: dict[str, object]) -> FakeOpenVino:
        self.config = config
        return self

    def output(self, index: int) -> FakeOpenVino:
        return self

    def get_partial_shape(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(get_length=lambda: -1), SimpleNamespace(get_length=CLASSES.__len__)]

    def create_infer_request(self) -> FakeOpenVino:
        return self

    def infer(self, inputs: list[np.ndarray], share_inputs: bool) -> list[np.ndarray]:
        self.sizes.append(len(inputs[0]))
        return [self.inner.logits(inputs[0])]


@pytest.mark.usefixtures("uncapped")
def test_openvino_is_asked_for_true_float32_or_for_bf16(
    b0_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeOpenVino(["FP32", "BF16"])
    monkeypatch.setattr(processor, "_reported", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setitem(sys.modules, "openvino", fake)
    fake.__spec__ = importlib.util.spec_from_loader("openvino", loader=None)
    engine = load_engine(b0_onnx, "openvino", threads=1)
    assert fake.config["INFERENCE_PRECISION_HINT"] == "f32"
    assert fake.config["INFERENCE_NUM_THREADS"] == 1
    assert np.array_equal(engine.logits(IMAGES), load_engine(b0_onnx, "ort").logits(IMAGES))
    timed(monkeypatch, ours=1.0, plain=1.0)
    engine = load_engine(b0_onnx, precision="bf16", batch_size=2)
    assert fake.shape == [2, 3, SIDE, SIDE]
    assert engine.logits(IMAGES).shape == (3, len(CLASSES))
    assert fake.sizes[-2:] == [2, 2]
    assert (engine.name, engine.precision) == ("openvino", "bf16")
    assert fake.config["INFERENCE_PRECISION_HINT"] == "bf16"
    fake.able = ["FP32"]
    with pytest.raises(EngineUnavailable, match="does not compute in bf16"):
        load_engine(b0_onnx, "openvino", precision="bf16")


def test_the_torch_engine_takes_any_module_and_puts_it_in_eval_mode() -> None:
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    card = ModelCard(preprocess=Preprocess(8, 8), classes=("r", "g", "b"))
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    before = torch.get_num_threads()
    try:
        engine = TorchEngine(module.train(), card, model="mean", device="cpu", threads=1)
        assert not module.training
        assert engine.logits(images) == pytest.approx(images.mean((2, 3)), abs=1e-6)
        assert engine.threads == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("engine", "precision", "reason"),
    [("torch", "tf32", "tf32 needs"), ("torch-cuda-graph", "fp32", "cuda-graph needs")],
)
def test_what_only_a_gpu_has_is_refused_on_a_cpu(
    engine: str, precision: str, reason: str, run_folder: Path
) -> None:
    with pytest.raises(EngineUnavailable, match=f"{engine}: {reason} an NVIDIA GPU, not a CPU"):
        load_engine(run_folder, engine, precision=precision, device="cpu")


def test_a_batch_that_the_gpu_has_no_room_for_is_refused_with_its_size() -> None:
    class Full(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nmore")

    card = ModelCard(preprocess=Preprocess(SIDE, SIDE), classes=("a",))
    engine = TorchEngine(Full(), card, model="m", device="cpu")
    with pytest.raises(EngineUnavailable, match=r"^torch: no memory for a batch of 3 .*80 GiB"):
        engine.logits(IMAGES)


def test_half_precision_is_cast_and_comes_back_as_float32(run_folder: Path) -> None:
    exact = load_engine(run_folder, "torch", device="cpu").logits(IMAGES)
    engine = load_engine(run_folder, "torch", precision="bf16", device="cpu")
    logits = engine.logits(IMAGES)
    assert (engine.precision, logits.dtype) == ("bf16", np.float32)
    assert 0 < np.abs(logits - exact).max() <= 0.1 * np.abs(exact).max()


@pytest.mark.slow
def test_the_compiled_engine_gives_the_eager_ones_logits(run_folder: Path) -> None:
    eager = load_engine(run_folder, "torch", device="cpu").logits(IMAGES)
    compiled = load_engine(run_folder, "torch-compiled", device="cpu")
    assert compiled.name == "torch-compiled"
    assert np.abs(compiled.logits(IMAGES) - eager).max() <= 1e-5 * np.abs(eager).max()


_ERRORS = {"fp32": 1e-4, "tf32": 0.02, "fp16": 0.02, "bf16": 0.1}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        *itertools.product(("torch", "torch-cuda-graph"), _ERRORS),
        ("torch-compiled", "fp16"),  # a compilation a precision and batch size: half a minute
    ],
)
def test_a_gpus_logits_are_the_cpus(engine: str, precision: str, run_folder: Path) -> None:
    error = _ERRORS[precision]
    sizes = (3,) if engine == "torch-compiled" else (3, 1, 3)
    exact = load_engine(run_folder, "torch", device="cpu").logits(IMAGES)
    with load_engine(run_folder, engine, precision=precision, device="cuda") as loaded:
        for size in sizes:
            logits = loaded.logits(IMAGES[:size])
            assert np.abs(logits - exact[:size]).max() <= error * np.abs(exact).max()
        bare = loaded.resident(IMAGES)
        assert bare is not None
        assert loaded.stopwatch().lap(bare).gpu > 0


@needs_openvino
def test_a_signal_is_survived_after_an_engine_ended_in_another_thread(b0_onnx: Path) -> None:
    """Its library left the main thread with a stack for signal handlers that was unmapped."""
    program = """
import gc, pathlib, signal, sys, threading
from hgnetv2_pipeline.deployment.engines.with_openvino import OpenVinoEngine
held = [OpenVinoEngine(pathlib.Path(sys.argv[1]))]
ending = threading.Thread(target=lambda: (held.clear(), gc.collect()))
ending.start()
ending.join()
signal.signal(signal.SIGINT, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    command = [sys.executable, "-c", program, str(b0_onnx)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(("wanted", "named"), [("fp32", "fp32"), ("int8", "fp32+int8")])
def test_a_missing_file_is_advised_to_be_exported_once(wanted: str, named: str) -> None:
    assert ladder._precisions(wanted) == f"export.precisions={named}"
