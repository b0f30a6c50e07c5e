"""Folding BN and LAB into the convolutions changes no output."""

from __future__ import annotations

import pytest
import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import create, fold, hgnetv2
from hgnetv2_pipeline.variants import VARIANTS

ALL = [
    *[name for name in VARIANTS if name not in ("b5", "b6")],
    "hgnet_tiny",
    *[
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("b5", "b6", "hgnet_small", "hgnet_base")
    ],
]


def with_signs(model: torch.nn.Module) -> torch.nn.Module:
    """LAB scales of every sign: negative, zero, positive."""
    labs = [m for m in model.modules() if isinstance(m, hgnetv2.LearnableAffine)]
    with torch.no_grad():
        for index, lab in enumerate(labs):
            # One zero only: a second in a row would leave nothing of the image to compare.
            lab.scale.mul_(0 if index == 1 else (-1) ** index)
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("variant", ALL)
def test_outputs_and_features_stay_in_float64(variant, filled):
    model = with_signs(filled(variant, dtype=torch.float64))
    small = variant in ("b5", "b6", "hgnet_base")
    x = torch.randn(1 if small else 2, 3, 32 if small else 64, 64, dtype=torch.float64)
    folded = fold.reparameterize(model)
    with torch.inference_mode():
        want, got = model(x), folded(x)
        assert relative(got, want) < 1e-9
        if not small:
            for theirs, ours in zip(model.features(x), folded.features(x), strict=True):
                assert relative(ours, theirs) < 1e-9
    assert folded.feature_channels == model.feature_channels


@pytest.mark.parametrize("lab", ["relu", "affine"])
@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4", "hgnet_tiny"])
def test_folded_forward_the_logits_stay_in_float64(variant, lab, filled):
    model = with_signs(filled(variant, dtype=torch.float64))
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    folded = fold.reparameterize(model, lab)
    assert next(folded.parameters()).dtype == torch.float64
    with torch.inference_mode():
        assert relative(folded(x), model(x)) < 1e-9


@pytest.mark.parametrize(("lab", "bounds", "affines"), [("relu", 12, 0), ("affine", 0, 12)])
def test_of_31_labs_in_b0_19_go_forward(lab, bounds, affines, filled):
    """The 12: four of the stem, plain layers before another 3x3, and every stage's output but the
    last (they meet padding, a max-pool or a residual sum)."""
    folded = fold.reparameterize(with_signs(filled("b0")), lab)
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(fold.Clip) == bounds
    assert kinds.count(hgnetv2.LearnableAffine) == affines
    assert kinds.count(torch.nn.ReLU) == 31 - bounds
    other = filled("b4")
    for lab in ("clip", "relu", "affine"):
        with torch.inference_mode():
            x = torch.randn(1, 3, 32, 32)
            assert relative(fold.reparameterize(other, lab)(x), other(x)) < 1e-4


def test_an_unknown_form_is_refused(filled):
    with pytest.raises(ParameterError, match="unknown lab 'relus'"):
        fold.reparameterize(filled("b0"), "relus")


@pytest.mark.parametrize("variant", ["b0", "b3", "hgnet_tiny"])
def test_float32_of_the_folded_network_rounds_no_worse_than_that_of_the_plain_one(variant, filled):
    """Both are off by a few 1e-6, each by its own rounding: of twelve inputs to each network the
    folded one was off by 0.3 to 2.4 times as much as the plain one, by 1.1 on average."""
    model = with_signs(filled(variant))
    folded = fold.reparameterize(model)
    inputs = torch.randn(6, 1, 3, 64, 64)
    with torch.inference_mode():
        ours, plain = [folded(x) for x in inputs], [model(x) for x in inputs]
        exact = [model.double()(x.double()) for x in inputs]
    errors = [sum(map(relative, map(torch.Tensor.double, some), exact)) for some in (ours, plain)]
    assert errors[0] < 2.5 * errors[1]
    assert errors[1] < 6 * 1e-5


def test_nothing_but_convolutions_and_bounds_is_left(filled):
    model = with_signs(filled("b0")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold.reparameterize(model)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {torch.nn.BatchNorm2d, hgnetv2.LearnableAffine, hgnetv2.ConvBNAct}
    assert sum(isinstance(m, fold.Clip) for m in folded.modules()) == 31
    assert sum(isinstance(m, torch.nn.Conv2d) for m in folded.modules()) == 43
    assert not folded.training
    assert not any(p.requires_grad for p in folded.parameters())
    assert model.training  # the original is as it was
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_dropout_factor_goes_into_the_classifier():
    model = create.create_model("hgnet_tiny", 3, dropout=0.2).eval()
    folded = fold.reparameterize(model)
    x = torch.randn(1, 3, 32, 32)
    assert folded.dropout.p == 0
    with torch.inference_mode():
        assert relative(folded(x), model(x)) < 1e-5


def test_folding_twice_or_a_foreign_network_gives_the_same_outputs(filled):
    model = with_signs(filled("b0"))
    once = fold.reparameterize(model)
    twice = fold.reparameterize(once)
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2)).train()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(once(x), twice(x))
        copy = fold.reparameterize(other)
        assert torch.equal(copy(x), other.eval()(x))
    assert copy is not other
