"""PyTorch on weights: run folders, weight files, zoo and timm names; on a GPU if it can.

Three modes: eager; compiled by ``torch.compile``; and a CUDA graph, in which a GPU is given all
kernels of the network at once instead of one after the other by Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard, task_entries
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineState,
    EngineUnavailable,
    Wish,
    check_classes,
    numbered_classes,
)
from hgnetv2_pipeline.deployment.timing.stopwatch import Call, CudaStopwatch, Stopwatch
from hgnetv2_pipeline.devices import found_device
from hgnetv2_pipeline.errors import unknown_name
from hgnetv2_pipeline.models.cost import measure_cost
from hgnetv2_pipeline.models.fold import reparameterize
from hgnetv2_pipeline.models.hgnetv2 import Backbone
from hgnetv2_pipeline.processor import computes_bf16, cpu_name, describe
from hgnetv2_pipeline.weights.build import build_from

NAMES = {"eager": "torch", "compiled": "torch-compiled", "cuda-graph": "torch-cuda-graph"}
"""Mode to engine name."""
KINDS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Precision to the type of weights and activations."""
_SHAPES = 4  # captured graphs kept, each with its own memory


class TorchEngine(Engine):
    """A module in eval mode, channels_last, in the card's precision; float32 in and out.

    fp32 is true float32: TF32 is switched off for its calls, tf32 switches it on. ``device``:
    ``cpu``, ``cuda``, ``cuda:1``; None = a GPU where there is one. ``mode``: ``eager``;
    ``compiled`` (on a GPU captured as a graph besides); ``cuda-graph``, which needs a GPU. Both
    prepare themselves at the first batch of a shape. The module is moved, cast and put in eval
    mode in place. ``threads`` sets PyTorch's CPU threads for the process: PyTorch has no narrower
    switch. ``tune`` lets cuDNN time its algorithms at a new shape (seconds, and the choice may
    differ from run to run); ``channels_last`` false keeps NCHW.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        card: ModelCard,
        *,
        model: str,
        device: str | None = None,
        threads: int = 0,
        mode: str = "eager",
        tune: bool = False,
        channels_last: bool = True,
    ) -> None:
        if mode not in NAMES:
            raise unknown_name("mode", mode, NAMES, "mode=...")
        if card.precision not in KINDS:
            raise unknown_name("precision", card.precision, KINDS, "precision=...")
        self.name = NAMES[mode]
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(
                f"{self.name}: device={device}, and PyTorch sees no NVIDIA GPU here"
            )
        place = torch.device(device or found_device())
        for wish in (card.precision, mode):
            if wish in ("tf32", "cuda-graph") and place.type != "cuda":
                raise EngineUnavailable(f"{self.name}: {wish} needs an NVIDIA GPU, not a CPU")
        if threads:
            torch.set_num_threads(threads)
        super().__init__(
            model=model,
            card=card,
            device=torch.cuda.get_device_name(place) if place.type == "cuda" else cpu_name(),
            threads=threads or torch.get_num_threads(),
            versions={"torch": torch.__version__, **_gpu_versions(place)},
        )
        self._place, self._tune = place, tune
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._kind = KINDS[card.precision]
        # torch types `to` with a memory format as returning Any.
        self._module: Any = module.eval().to(place, self._kind, memory_format=self._layout)  # type: ignore[call-overload]
        self._body: Callable[[Tensor], Tensor] = (
            torch.compile(self._module, dynamic=False) if mode == "compiled" else self._module
        )
        if hasattr(module, "forward_head"):  # ours and timm's
            width = getattr(module, "head_hidden_size", None) or module.num_features
            self.embedding_size = int(width)  # type: ignore[arg-type]
        self._captures = mode != "eager" and place.type == "cuda"
        self._graphs: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}

    @property
    def place(self) -> str:
        """Where the arithmetic is done: ``cpu`` or ``cuda``."""
        return str(self._place.type)

    def stopwatch(self) -> Stopwatch:
        """On a GPU with its events."""
        if self._place.type != "cuda":
            return super().stopwatch()
        return CudaStopwatch(torch.cuda.current_stream(self._place))

    def resident(self, images: np.ndarray) -> Call | None:
        """The model on images already on the GPU; None on a CPU."""
        if self._place.type != "cuda":
            return None
        if self._captures:
            graph, given, _ = self._graph(images.shape)
            given.copy_(torch.from_numpy(images))
            return graph.replay  # type: ignore[no-any-return]
        batch = torch.from_numpy(images).to(self._place)
        return lambda: self._forward(batch)

    def _run(self, images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images)
        if not self._captures:
            return np.asarray(self._forward(batch.to(self._place)).cpu().numpy())
        graph, given, answer = self._graph(images.shape)
        given.copy_(batch)
        graph.replay()
        return np.asarray(answer.cpu().numpy())

    def _run_both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In eager mode, whatever the mode of ``logits``."""
        batch = torch.from_numpy(images).to(self._place)
        with torch.inference_mode(), self._arithmetic():
            features = self._module.forward_features(
                batch.to(self._kind, memory_format=self._layout)
            )
            embeddings = self._module.forward_head(features, pre_logits=True)
            logits = self._module.forward_head(features)
        both = [answer.float().cpu().numpy() for answer in (logits, embeddings)]
        return both[0], both[1]

    def _forward(self, batch: Tensor) -> Tensor:
        """float32 logits of float32 NCHW images; the change of layout and type is part of it."""
        try:
            with torch.inference_mode(), self._arithmetic():
                return self._body(batch.to(self._kind, memory_format=self._layout)).float()
        except torch.OutOfMemoryError as error:
            message = str(error).splitlines()[0]
            raise EngineUnavailable(
                f"{self.name}: no memory for a batch of {len(batch)} ({message})"
            ) from error

    def _graph(self, shape: tuple[int, ...]) -> tuple[Any, Tensor, Tensor]:
        """(graph, its input, its output) for batches of ``shape``, captured when first asked."""
        if shape not in self._graphs:
            while len(self._graphs) >= _SHAPES:
                self._graphs.pop(next(iter(self._graphs)))
            given = torch.zeros(shape, device=self._place)
            # A capture may not hold what a first run does: choosing algorithms, compiling.
            aside = torch.cuda.Stream(self._place)
            aside.wait_stream(torch.cuda.current_stream(self._place))
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._forward(given)
            torch.cuda.current_stream(self._place).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Its own default stream belongs to the GPU that was current at its first use.
            with torch.cuda.graph(graph, stream=aside):
                answer = self._forward(given)
            self._graphs[shape] = graph, given, answer
        return self._graphs[shape]

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """TF32 and cuDNN's choice as asked, for the duration; the process's own come back."""
        if self._place.type != "cuda":
            yield
            return
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
        matmul.allow_tf32 = cudnn.allow_tf32 = self.precision == "tf32"
        cudnn.benchmark = self._tune
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._graphs.clear()


