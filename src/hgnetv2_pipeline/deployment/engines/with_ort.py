"""ONNX Runtime: the default on a CPU, and the same file on an NVIDIA GPU (``ort-cuda``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
    need_onnx,
)
from hgnetv2_pipeline.deployment.export.onnx_graph import EMBEDDING
from hgnetv2_pipeline.deployment.onnx_session import LEFT_OUT, session_options
from hgnetv2_pipeline.deployment.time_limit import A_CALL, AN_IMAGE, time_limit
from hgnetv2_pipeline.deployment.timing.machine import clocks
from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.foreign import foreign_file, reason
from hgnetv2_pipeline.processor import cpu_name
from hgnetv2_pipeline.weights.onnx_file import OnnxFile, read_onnx

if TYPE_CHECKING:
    import onnxruntime

    from hgnetv2_pipeline.data.preprocess import Preprocess


class OrtEngine(Engine):
    """ONNX Runtime on the CPU."""

    name = "ort"
    _provider = "CPUExecutionProvider"

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        import onnxruntime

        file = read_onnx(path)
        path = file.path
        session = self._open(file, threads)
        card = choose_card(lambda: ModelCard.from_props(file.props, path), preprocess, classes)
        super().__init__(
            model=str(path),
            card=card,
            device=self._device(),
            threads=threads,
            versions={"onnxruntime": onnxruntime.__version__},
        )
        with foreign_file(path, WeightsError, "has unreadable inputs and outputs"):
            self.batch = _check_signature(session, card, path, named=classes is not None)
            self._input = session.get_inputs()[0].name
            given = {output.name: output.shape for output in session.get_outputs()}
            if EMBEDDING in given:
                self._embedding, self.embedding_size = (
                    list(given).index(EMBEDDING),
                    given[EMBEDDING][1],
                )
        self._session = session

    def _device(self) -> str:
        return cpu_name()

    def _providers(self) -> list[str | tuple[str, dict[str, str]]] | None:
        return [self._provider]

    def _prepare(self, options: onnxruntime.SessionOptions) -> None:
        """Set what the provider needs beyond its name."""

    @classmethod
    def need_provider(cls) -> None:
        """Raise EngineUnavailable unless this ONNX Runtime has the engine's provider."""
        import onnxruntime

        if cls._provider not in onnxruntime.get_available_providers():
            raise EngineUnavailable(
                f"{cls.name}: this onnxruntime has no {cls._provider} (it has "
                f"{', '.join(onnxruntime.get_available_providers())}); install onnxruntime-gpu in "
                "place of onnxruntime"
            )

    def _open(self, file: OnnxFile, threads: int) -> onnxruntime.InferenceSession:
        import onnxruntime

        self.need_provider()
        options = session_options(threads)
        self._prepare(options)
        try:
            session = onnxruntime.InferenceSession(
                file.content,
                sess_options=options,
                providers=self._providers(),
                disabled_optimizers=LEFT_OUT,
            )
        except Exception as error:  # the binding's own exception types have no common base
            message = reason(error)
            if " failure " in message and "GPU=" in message:  # as CUDA, cuDNN and cuBLAS report
                raise EngineUnavailable(
                    f"{self.name}: {self._provider} did not start ({message})"
                ) from error
            raise WeightsError(f"ONNX Runtime cannot read {file.path}: {message}") from error
        if session.get_providers()[0] != self._provider:
            # ONNX Runtime falls back to the CPU with a warning only.
            raise EngineUnavailable(
                f"{self.name}: {self._provider} did not start (missing CUDA or cuDNN libraries?); "
                f"ONNX Runtime offers {', '.join(session.get_providers())}"
            )
        return session

    def _run(self, images: np.ndarray) -> np.ndarray:
        return self._outputs(images)[0]

    def _run_both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self._outputs(images)
        return outputs[0], outputs[self._embedding]

    def _outputs(self, images: np.ndarray) -> list[np.ndarray]:
        import onnxruntime

        count = len(images)
        options, seconds = onnxruntime.RunOptions(), A_CALL + AN_IMAGE * count
        options.log_severity_level = 4  # what fails is reported once, by the exception
        with (
            foreign_file(self.model, WeightsError, f"cannot answer {count} images"),
            time_limit(options, seconds) as limit,
        ):
            try:
                return list(self._session.run(None, {self._input: images}, options))
            except Exception:
                if not limit.passed:
                    raise
                raise WeightsError(
                    f"{self.model} was stopped: no answer to {count} images within {seconds:g} "
                    "seconds"
                ) from None


