"""An engine that counts and sleeps by a clock of its own, so that no test waits or flickers."""

from __future__ import annotations

import numpy as np

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import Engine
from hgnetv2_pipeline.deployment.timing.stopwatch import Call, Lap


class Clock:
    """Time that passes only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.gpu = 0.0
        self.looks = 0

    def perf_counter(self) -> float:
        self.looks += 1
        return self.wall

    def process_time(self) -> float:
        return self.cpu


class GpuStopwatch:
    """As ``CudaStopwatch``: wall, CPU and the GPU's own time, by the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def settle(self) -> None:
        pass

    def lap(self, call: Call) -> Lap:
        clock = self.clock
        before = clock.wall, clock.cpu, clock.gpu
        call()
        return Lap(clock.wall - before[0], clock.cpu - before[1], clock.gpu - before[2])


class Fake(Engine):
    """Every call takes ``wall`` and ``cpu`` seconds of the clock; on a GPU ``gpu`` of its own,
    and half a second of wall time more for the copies.
    """

    name = "fake"

    def __init__(
        self, clock: Clock, wall: float = 0.0, cpu: float = 0.0, *, gpu: float | None = None,
        macs: int | None = None, diary: list[str] | None = None, label: str = "fake",
    ) -> None:  # fmt: skip
        card = ModelCard(
            preprocess=Preprocess(8, 8), classes=("a", "b"), variant="b0", macs=macs,
            params=None if macs is None else 1_000, activations=None if macs is None else 500,
        )  # fmt: skip
        super().__init__(model=label, card=card, device="none", threads=1)
        self.clock, self.cost, self.gpu, self.diary = clock, (wall, cpu), gpu, diary
        self.shapes: list[tuple[int, ...]] = []
        self.resident_calls = 0

    @property
    def place(self) -> str:
        return "cpu" if self.gpu is None else "cuda"

    def stopwatch(self) -> object:
        return super().stopwatch() if self.gpu is None else GpuStopwatch(self.clock)

    def resident(self, images: np.ndarray) -> Call | None:
        return None if self.gpu is None else self._bare

    def _bare(self) -> None:
        self.resident_calls += 1
        self._work()

    def _work(self) -> None:
        wall, cpu = self.cost
        self.clock.wall += wall
        self.clock.cpu += cpu
        self.clock.gpu += self.gpu or 0.0

    def _run(self, images: np.ndarray) -> np.ndarray:
        self.shapes.append(images.shape)
        if self.diary is not None:
            self.diary.append(self.model)
        self._work()
        if self.gpu is not None:
            self.clock.wall += 0.5
        return np.zeros((len(images), 2), np.float32)