def _gpu_versions(place: torch.device) -> dict[str, str]:
    if place.type != "cuda":
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def load_torch_engine(
    spec: str,
    *,
    threads: int = 0,
    root: Path | None = None,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    mode: str = "eager",
    precision: str = "fp32",
) -> TorchEngine:
    """The engine for whatever ``models.build_from`` takes (relative to ``root``).

    ``preprocess`` and ``classes`` replace what the weights say; where neither says anything it is
    the published preprocessing, and the class numbers. HGNetV2 and PPHGNet run reparameterised.
    Raises what ``build_from`` raises.
    """
    module, info = build_from(spec, num_classes=None, root=Path() if root is None else root)
    if preprocess is None:
        preprocess = Preprocess.from_dict(info["preprocess"] or {})
    names = info["classes"] if classes is None else classes
    cost = measure_cost(module, preprocess.crop)
    card = ModelCard(
        preprocess=preprocess,
        classes=tuple(names) if names else numbered_classes(info["num_classes"]),
        variant=info["variant"] or "",
        precision=precision,
        source_sha256=info["sha256"] or "",
        macs=cost.macs,
        params=cost.params,
        activations=cost.activations,
        more=task_entries(info),
    )
    check_classes(card, info["num_classes"], spec, named=classes is not None)
    if isinstance(module, Backbone):
        module = reparameterize(module.eval())
    return TorchEngine(module, card, model=spec, device=device, threads=threads, mode=mode)


def find_engine(name: str) -> EngineState:
    """PyTorch, and the GPU that it sees."""
    if torch.cuda.is_available():
        return EngineState(name, torch.__version__, torch.cuda.get_device_name())
    missing = "" if name != NAMES["cuda-graph"] else f"{name}: PyTorch sees no NVIDIA GPU here"
    return EngineState(name, torch.__version__, "" if missing else cpu_name(), missing)


def open_engine(name: str, wish: Wish) -> Engine:
    """PyTorch on the weights that ``wish`` names, in the mode of ``name``."""
    if wish.onnx is not None or wish.plan is not None:
        raise EngineUnavailable(
            f"{name}: runs weights (a run folder, .safetensors, .pdparams, a zoo name, "
            f"timm:<name>), and {wish.spec} is an exported model"
        )
    if (
        wish.auto
        and wish.precision in ("bf16", "fp16")
        and computes_bf16() is False
        and not _on_gpu(wish.device)
    ):
        raise EngineUnavailable(
            f"{name}: {wish.precision} is several times slower than fp32 on this processor, "
            f"{describe()}; take precision fp32, or ask for engine {name}"
        )
    return load_torch_engine(
        wish.spec,
        threads=wish.threads,
        root=wish.root,
        preprocess=wish.preprocess,
        classes=wish.classes,
        device=wish.device,
        mode=next(mode for mode, engine in NAMES.items() if engine == name),
        precision=wish.precision or "fp32",
    )


def _on_gpu(device: str | None) -> bool:
    return device != "cpu" and torch.cuda.is_available()