class OrtCudaEngine(OrtEngine):
    """ONNX Runtime on an NVIDIA GPU: fp32 files without TF32 unless asked for, and fp16 files."""

    name = "ort-cuda"
    _provider = "CUDAExecutionProvider"

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
        tf32: bool = False,
    ) -> None:
        self._tf32 = tf32
        super().__init__(path, threads=threads, preprocess=preprocess, classes=classes)
        if tf32:
            self.card = replace(self.card, precision="tf32")

    def _providers(self) -> list[str | tuple[str, dict[str, str]]] | None:
        return [(self._provider, {"use_tf32": str(int(self._tf32))}), "CPUExecutionProvider"]

    def _device(self) -> str:
        return _gpu_name()


def _gpu_name() -> str:
    # ONNX Runtime does not tell; a measurement without the GPU's name is worth nothing.
    return clocks("cuda").get("name", "NVIDIA GPU of unknown name")


def _check_signature(
    session: onnxruntime.InferenceSession, card: ModelCard, path: Path, *, named: bool
) -> int | None:
    """The graph must take and give what the card says: one image input, one logits output.

    Returns the only batch size that it takes, None for any.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    size = card.preprocess.size
    shape = inputs[0].shape
    fits = len(inputs) == 1 and len(shape) == 4 and shape[1] == 3
    fits = fits and (not isinstance(shape[0], int) or 0 < shape[0] <= MOST_BATCH)
    edges = zip(shape[2:], size, strict=False)
    fits = fits and all(not isinstance(edge, int) or edge == own for edge, own in edges)
    if not fits:
        raise WeightsError(
            f"{path} takes {[(entry.name, entry.shape) for entry in inputs]}; expected one input "
            f"[batch, 3, {size[0]}, {size[1]}], as its preprocessing gives it, the batch free or 1 "
            f"to {MOST_BATCH}"
        )
    if len(outputs[0].shape) != 2 or not isinstance(outputs[0].shape[1], int):
        raise WeightsError(f"{path} gives {outputs[0].shape}; expected logits [batch, classes]")
    check_classes(card, outputs[0].shape[1], str(path), named=named)
    return shape[0] if isinstance(shape[0], int) else None


def find_engine(name: str) -> EngineState:
    """ONNX Runtime, and whether it has the provider of a GPU."""
    return state_of(name, OrtEngine if name == "ort" else OrtCudaEngine)


def state_of(name: str, kind: type[OrtEngine]) -> EngineState:
    """ONNX Runtime's version, and what the provider of ``kind`` finds or is missing."""
    import onnxruntime

    try:
        kind.need_provider()
    except EngineUnavailable as error:
        return EngineState(name, onnxruntime.__version__, missing=str(error))
    place = cpu_name() if name == "ort" else _gpu_name()
    return EngineState(name, onnxruntime.__version__, place)


def open_engine(name: str, wish: Wish) -> Engine:
    """ONNX Runtime on the ONNX file of ``wish``: ``ort``, or ``ort-cuda`` on an NVIDIA GPU."""
    path = need_onnx(wish, name)
    if name == "ort":
        return OrtEngine(
            path, threads=wish.threads, preprocess=wish.preprocess, classes=wish.classes
        )
    return OrtCudaEngine(
        path,
        threads=wish.threads,
        preprocess=wish.preprocess,
        classes=wish.classes,
        tf32=wish.precision == "tf32",
    )
