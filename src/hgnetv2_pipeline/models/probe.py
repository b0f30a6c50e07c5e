"""A frozen network with a linear classifier on its features, at a resolution of its own."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from hgnetv2_pipeline.errors import ParameterError


class Probe(nn.Module):
    """Normalised images [N, 3, H, W] -> logits [N, num_classes].

    Args:
        trunk: normalised images [N, 3, size, size] -> features [N, num_features].
        num_features: columns of the features.
        num_classes: columns of the logits.
        size: side in pixels that images are resized to first, bicubic and antialiased; a student
            may so be taught by a network that looks closer than the student does.
    """

    def __init__(self, trunk: nn.Module, num_features: int, num_classes: int, *, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ParameterError(f"size {size}: a whole number of pixels from 1 (probe.size)")
        self.trunk, self.size, self.num_classes = trunk, size, num_classes
        self.fc = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Features [N, num_features] of normalised images of any size."""
        if x.shape[-2:] != (self.size, self.size):
            x = functional.interpolate(
                x, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            )
        features: Tensor = self.trunk(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits
