"""The order of CUDA's calls in the torch engine, held by stand-ins; hardware runs ``-m gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.with_torch import TorchEngine
from hgnetv2_pipeline.deployment.timing.stopwatch import CudaStopwatch, time_calls

SIDE = 8


class Mean(torch.nn.Module):
    """The mean of each channel; notes its calls."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__()
        self.diary = diary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.diary.append("forward")
        return x.mean((2, 3))


class Cuda:
    """As much of ``torch.cuda`` as a capture needs: a graph repeats what was noted in it."""

    def __init__(self, engine: TorchEngine, diary: list[str]) -> None:
        self.engine, self.diary = engine, diary

    def Stream(self, _device: object) -> Cuda:  # noqa: N802 - torch's name
        return self

    def current_stream(self, _device: object) -> Cuda:
        return self

    def wait_stream(self, _other: object) -> None:
        self.diary.append("wait")

    @contextmanager
    def stream(self, _stream: object) -> Iterator[None]:
        yield

    def CUDAGraph(self) -> Any:  # noqa: N802 - torch's name
        cuda = self

        class Graph:
            def replay(self) -> None:
                cuda.diary.append("replay")
                for graph, given, answer in cuda.engine._graphs.values():
                    if graph is self:
                        with torch.inference_mode():
                            answer.copy_(given.mean((2, 3)))

        return Graph()

    @contextmanager
    def graph(self, _graph: object, stream: object = None) -> Iterator[None]:
        assert stream is self  # the one that was warmed up, on the engine's own GPU
        self.diary.append("capture")
        yield


@pytest.fixture
def diary() -> list[str]:
    return []


@pytest.fixture
def engine(diary: list[str], monkeypatch: pytest.MonkeyPatch) -> TorchEngine:
    card = ModelCard(preprocess=Preprocess(SIDE, SIDE), classes=("r", "g", "b"))
    made = TorchEngine(Mean(diary), card, model="mean", device="cpu")
    made._captures = True
    cuda = Cuda(made, diary)
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    return made


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE), np.float32)


def test_a_shape_is_warmed_up_captured_once_and_then_replayed(
    engine: TorchEngine, diary: list[str]
) -> None:
    for seed in range(3):
        batch = images(2, seed)
        assert engine.logits(batch) == pytest.approx(batch.mean((2, 3)), abs=1e-6)
    first = ["wait", *["forward"] * 3, "wait", "capture", "forward", "replay"]
    assert diary == [*first, "replay", "replay"]


def test_only_the_latest_shapes_keep_their_graphs(engine: TorchEngine, diary: list[str]) -> None:
    for count in (1, 2, 3, 4, 5, 1):
        engine.logits(images(count))
    assert diary.count("capture") == 6
    assert [shape[0] for shape in engine._graphs] == [3, 4, 5, 1]
    engine.close()
    assert not engine._graphs


def test_tf32_and_tuning_are_set_for_a_call_and_then_as_before(engine: TorchEngine) -> None:
    class Place:
        type = "cuda"

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def flags() -> tuple[bool, bool, bool]:
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = flags()
    engine._place, engine._tune = Place(), True  # type: ignore[assignment]
    with engine._arithmetic():
        assert flags() == (False, False, True)
    assert flags() == before
    engine.card = ModelCard(
        preprocess=engine.preprocess, classes=engine.card.classes, precision="tf32"
    )
    engine._tune = False
    with pytest.raises(RuntimeError, match="stop"), engine._arithmetic():
        assert flags() == (True, True, False)
        raise RuntimeError("stop")
    assert flags() == before


def test_the_gpus_time_is_between_two_events_on_the_stream_waited_for(
    monkeypatch: pytest.MonkeyPatch, diary: list[str]
) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            diary.append(f"record on {stream}")

        def synchronize(self) -> None:
            diary.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            diary.append("elapsed")
            return 2.5  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    (lap,) = time_calls(lambda: diary.append("call"), CudaStopwatch("s"), warmup=2, runs=1)
    assert lap.gpu == 0.0025
    # Calls that are dropped have ended before the clock starts: it waits for all that is queued.
    dropped = ["call", "call", "record on s", "synchronize"]
    assert diary == [*dropped, "record on s", "call", "record on s", "synchronize", "elapsed"]
