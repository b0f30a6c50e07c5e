"""Parts of a network that do not learn: the stem and the first stages, and every batch norm.

The count is detectron2's (``ResNet.freeze`` in detectron2/modeling/backbone/resnet.py): 1 is the
stem, 2 the stem and one stage. What other projects call the same is in docs/backbone.md.
"""

from __future__ import annotations

import logging

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models.hgnetv2 import Trunk

_log = logging.getLogger(__name__)

DEEPEST = 5  # the stem and the four stages


class FrozenBatchNorm2d(_NormBase):
    """``bn`` with its statistics, weight and bias fixed, in training mode as in inference mode.

    It takes over the tensors of ``bn`` under the names they had, ``num_batches_tracked`` included,
    so a state dict fits both; torchvision's layer of this name drops that one and makes buffers of
    weight and bias. It is no ``_BatchNorm``: what looks for those to change them
    (``SyncBatchNorm.convert_sync_batchnorm``, ``swa_utils.update_bn``) passes it by.
    """

    def __init__(self, bn: _BatchNorm) -> None:
        super().__init__(bn.num_features, bn.eps, bn.momentum)
        self.weight, self.bias = bn.weight, bn.bias
        self.running_mean, self.running_var = bn.running_mean, bn.running_var
        self.num_batches_tracked = bn.num_batches_tracked
        self.requires_grad_(False).train(bn.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def freeze(model: nn.Module, at: int = 0, norm: bool = False) -> nn.Module:
    """Fix the first ``at`` parts of ``model`` and, with ``norm``, every batch norm; return it.

    ``at`` 0 fixes nothing, 1 the stem, 2 the stem and stage 1, up to 5 for all but the classifier.
    Weights of a fixed part get no gradient and its batch norms keep their statistics, also after
    ``model.train()``. Freezing adds up: nothing that is fixed is let go. State dicts keep their
    names. Raises ``ParameterError`` for another ``at`` or a network that is not ours.
    """
    if not isinstance(model, Trunk):
        raise ParameterError(
            f"freeze takes an HGNetV2, a PPHGNet or a FeatureDict, not a {type(model).__name__}; "
            "give it the network before it becomes part of another"
        )
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at <= DEEPEST:
        raise ParameterError(
            f"freeze_at {at!r} is not one of 0 (nothing), 1 (the stem), 2 (the stem and stage 1) "
            f"to {DEEPEST} (the stem and all stages) (freeze(at=), create_model(freeze_at=))"
        )
    parts = [model.stem, *model.stages][:at]
    for part in parts:
        part.requires_grad_(False)
        _freeze_norms(part)
    if norm:
        _freeze_norms(model)
    if at or norm:
        _log.info(
            "frozen: %s; %s of %s parameters learn",
            " and ".join([f"the first {at} of stem and stages"] * (at > 0) + ["all BN"] * norm),
            f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
            f"{sum(p.numel() for p in model.parameters()):,}",
        )
    return model


def _freeze_norms(part: nn.Module) -> None:
    for module in list(part.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, FrozenBatchNorm2d(child))
