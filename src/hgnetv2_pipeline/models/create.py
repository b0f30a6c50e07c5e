"""A network by name, with fresh weights."""

from __future__ import annotations

from hgnetv2_pipeline.errors import unknown_name
from hgnetv2_pipeline.models.frozen import freeze
from hgnetv2_pipeline.models.hgnet import HGNET_SIZES, HGNet
from hgnetv2_pipeline.models.hgnetv2 import Backbone, HGNetV2
from hgnetv2_pipeline.variants import VARIANTS, PoolPadding, variant_name


def create_model(
    variant: str,
    num_classes: int = 1000,
    *,
    dropout: float | None = None,
    pool_padding: PoolPadding = "exclude",
    freeze_at: int = 0,
    freeze_norm: bool = False,
) -> Backbone:
    """The network ``variant`` with fresh weights: 'b0'..'b6', 'hgnet_tiny', '_small', '_base'.

    timm's and PaddleClas's names (``hgnetv2_b4``, ``PPHGNetV2_B4``) are understood too.
    Images go in as float32 [N, 3, H, W], normalised, H and W at least 32; logits come out as
    [N, num_classes]. ``dropout`` None is the published value (0.2 for hgnet_base, else 0).
    ``pool_padding='zero'`` gives B0-B3 timm's border. ``freeze_at`` (0 to 5) and ``freeze_norm``
    are those of ``freeze``; weights loaded later stay fixed too. Raises ``ParameterError``.
    """
    model: Backbone
    variant = variant_name(variant)
    if variant in VARIANTS:
        model = HGNetV2(
            VARIANTS[variant], num_classes, dropout=dropout or 0.0, pool_padding=pool_padding
        )
    elif variant in HGNET_SIZES:
        model = HGNet(HGNET_SIZES[variant], num_classes, dropout=dropout)
    else:
        raise unknown_name("variant", variant, [*VARIANTS, *HGNET_SIZES], "--params variant=...")
    model.variant = variant
    freeze(model, at=freeze_at, norm=freeze_norm)
    return model
