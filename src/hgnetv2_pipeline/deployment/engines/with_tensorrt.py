"""TensorRT 10 and 11 and TensorRT for RTX on an NVIDIA GPU: plans found, built from ONNX, and run.

The calls themselves are in ``deployment.kit``, which a machine without PyTorch runs too. Parsing
and building are tested with TensorRT for RTX itself. Not yet run on a GPU: those calls follow the
documentation of the bindings, and a stand-in module checks their order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import PRECISIONS
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    Wish,
    check_classes,
    choose_card,
    need_onnx,
)
from hgnetv2_pipeline.deployment.export.onnx_graph import EMBEDDING
from hgnetv2_pipeline.deployment.kit.cuda_memory import CudaDevice
from hgnetv2_pipeline.deployment.kit.libraries import LIBRARIES, Library, PlanError
from hgnetv2_pipeline.deployment.kit.plan_runner import Device, PlanRunner
from hgnetv2_pipeline.deployment.kit.plans import (
    BatchProfile,
    PlanSpec,
    capability,
    is_plan_of,
    provide_plan,
    read_note,
)
from hgnetv2_pipeline.deployment.timing.stopwatch import Call, Lap, Stopwatch
from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file
from hgnetv2_pipeline.weights.onnx_file import read_onnx

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess

_log = logging.getLogger(__name__)

PROFILE = "tensorrt_profile"
"""The card's entry that says for which batch sizes a plan is built: least, best, most."""


class TensorRTEngine(Engine):
    """A deserialised plan. Its card comes from the text files beside it unless it is given.

    ``device`` is the GPU unless a test gives another.
    """

    def __init__(
        self,
        path: Path,
        library: Library,
        *,
        card: ModelCard | None = None,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
        device: Device | None = None,
    ) -> None:
        path, self.name = Path(path), library.engine
        note = read_note(path)

        def read() -> ModelCard:
            if card is not None:
                return card
            # The folder's card is that of its fp32 file.
            found = ModelCard.from_folder(path.parent)
            own = note.get("precision")
            return replace(found, precision=own if own in PRECISIONS else found.precision)

        card = choose_card(read, preprocess, classes)
        place = device
        try:
            if note.get("library", library.engine) != library.engine:
                raise PlanError(f"engine {note['library']} built it")
            if note.get("plan_sha256", sha := sha256_file(path)) != sha:
                raise PlanError("it is not the plan that its note speaks of; build it again")
            place = CudaDevice() if place is None else place
            self._place = place
            self._runner = PlanRunner(path, place, library=library)
        except PlanError as error:
            if device is None and place is not None:
                place.close()
            raise EngineUnavailable(f"{self.name}: {path}: {error}") from error
        height, width = card.preprocess.size
        if self._runner.image_shape != (3, height, width):
            raise WeightsError(
                f"{path} takes {self._runner.image_shape}; its preprocessing gives {height}x{width}"
            )
        check_classes(card, self._runner.classes, str(path), named=classes is not None)
        self.embedding_size = self._runner.widths.get(EMBEDDING)
        super().__init__(
            model=str(path),
            card=card,
            device=self._place.name,
            versions={self.name: library.load().__version__},
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


def plan_beside(onnx: Path, library: Library) -> Path:
    """Where the plan of ``onnx`` is that was built ahead of time (``export.target``).

    >>> str(plan_beside(Path("model.fp16.onnx"), LIBRARIES["tensorrt-rtx"]))
    'model.fp16.tensorrt-rtx.plan'
    """
    return onnx.with_suffix(f".{library.engine}.plan")


def from_onnx(
    path: Path,
    library: Library,
    *,
    precision: str,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    device: Device | None = None,
) -> TensorRTEngine:
    """The engine for an ONNX file: the plan beside it that was built ahead of time, if it runs
    here; else one from ``plans/``, built there if need be.
    """
    name = library.engine
    try:
        place = CudaDevice() if device is None else device
    except PlanError as error:
        raise EngineUnavailable(f"{name}: {error}") from error
    try:
        return _from_onnx(path, library, place, precision, preprocess, classes)
    except BaseException:
        if device is None:
            place.close()
        raise


def _from_onnx(
    path: Path,
    library: Library,
    place: Device,
    precision: str,
    preprocess: Preprocess | None,
    classes: Sequence[str] | None,
) -> TensorRTEngine:
    name = library.engine
    file = read_onnx(path)
    path = file.path
    card = choose_card(lambda: ModelCard.from_props(file.props, path), preprocess, classes)
    card = replace(card, precision=precision)
    with foreign_file(path, WeightsError, f"has a damaged card: {PROFILE}"):
        sizes = [int(size) for size in card.more.get(PROFILE, "1,1,16").split(",")]
        if len(sizes) != 3:
            raise ValueError("three batch sizes are needed")
    try:
        gpu = capability(place.name) if library.portable else place.name
        spec = PlanSpec(library, precision, BatchProfile(*sizes), gpu)
        ahead = plan_beside(path, library)
        if ahead.is_file():
            facts = {"onnx_sha256": sha256_file(path), "library": name, "precision": precision}
            try:
                if not is_plan_of(ahead, facts):
                    raise EngineUnavailable(
                        f"{name}: {ahead} is not of {path} as it is, in {precision}"
                    )
                return TensorRTEngine(ahead, library, card=card, device=place)
            except EngineUnavailable as error:
                _log.warning("%s; another plan is built", error)
        plan = provide_plan(path, path.parent / "plans", spec)
    except PlanError as error:
        raise EngineUnavailable(f"{name}: {error}") from error
    except OSError as error:
        raise EngineUnavailable(
            f"{name}: cannot keep a plan in {path.parent / 'plans'} ({error}); copy the model to "
            "a folder that can be written"
        ) from error
    return TensorRTEngine(plan, library, card=card, device=place)


def find_engine(name: str) -> EngineState:
    """The library, which TensorRT for RTX needs alone to build plans, and the GPU."""
    library = LIBRARIES[name]
    try:
        version = library.load().__version__
    except PlanError as error:
        return EngineState(name, missing=f"{name}: {error}")
    try:
        place = CudaDevice()
    except PlanError as error:
        builds = "; builds plans here (export.target=tensorrt-rtx)" if library.portable else ""
        return EngineState(name, version, missing=f"{name}: {error}{builds}")
    place.close()
    return EngineState(name, version, place.name)


def open_engine(name: str, wish: Wish) -> Engine:
    """TensorRT on the plan of ``wish``, or on its ONNX file, of which a plan is made."""
    library = LIBRARIES[name]
    # A plan beside an ONNX file without a note is TensorRT's own (``model.engine``).
    if wish.plan is not None and (wish.onnx is None or not library.portable):
        own = read_note(wish.plan).get("precision")
        if None not in (own, wish.precision) and own != wish.precision:
            raise EngineUnavailable(f"{name}: {wish.plan} is {own}, not {wish.precision}")
        return TensorRTEngine(wish.plan, library, preprocess=wish.preprocess, classes=wish.classes)
    return from_onnx(
        need_onnx(wish, name),
        library,
        precision=wish.precision or "fp32",
        preprocess=wish.preprocess,
        classes=wish.classes,
    )
