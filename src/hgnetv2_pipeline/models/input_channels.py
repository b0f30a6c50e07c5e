"""The first convolution for images of other than three channels, from weights for three."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hgnetv2_pipeline.models.hgnetv2 import first_convolution

RGB = 3


def adapt_first_convolution(
    state: Mapping[str, Tensor], network: nn.Module
) -> tuple[dict[str, Tensor], str]:
    """``state`` for the channels of ``network``, and in words what that took; "" if nothing.

    Only a first convolution for three channels is adapted, to a network of any other number.
    """
    wanted = getattr(network, "in_chans", RGB)
    if wanted == RGB:
        return dict(state), ""
    name = f"{first_convolution(network)}.weight"
    weight = state.get(name)
    if weight is None or weight.ndim != 4 or weight.shape[1] != RGB:
        return dict(state), ""
    how = "summed" if wanted == 1 else "repeated and scaled"
    adapted = {**state, name: adapt_channels(weight, wanted)}
    return adapted, f"{name} is for {RGB} channels, {how} for {wanted}"


def adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    """``weight`` [out, 3, kh, kw] for images of ``in_chans`` channels: [out, in_chans, kh, kw].

    For one channel the three are summed: a grey image then gives what it gave as RGB. For more they
    are repeated in turn (R, G, B, R, ...) and scaled by 3 / ``in_chans``, so that what comes out
    keeps its size. timm documents the same for ``in_chans``.
    """
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    if in_chans == RGB:
        return weight
    times = -(-in_chans // RGB)
    return weight.repeat(1, times, 1, 1)[:, :in_chans] * (RGB / in_chans)
