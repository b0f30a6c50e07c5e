"""PyTorch on weights: run folders, weight files, zoo and timm names; on a GPU if it can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgnetv2_pipeline.data import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.base import (
    Engine,
    EngineUnavailable,
    check_classes,
    cpu_name,
    numbered_classes,
)
from hgnetv2_pipeline.models import build_from, profile, reparameterize
from hgnetv2_pipeline.models.hgnetv2 import Backbone


class TorchEngine(Engine):
    """A module in eval mode, channels_last, in true float32 (TF32 switched off for its calls).

    ``device``: ``cpu``, ``cuda``, ``cuda:1``; None = a GPU where there is one. The module is moved
    there and put in eval mode, in place. ``threads`` sets PyTorch's CPU threads for the process:
    PyTorch has no narrower switch.
    """

    name = "torch"

    def __init__(
        self,
        module: torch.nn.Module,
        card: ModelCard,
        *,
        model: str,
        device: str | None = None,
        threads: int = 0,
    ) -> None:
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineUnavailable(f"torch: device={device}, and PyTorch sees no NVIDIA GPU here")
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if threads:
            torch.set_num_threads(threads)
        super().__init__(
            model=model,
            card=card,
            device=torch.cuda.get_device_name(place) if place.type == "cuda" else cpu_name(),
            threads=threads or torch.get_num_threads(),
            versions={"torch": torch.__version__},
        )
        self._place = place
        # torch types `to` with a memory format as returning Any.
        self._module: Any = module.eval().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _run(self, images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(images).to(self._place, memory_format=torch.channels_last)
        with torch.inference_mode(), _true_float32(self._place):
            return np.asarray(self._module(batch).float().cpu().numpy())


class _true_float32:  # noqa: N801 - reads as a with-statement's phrase
    """TF32 off on a GPU for the duration; the process's own choice comes back."""

    def __init__(self, place: torch.device) -> None:
        self._cuda = place.type == "cuda"

    def __enter__(self) -> None:
        if self._cuda:
            self._before = (
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
            )
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *exc: object) -> None:
        if self._cuda:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def load_torch_engine(
    spec: str,
    *,
    threads: int = 0,
    root: Path | None = None,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    reparameterized: bool = True,
) -> TorchEngine:
    """The engine for whatever ``models.build_from`` takes (relative to ``root``).

    ``preprocess`` and ``classes`` replace what the weights say; where neither says anything it is
    the published preprocessing, and the class numbers. HGNetV2 and PPHGNet run reparameterised
    unless told not to. Raises what ``build_from`` raises.
    """
    module, info = build_from(spec, num_classes=None, root=Path() if root is None else root)
    if preprocess is None:
        preprocess = Preprocess.from_dict(info["preprocess"] or {})
    names = info["classes"] if classes is None else classes
    card = ModelCard(
        preprocess=preprocess,
        classes=tuple(names) if names else numbered_classes(info["num_classes"]),
        variant=info["variant"] or "",
        source_sha256=info["sha256"] or "",
        macs=profile(module, preprocess.crop).macs,
    )
    check_classes(card, info["num_classes"], spec)
    if reparameterized and isinstance(module, Backbone):
        module = reparameterize(module.eval())
    return TorchEngine(module, card, model=spec, device=device, threads=threads)
