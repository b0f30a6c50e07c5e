"""TensorRT on an NVIDIA GPU, versions 10 and 11: plans found, built from ONNX, and run.

The calls themselves are in ``deployment.kit``, which a machine without PyTorch runs too. Not yet
run on a GPU: they follow the documentation of the 11.4 bindings, against whose list of names a
test holds them, and a stand-in module checks their order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineUnavailable,
    Wish,
    check_classes,
    choose_card,
    need_onnx,
)
from hgnetv2_pipeline.deployment.export.onnx_graph import EMBEDDING
from hgnetv2_pipeline.deployment.kit.cuda_memory import CudaDevice
from hgnetv2_pipeline.deployment.kit.plans import (
    BatchProfile,
    Device,
    PlanError,
    PlanRunner,
    provide_plan,
)
from hgnetv2_pipeline.deployment.timing.stopwatch import Call, Lap, Stopwatch
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights.onnx_file import read_onnx

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

PROFILE = "tensorrt_profile"
"""The card's entry that says for which batch sizes a plan is built: least, best, most."""


class TensorRTEngine(Engine):
    """A deserialised plan. Its card comes from the text files beside it unless it is given.

    ``device`` is the GPU unless a test gives another.
    """

    name = "tensorrt"

    def __init__(
        self,
        path: Path,
        *,
        card: ModelCard | None = None,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
        device: Device | None = None,
    ) -> None:
        import tensorrt as trt

        path = Path(path)

        def read() -> ModelCard:
            return ModelCard.from_folder(path.parent) if card is None else card

        card = choose_card(read, preprocess, classes)
        try:
            self._place = CudaDevice() if device is None else device
            self._runner = PlanRunner(path.read_bytes(), self._place)
        except PlanError as error:
            raise EngineUnavailable(f"tensorrt: {path}: {error}") from error
        side = card.preprocess.crop
        if self._runner.image_shape != (3, side, side):
            raise WeightsError(
                f"{path} takes {self._runner.image_shape}; its preprocessing gives {side}x{side}"
            )
        check_classes(card, self._runner.classes, str(path), named=classes is not None)
        self.embedding_size = self._runner.widths.get(EMBEDDING)
        super().__init__(
            model=str(path),
            card=card,
            device=self._place.name,
            versions={"tensorrt": trt.__version__},
        )

    def stopwatch(self) -> Stopwatch:
        """With events on the stream that the plan runs on."""
        return DeviceStopwatch(self._place)

    def resident(self, images: np.ndarray) -> Call | None:
        """None for a batch that the plan does not take whole."""
        runner, batch = self._runner, len(images)
        if not runner.least <= batch <= runner.most:
            return None
        self._place.upload(runner.input, images)
        return lambda: runner.enqueue(batch)

    def _run(self, images: np.ndarray) -> np.ndarray:
        with foreign_file(self.model, WeightsError, f"cannot answer {len(images)} images"):
            return self._runner.logits(images)

    def _run_both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with foreign_file(self.model, WeightsError, f"cannot answer {len(images)} images"):
            logits, embeddings = self._runner.answers(images, [self._runner.output, EMBEDDING])
        return logits, embeddings

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._runner.close()
        if isinstance(self._place, CudaDevice):
            self._place.close()


class DeviceStopwatch:
    """As ``CudaStopwatch``, without PyTorch."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def settle(self) -> None:
        """Wait for the stream."""
        self._device.synchronize()

    def lap(self, call: Call) -> Lap:
        """Make the call once, between two events."""
        device = self._device
        cpu, wall = time.process_time(), time.perf_counter()
        begin = device.mark()
        call()
        end = device.mark()
        device.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        seconds = device.between(begin, end) / 1e3
        device.forget(begin, end)
        return Lap(wall, cpu, seconds)


def from_onnx(
    path: Path,
    *,
    precision: str,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    device: Device | None = None,
) -> TensorRTEngine:
    """The engine for an ONNX file: its plan from ``plans/`` beside it, built there if need be."""
    file = read_onnx(path)
    path = file.path
    card = choose_card(lambda: ModelCard.from_props(file.props, path), preprocess, classes)
    with foreign_file(path, WeightsError, f"has a damaged card: {PROFILE}"):
        sizes = [int(size) for size in card.more.get(PROFILE, "1,1,16").split(",")]
        if len(sizes) != 3:
            raise ValueError("three batch sizes are needed")
    try:
        place = CudaDevice() if device is None else device
        plan = provide_plan(
            path, path.parent / "plans", precision=precision, profile=BatchProfile(*sizes),
            gpu=place.name,
        )  # fmt: skip
    except PlanError as error:
        raise EngineUnavailable(f"tensorrt: {error}") from error
    except OSError as error:
        raise EngineUnavailable(
            f"tensorrt: cannot keep a plan in {path.parent / 'plans'} ({error}); copy the model to "
            "a folder that can be written"
        ) from error
    return TensorRTEngine(plan, card=replace(card, precision=precision), device=place)


def open_engine(name: str, wish: Wish) -> Engine:
    """TensorRT on the plan of ``wish``, or on its ONNX file, of which a plan is made."""
    if wish.plan is None:
        need_onnx(wish, name)
    try:
        import tensorrt  # noqa: F401
    except OSError as error:  # how its package says that a library of its own is missing
        raise ImportError(str(error)) from error
    if wish.plan is not None:
        return TensorRTEngine(wish.plan, preprocess=wish.preprocess, classes=wish.classes)
    return from_onnx(
        need_onnx(wish, name),
        precision=wish.precision or "fp32",
        preprocess=wish.preprocess,
        classes=wish.classes,
    )
