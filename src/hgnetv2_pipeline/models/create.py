"""A network by name, with fresh weights."""

from __future__ import annotations

from torch import nn

from hgnetv2_pipeline.errors import ParameterError, unknown_name
from hgnetv2_pipeline.models.frozen import freeze
from hgnetv2_pipeline.models.hgnet import HGNet
from hgnetv2_pipeline.models.hgnetv2 import Backbone, HGNetV2
from hgnetv2_pipeline.variants import (
    HGNET_SIZES,
    VARIANTS,
    PoolPadding,
    meant_variant,
    variant_name,
)


def create_model(
    variant: str,
    num_classes: int = 1000,
    *,
    dropout: float | None = None,
    pool_padding: PoolPadding = "exclude",
    freeze_at: int = 0,
    freeze_norm: bool = False,
    in_chans: int = 3,
    inplace: bool = True,
) -> Backbone:
    """The network ``variant`` with fresh weights: 'b0'..'b6', 'hgnet_tiny', '_small', '_base'.

    timm's and PaddleClas's names for them do too (hgnetv2_b4, PPHGNetV2_B4). Images go in as
    float32 [N, in_chans, H, W], normalised, H and W at least 32; logits come out as
    [N, num_classes], embeddings [N, 2048] where ``num_classes`` is 0. ``dropout`` None is the
    published value (0.2 for hgnet_base, else 0). ``pool_padding='zero'`` gives B0-B3 timm's border.
    ``freeze_at`` (0 to 5) and ``freeze_norm`` are those of ``freeze``; weights loaded later stay
    fixed too. Weights for three channels fit any ``in_chans``: loading adapts the first convolution
    and says so. ``inplace`` false keeps what ReLU was given, which full backward hooks on single
    layers need. Raises ``ParameterError``.
    """
    if isinstance(in_chans, bool) or not isinstance(in_chans, int) or in_chans < 1:
        raise ParameterError(
            f"in_chans {in_chans!r} is not a whole number above 0 (create_model(in_chans=...))"
        )
    variant = variant_name(variant)
    model: Backbone
    if variant in VARIANTS:
        model = HGNetV2(
            VARIANTS[variant], num_classes, dropout=dropout or 0.0, pool_padding=pool_padding,
            in_chans=in_chans,
        )  # fmt: skip
    elif variant in HGNET_SIZES:
        model = HGNet(HGNET_SIZES[variant], num_classes, dropout=dropout, in_chans=in_chans)
    else:
        raise unknown_name(
            "variant", variant, [*VARIANTS, *HGNET_SIZES],
            "create_model(NAME), --params variant=NAME", meant=meant_variant(variant),
        )  # fmt: skip
    model.variant = variant
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    freeze(model, at=freeze_at, norm=freeze_norm)
    return model
