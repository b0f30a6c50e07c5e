"""The interface of every engine: images in, logits out, and what it is that runs."""

from __future__ import annotations

import importlib.util
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.choices import GPU_ENGINES
from hgnetv2_pipeline.deployment.timing.stopwatch import Call, HostStopwatch, Stopwatch
from hgnetv2_pipeline.errors import ParameterError, WeightsError

if TYPE_CHECKING:
    from hgnetv2_pipeline.data.preprocess import Preprocess
    from hgnetv2_pipeline.deployment.predict import Record


HINTS = {
    "tensorrt": "pip install 'tensorrt>=10.3,<12' 'cuda-bindings>=12.8' on a machine with an "
    "NVIDIA GPU",
    "tensorrt_rtx_bindings": "pip install tensorrt-rtx-cu12-bindings tensorrt-rtx-cu12-libs "
    "'cuda-bindings>=12.8'; for CUDA 13 the same with cu13",
    "cuda": "pip install 'cuda-bindings>=12.8' on a machine with an NVIDIA GPU",
    "onnxruntime_ep_nv_tensorrt_rtx": "pip install onnxruntime-ep-nv-tensorrt-rtx-cu12, or "
    "onnxruntime-ep-nv-tensorrt-rtx-cu13 for CUDA 13",
    "openvino": "pip install openvino",
    "onnxruntime": "pip install onnxruntime",
    "executorch": "pip install 'executorch>=1.5,<2' torchao",
    "torchao": "pip install 'executorch>=1.5,<2' torchao",
    "ncnn": "pip install ncnn pnnx",
    "pnnx": "pip install ncnn pnnx",
    "torch": "pip install torch",
}


class EngineUnavailable(ParameterError):
    """An engine cannot run this model on this machine; the message is one line with the reason."""


class NoEmbeddings(EngineUnavailable):  # noqa: N818 - one of its kinds
    """Embeddings were asked for, and the model gives none on this engine."""


@dataclass(frozen=True)
class EngineState:
    """What an engine finds here: its library's version, the processor, and what is missing."""

    engine: str
    version: str = ""
    device: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Wish:
    """What ``load_engine`` was asked for, as each rung's opener sees it."""

    spec: str
    onnx: Path | None
    plan: Path | None  # or a file of a device engine
    own: str  # precision of the ONNX file
    auto: bool
    threads: int
    precision: str | None
    batch_size: int | None
    device: str | None
    root: Path | None
    preprocess: Preprocess | None
    classes: Sequence[str] | None
    embeddings: bool = False  # asked for beside the logits


def need(module: str, engine: str) -> None:
    """Raise EngineUnavailable unless ``module`` is installed; it is not imported for that."""
    if importlib.util.find_spec(module) is None:
        raise EngineUnavailable(
            f"{engine}: {module} is not installed ({HINTS.get(module, f'pip install {module}')})"
        )


def need_onnx(wish: Wish, engine: str) -> Path:
    if wish.onnx is None:
        raise EngineUnavailable(f"{engine}: runs ONNX files, and {wish.spec} is none; export first")
    return wish.onnx


