"""A network without its classifier, as the trunk of a detector or a segmentation network."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.hgnetv2 import Backbone, Trunk, check_out_indices


class FeatureDict(Trunk):
    """The stem and stages of ``model``, giving ``{"0": [N, C, H/4, W/4], ...}`` by stage number.

    That is what torchvision's ``FeaturePyramidNetwork`` takes. ``feature_channels`` and
    ``feature_strides`` are those of ``out_indices``. Layers are shared with ``model``, not copied;
    the classifier and stages beyond the deepest one asked for are left behind, so that no parameter
    goes without a gradient, which ``DistributedDataParallel`` refuses. Raises ``ParameterError``.
    """

    def __init__(self, model: Backbone, out_indices: Iterable[int] = (0, 1, 2, 3)) -> None:
        if not isinstance(model, Backbone):
            raise ParameterError(
                f"FeatureDict takes an HGNetV2 or a PPHGNet, not a {type(model).__name__}; give it "
                "what create_model, build_from or reparameterize made of one"
            )
        indices = check_out_indices(out_indices, len(model.stages))
        super().__init__(model.stem, model.stages[: indices[-1] + 1])
        self.out_indices = indices
        self.feature_channels = tuple(model.feature_channels[i] for i in indices)
        self.feature_strides = tuple(model.feature_strides[i] for i in indices)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of normalised images [N, 3, H, W], shallow first."""
        maps = self.features(x, self.out_indices)
        return {str(index): one for index, one in zip(self.out_indices, maps, strict=True)}
