"""Where in an image the evidence for a class is: Grad-CAM, for our networks and timm's.

Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization" (ICCV 2017, arXiv:1610.02391): the channels of a feature map are weighted by the mean
gradient of the class's logit, summed, and what speaks against the class is cut off. A plain CAM,
which weights by the classifier's rows, would be wrong here: between the pooling and the classifier
of HGNetV2 are a convolution and a ReLU, which the gradient passes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

LEAST_SIDE = 4
"""Rows and columns that a feature map needs at least; a coarser one would show a blot."""


@dataclass(frozen=True)
class ActivationMaps:
    """``maps``: float32 [N, h, w] from 0 to 1, each divided by its maximum (0 where nothing speaks
    for the class). ``layer``: the name of the feature map in the network.
    """

    maps: NDArray[np.float32]
    layer: str

    def summary(self) -> dict[str, Any]:
        """How they were made, as JSON values."""
        _, rows, columns = self.maps.shape
        return {"method": "Grad-CAM", "layer": self.layer, "rows": rows, "columns": columns}


def grad_cam(network: nn.Module, images: Tensor, classes: Sequence[int]) -> ActivationMaps | None:
    """Grad-CAM of one class for each of ``images`` [N, 3, H, W], normalised and on its device.

    The feature map is the deepest of ``network.feature_info`` that has ``LEAST_SIDE`` rows and
    columns: that before the head, or of small images an earlier one. None for a network without
    such a map [N, C, h, w], as a vision transformer.
    """
    import torch

    found: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(_keeper(found, name))
        for name in _maps_of(network)
    ]
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = network(images.clone().requires_grad_())
            wide = [name for name, one in found.items() if min(one.shape[2:]) >= LEAST_SIDE]
            if not wide:
                return None
            layer = wide[-1]
            wanted = torch.as_tensor(classes, device=logits.device)
            score = logits.gather(1, wanted[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, found[layer], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    if gradient is None:
        return None
    weights = gradient.mean((2, 3), keepdim=True)
    maps = (weights * found[layer]).sum(1).clamp_min(0).detach()
    highest = maps.amax((1, 2), keepdim=True)
    scaled = torch.where(highest > 0, maps / highest.clamp_min(1e-30), 0)
    return ActivationMaps(scaled.float().cpu().numpy(), layer)


def _maps_of(network: nn.Module) -> list[str]:
    """The names of the modules whose outputs are feature maps, shallow first."""
    named = dict(network.named_modules())
    listed = getattr(network, "feature_info", None)
    names = [each.get("module") for each in listed] if isinstance(listed, list) else []
    return [name for name in names if name in named]


def _keeper(found: dict[str, Tensor], name: str) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if getattr(output, "ndim", 0) == 4:
            found[name] = output

    return keep


def overlay(view: NDArray[np.uint8], strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``view`` [H, W, 3] in grey with ``strength`` [h, w] from 0 to 1 over it in orange."""
    from PIL import Image

    height, width = view.shape[:2]
    heat = np.asarray(
        Image.fromarray(strength).resize((width, height), Image.Resampling.BILINEAR)
    )  # fmt: skip
    grey = np.asarray(Image.fromarray(view).convert("L"), dtype=np.float32)[..., None]
    share = 0.75 * heat.clip(0, 1)[..., None]
    orange = np.array([255, 120, 0], dtype=np.float32)
    return np.asarray(np.rint((1 - share) * grey + share * orange), dtype=np.uint8)
