"""ONNX Runtime: the default on a CPU, and the same file on an NVIDIA GPU (``ort-cuda``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineUnavailable,
    check_classes,
    choose_card,
)
from hgnetv2_pipeline.deployment.machine import clocks, cpu_name
from hgnetv2_pipeline.deployment.onnx_wire import external_tensors
from hgnetv2_pipeline.errors import WeightsError

if TYPE_CHECKING:
    import onnxruntime

    from hgnetv2_pipeline.data import Preprocess


def refuse_external_data(path: Path) -> None:
    """Raise WeightsError when tensors of the ONNX file ``path`` lie in other files.

    Such a file may name any path of the reader's disk, and is not what its hash says it is.
    """
    outside = external_tensors(path)
    if outside:
        raise WeightsError(
            f"{path} keeps {len(outside)} tensors in other files (first: {outside[0]}); only "
            "single-file ONNX models are read: save it again with its data inside"
        )


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

        path = Path(path)
        refuse_external_data(path)
        session = self._open(path, threads)
        given = session.get_modelmeta().custom_metadata_map
        card = choose_card(lambda: ModelCard.from_props(given, path), preprocess, classes)
        super().__init__(
            model=str(path),
            card=card,
            device=self._device(),
            threads=threads,
            versions={"onnxruntime": onnxruntime.__version__},
        )
        _check_signature(session, card, path)
        self._session = session
        self._input = session.get_inputs()[0].name

    def _device(self) -> str:
        return cpu_name()

    def _providers(self) -> list[str | tuple[str, dict[str, str]]]:
        return [self._provider]

    def _open(self, path: Path, threads: int) -> onnxruntime.InferenceSession:
        import onnxruntime

        if self._provider not in onnxruntime.get_available_providers():
            raise EngineUnavailable(
                f"{self.name}: this onnxruntime has no {self._provider} (it has "
                f"{', '.join(onnxruntime.get_available_providers())}); install onnxruntime-gpu in "
                "place of onnxruntime"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # What goes wrong is raised; its own log would write the file's names to the terminal raw.
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=self._providers()
            )
        except Exception as error:  # the binding's own exception types have no common base
            reason = " ".join(str(error).split())
            if " failure " in reason and "GPU=" in reason:  # as CUDA, cuDNN and cuBLAS report
                raise EngineUnavailable(
                    f"{self.name}: {self._provider} did not start ({reason[:300]})"
                ) from error
            raise WeightsError(f"ONNX Runtime cannot read {path}: {reason[:300]}") from error
        if session.get_providers()[0] != self._provider:
            # ONNX Runtime falls back to the CPU with a warning only.
            raise EngineUnavailable(
                f"{self.name}: {self._provider} did not start (missing CUDA or cuDNN libraries?); "
                f"ONNX Runtime offers {', '.join(session.get_providers())}"
            )
        return session

    def _run(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._session.run(None, {self._input: images})[0]
        return logits


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

    def _providers(self) -> list[str | tuple[str, dict[str, str]]]:
        return [(self._provider, {"use_tf32": str(int(self._tf32))}), "CPUExecutionProvider"]

    def _device(self) -> str:
        # ONNX Runtime does not tell; a measurement without the GPU's name is worth nothing.
        return clocks("cuda").get("name", "NVIDIA GPU of unknown name")


def _check_signature(session: onnxruntime.InferenceSession, card: ModelCard, path: Path) -> None:
    """The graph must take and give what the card says: one image input, one logits output."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    side = card.preprocess.crop
    shape = inputs[0].shape
    fits = len(inputs) == 1 and len(shape) == 4 and shape[1] == 3 and not isinstance(shape[0], int)
    fits = fits and all(not isinstance(edge, int) or edge == side for edge in shape[2:])
    if not fits:
        raise WeightsError(
            f"{path} takes {[(entry.name, entry.shape) for entry in inputs]}; expected one input "
            f"[batch, 3, {side}, {side}] with a free batch size, as its preprocessing gives it"
        )
    if len(outputs[0].shape) != 2 or not isinstance(outputs[0].shape[1], int):
        raise WeightsError(f"{path} gives {outputs[0].shape}; expected logits [batch, classes]")
    check_classes(card, outputs[0].shape[1], str(path))
