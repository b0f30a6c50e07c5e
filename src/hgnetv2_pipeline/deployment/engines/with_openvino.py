"""OpenVINO on the CPU: float32, bf16 on processors that compute in it, and INT8 files."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import MOST_BATCH
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    Wish,
    check_classes,
    choose_card,
    in_batches,
    need_onnx,
)
from hgnetv2_pipeline.deployment.export.onnx_graph import EMBEDDING
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file, reason
from hgnetv2_pipeline.processor import computes_bf16, cpu_name, describe, sums_int8_exactly
from hgnetv2_pipeline.weights.onnx_file import read_onnx

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess


@functools.cache
def _core(openvino: Any) -> Any:
    """The library at work, once for the whole process: it must never be destroyed.

    Its CPU plugin gives the thread that loads it a stack for signal handlers of its own, and when
    it is destroyed in another thread unmaps that stack and leaves it registered: the next signal
    that the first thread handles ends the process.
    """
    return openvino.Core()


class OpenVinoEngine(Engine):
    """OpenVINO's CPU plugin on an ONNX file: fp32, the same file in bf16, or an int8 file.

    Compiled for a fixed ``batch_size`` it is up to 7 % faster than for any; other numbers of images
    then run in batches of that size, the last one filled up.
    """

    name = "openvino"

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        precision: str = "fp32",
        batch_size: int | None = None,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        openvino = _import_openvino()
        file = read_onnx(path)
        path = file.path
        card = choose_card(lambda: ModelCard.from_props(file.props, path), preprocess, classes)
        core = _core(openvino)
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in able:
            raise EngineUnavailable(
                f"openvino: this processor does not compute in bf16 (it has {', '.join(able)})"
            )
        # Left alone, OpenVINO takes bf16 wherever the processor has it; fp32 must be asked for.
        config: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(io.BytesIO(file.content))
            given = model.input(0).get_partial_shape()[0]
            if given.is_static:
                self.batch = batch_size = given.get_length()
                if not 0 < batch_size <= MOST_BATCH:
                    raise ValueError(f"it takes batches of {batch_size}, not of 1 to {MOST_BATCH}")
            elif batch_size is not None:
                model.reshape([batch_size, *model.input(0).get_partial_shape()[1:]])
            compiled = core.compile_model(model, "CPU", config)
        except Exception as error:
            raise WeightsError(f"OpenVINO cannot read {path}: {reason(error)}") from error
        if precision == "bf16":
            card = replace(card, precision="bf16")
        super().__init__(
            model=str(path),
            card=card,
            device=str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            threads=threads,
            versions={"openvino": openvino.__version__},
        )
        with foreign_file(path, WeightsError, "gives no logits [batch, classes]"):
            outputs = compiled.output(0).get_partial_shape()[1].get_length()
        check_classes(card, outputs, str(path), named=classes is not None)
        names = [output.get_any_name() for output in compiled.outputs]
        if EMBEDDING in names:
            self._embedding = names.index(EMBEDDING)
            width = compiled.output(self._embedding).get_partial_shape()[1]
            self.embedding_size = width.get_length()
        self._request, self._compiled_for = compiled.create_infer_request(), batch_size

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self._outputs(images, (0,))[0]

    def _run_both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = self._outputs(images, (0, self._embedding))
        return logits, embeddings

    def _outputs(self, images: np.ndarray, numbers: Sequence[int]) -> list[np.ndarray]:
        return in_batches(lambda batch: self._infer(batch, numbers), images, self._compiled_for)

    def _infer(self, images: np.ndarray, numbers: Sequence[int]) -> list[np.ndarray]:
        with foreign_file(self.model, WeightsError, f"cannot answer {len(images)} images"):
            # share_inputs saves a copy; the result is copied: the request reuses its memory.
            result = self._request.infer([images], share_inputs=True)
            return [np.array(result[number], np.float32) for number in numbers]


def _import_openvino() -> Any:
    """OpenVINO without its telemetry.

    ``import openvino`` reports itself to Google Analytics without asking; where the package that
    does it cannot be imported, OpenVINO takes a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def find_engine(name: str) -> EngineState:
    """OpenVINO's version on this processor."""
    return EngineState(name, str(_import_openvino().__version__).partition("-")[0], cpu_name())


def open_engine(name: str, wish: Wish) -> Engine:
    """OpenVINO on the ONNX file of ``wish``, where the processor computes its precision right."""
    path = need_onnx(wish, name)
    if wish.auto and wish.precision == "fp32":
        # Level at batch 1; beyond, which of the two is faster depends on the processor, and the
        # same file must not give other last bits because a machine was timed otherwise.
        raise EngineUnavailable("openvino: taken for bf16 and int8; in fp32 ask for it")
    if wish.precision == "int8" and sums_int8_exactly() is False:
        # Also with weights of 7 bits, which leave room for the sums: where a Concat feeds a
        # convolution it loses the offset of 128 that stands for signed values (version 2026.4).
        raise EngineUnavailable(
            f"openvino: this processor, {describe()}, adds 8-bit products in 16 bits, and "
            "OpenVINO's int8 answers are wrong on it; take engine ort or precision fp32"
        )
    if wish.precision == "bf16" and computes_bf16() is False:
        raise EngineUnavailable(f"openvino: this processor, {describe()}, does not compute in bf16")
    return OpenVinoEngine(
        path,
        threads=wish.threads,
        precision=wish.precision or "fp32",
        batch_size=wish.batch_size,
        preprocess=wish.preprocess,
        classes=wish.classes,
    )
