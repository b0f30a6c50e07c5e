"""The calls to TensorRT, in order, against a stand-in that computes and checks what it is given."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hgnetv2_pipeline.data import Preprocess
from hgnetv2_pipeline.deployment import EngineUnavailable, load_engine
from hgnetv2_pipeline.deployment.engines import with_tensorrt
from hgnetv2_pipeline.errors import WeightsError

SIDE, CLASSES = 8, ("red", "green", "blue")


class HostMemory:
    """Device memory that lies on the host."""

    stream, device = 7, "stand-in GPU"

    def put(self, images: np.ndarray) -> int:
        self.images = images.copy()
        return self.images.ctypes.data

    def reserve(self, shape: tuple[int, ...]) -> int:
        self.result = np.full(shape, np.nan, np.float32)
        return self.result.ctypes.data

    def fetch(self) -> np.ndarray:
        return self.result


class FakeContext:
    """Channel means of the images at the address it was given."""

    def __init__(self, calls: list[str], most: int) -> None:
        self.calls, self.most, self.addresses = calls, most, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append("shape")
        assert shape[0] <= self.most
        self.shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        self.calls.append("infer")
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], 3)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append(f"address {name}")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append(f"execute on {stream}")
        size = int(np.prod(self.shape))
        given = (ctypes.c_float * size).from_address(self.addresses["images"])
        means = np.frombuffer(given, np.float32).reshape(self.shape).mean((2, 3))
        ctypes.memmove(
            self.addresses["logits"], np.ascontiguousarray(means).ctypes.data, means.nbytes
        )
        return True


def fake_tensorrt(
    calls: list[str], *, least: int = 2, most: int = 4, loads: bool = True, dtype: str = "float32"
) -> ModuleType:
    modes = {"images": "in", "logits": "out"}
    shape = (3, SIDE, SIDE)
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: list(modes)[index],
        get_tensor_mode=modes.__getitem__,
        get_tensor_dtype=lambda name: dtype,
        get_tensor_shape=lambda name: (-1, 3),
        get_tensor_profile_shape=lambda name, index: [(least, *shape), (2, *shape), (most, *shape)],
        create_execution_context=lambda: FakeContext(calls, most),
    )

    def deserialize(plan: bytes) -> object:
        calls.append(f"deserialize {plan.decode()}")
        return engine if loads else None

    module = ModuleType("tensorrt")
    module.__dict__.update(
        __version__="11.4",
        __spec__=SimpleNamespace(name="tensorrt"),
        float32="float32",
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
    )
    return module


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    preprocess = Preprocess(SIDE, SIDE).to_dict()
    (tmp_path / "preprocess.json").write_text(json.dumps(preprocess))
    (tmp_path / "model.engine").write_bytes(b"plan")
    monkeypatch.setattr(with_tensorrt, "TorchMemory", HostMemory)
    return tmp_path / "model.engine"


def test_the_calls_come_in_the_documented_order(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(calls))
    engine = load_engine(plan)
    images = np.random.default_rng(0).random((3, 3, SIDE, SIDE), np.float32)
    assert engine.logits(images) == pytest.approx(images.mean((2, 3)), abs=1e-6)
    assert calls == [
        "deserialize plan", "shape", "infer", "address images", "address logits", "execute on 7",
    ]  # fmt: skip
    assert (engine.name, engine.device, engine.classes) == ("tensorrt", "stand-in GPU", [*CLASSES])


@pytest.mark.parametrize("count", [1, 4, 9])
def test_batches_outside_the_profile_are_cut_up_or_filled(
    count: int, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt([], least=2, most=4))
    images = np.random.default_rng(0).random((count, 3, SIDE, SIDE), np.float32)
    assert load_engine(plan, "tensorrt").logits(images) == pytest.approx(
        images.mean((2, 3)), abs=1e-6
    )


def test_a_plan_of_another_gpu_or_type_is_refused(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt([], loads=False))
    with pytest.raises(EngineUnavailable, match="cannot load .*build it again here"):
        load_engine(plan, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt([], dtype="float16"))
    with pytest.raises(WeightsError, match="not float32"):
        load_engine(plan, "tensorrt")


def test_without_a_gpu_the_reason_is_one_line(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.undo()
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(EngineUnavailable, match="sees no NVIDIA GPU"):
        with_tensorrt.TorchMemory()