class Engine(ABC):
    """A loaded model. Subclasses implement ``_run`` for a checked float32 batch.

    name: one of ``choices.ENGINES``; model: what was loaded (path or name);
    device: the processor in words; threads: CPU threads, 0 = the library's own choice;
    versions: of the libraries in play; card: preprocessing, classes, variant, precision, MACs.
    """

    name: str
    embedding_size: int | None = None
    """How wide the embeddings are that it gives; None: it gives none."""
    batch: int | None = None
    """The only batch size that its file takes; other numbers of images are run in such batches, the
    last one filled up. None: any."""

    def __init__(
        self,
        *,
        model: str,
        card: ModelCard,
        device: str,
        threads: int = 0,
        versions: dict[str, str] | None = None,
    ) -> None:
        self.model, self.card, self.device, self.threads = model, card, device, threads
        self.versions = {"python": platform.python_version(), **(versions or {})}

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes this model's input."""
        return self.card.preprocess

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return list(self.card.classes)

    @property
    def precision(self) -> str:
        """Precision of the arithmetic: fp32, tf32, bf16, fp16 or int8."""
        return self.card.precision

    @property
    def place(self) -> str:
        """Where the arithmetic is done: ``cpu`` or ``cuda``."""
        return "cuda" if self.name in GPU_ENGINES else "cpu"

    def stopwatch(self) -> Stopwatch:
        """What times this engine's calls; an engine on a GPU has that one's own clock as well."""
        return HostStopwatch()

    def resident(self, images: np.ndarray) -> Call | None:
        """A call that runs the model on ``images`` put on the GPU beforehand, leaves the logits
        there and does not wait for them; None where nothing has to be copied.
        """
        return None

    @abstractmethod
    def _run(self, images: np.ndarray) -> np.ndarray:
        """Logits of a non-empty, contiguous float32 batch of the right shape."""

    def _run_both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embeddings, of a batch as for ``_run``; of engines with an embedding_size."""
        raise self._no_embeddings()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, classes], of preprocessed images, float32 [N, 3, height, width]."""
        images = self._checked(images)
        if len(images) == 0:
            return np.empty((0, len(self.card.classes)), np.float32)
        (logits,) = in_batches(lambda batch: [self._run(batch)], images, self.batch)
        return self._checked_logits(logits, len(images))

    def logits_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``logits``, and float32 [N, embedding_size]; ``require_embeddings`` says who has them."""
        self.require_embeddings()
        images = self._checked(images)
        if len(images) == 0:
            return self.logits(images), np.empty((0, self.embedding_size or 0), np.float32)
        logits, embeddings = in_batches(self._run_both, images, self.batch)
        if embeddings.shape != (len(images), self.embedding_size):
            raise WeightsError(
                f"{self.model} gave {list(embeddings.shape)} for {len(images)} images; expected "
                f"embeddings [{len(images)}, {self.embedding_size}]"
            )
        return self._checked_logits(logits, len(images)), embeddings

    def require_embeddings(self) -> None:
        """Raise EngineUnavailable unless this model gives embeddings on this engine."""
        if self.embedding_size is None:
            raise self._no_embeddings()

    def _no_embeddings(self) -> EngineUnavailable:
        return NoEmbeddings(
            f"{self.name}: {self.model} gives no embeddings; export it again with "
            "export.embedding=true, or name its weights"
        )

    def require_batch(self, batch_size: int) -> None:
        """Raise EngineUnavailable where batches of that size would run as batches of another."""
        if self.batch not in (None, batch_size):
            raise EngineUnavailable(
                f"{self.name}: {self.model} takes batches of {self.batch} alone, and batch size "
                f"{batch_size} was asked for (export.batch)"
            )

    def _checked(self, images: np.ndarray) -> np.ndarray:
        height, width = self.preprocess.size
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (3, height, width) or images.dtype != np.float32:
            raise ParameterError(
                f"{self.name} was given {images.dtype}{list(images.shape)}; this model takes "
                f"float32[N, 3, {height}, {width}], as Preprocess makes it"
            )
        return np.ascontiguousarray(images)

    def _checked_logits(self, logits: np.ndarray, count: int) -> np.ndarray:
        if logits.shape != (count, len(self.card.classes)):
            raise WeightsError(
                f"{self.model} gave {list(logits.shape)} for {count} images; expected logits "
                f"[{count}, {len(self.card.classes)}]"
            )
        return logits

    __call__ = logits

    def predict(
        self, inputs: Any, topk: int = 5, *, batch_size: int = 16, root: Path | None = None
    ) -> list[Record]:
        """Top-k classes for every input: a file, folder, list file, glob, bytes, PIL image or a
        sequence of those. See ``deployment.predict.predict_paths``.
        """
        from hgnetv2_pipeline.deployment.predict import predict_paths

        return predict_paths(self, inputs, topk=topk, batch_size=batch_size, root=root)

    def check_answers(self) -> None:
        """Run the self-test that the file carries, if it has one.

        Raises EngineUnavailable when the logits are further off than the engine's precision
        explains: it computes this file wrongly on this machine.
        """
        wrong = self.card.wrong_answers(self.logits, self.precision)
        if wrong:
            raise EngineUnavailable(
                f"{self.name}: computes {self.model} wrongly on {self.device}: its "
                f"{self.precision} {wrong}; take another engine or precision"
            )

    def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Give device memory back; the engine is of no use afterwards."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def in_batches(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], images: np.ndarray, size: int | None
) -> list[np.ndarray]:
    """The outputs of ``run`` for all ``images``, given to it ``size`` at a time (None: at once).

    The last batch is filled up with zeros, whose outputs are left out.
    """
    if size in (None, len(images)):
        return list(run(images))
    rest = -len(images) % size
    filled = np.concatenate([images, np.zeros((rest, *images.shape[1:]), np.float32)])
    parts = [run(filled[at : at + size]) for at in range(0, len(filled), size)]
    return [np.concatenate(of_one)[: len(images)] for of_one in zip(*parts, strict=True)]


def check_classes(card: ModelCard, outputs: int, model: str, *, named: bool) -> None:
    """Raise unless the card names exactly ``outputs`` classes.

    ``named``: the caller gave the names (ParameterError); else the file did (WeightsError).
    """
    if len(card.classes) == outputs:
        return
    message = f"{model} has {outputs} outputs and {len(card.classes)} class names are given"
    if named:
        raise ParameterError(f"{message} (classes=)")
    raise WeightsError(f"{message} by its own card (labels.txt or the metadata of the file)")


def numbered_classes(count: int) -> tuple[str, ...]:
    """Class names for a model that has none: its class numbers."""
    return tuple(str(number) for number in range(count))


def choose_card(
    read: Callable[[], ModelCard], preprocess: Preprocess | None, classes: Sequence[str] | None
) -> ModelCard:
    """The file's own card with the caller's preprocessing and class names in place of its own.

    A file without a card needs both of them from the caller; otherwise its WeightsError is raised.
    """
    try:
        card = read()
    except WeightsError:
        if preprocess is None or classes is None:
            raise
        return ModelCard(preprocess=preprocess, classes=tuple(classes))
    other = preprocess is not None and preprocess != card.preprocess
    return replace(
        card,
        preprocess=card.preprocess if preprocess is None else preprocess,
        self_test=None if other else card.self_test,  # it is of images as the file's own makes them
        classes=card.classes if classes is None else tuple(classes),
    )
