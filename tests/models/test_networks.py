"""The networks against numbers measured on PaddleClas, and their shapes, features and starts."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import cost, create, hgnetv2
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS, variant_name
from hgnetv2_pipeline.weights import formula, zoo
from hgnetv2_pipeline.weights.load import load_weights, write_pdparams

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "paddle_logits.json").read_text())
ALL = [*VARIANTS, *HGNET_SIZES]
PARAMETERS = {
    "b0": 5_996_550, "b1": 6_343_158, "b2": 11_221_356, "b3": 16_292_216,
    "b4": 19_796_680, "b5": 39_569_064, "b6": 75_256_776,
}  # fmt: skip


# Those of the same parts, with more and wider ones.
LARGE = ("PPHGNet_base", "PPHGNetV2_B5", "PPHGNetV2_B6")


def golden_input() -> torch.Tensor:
    values = np.random.RandomState(2026).normal(0, 1, (2, 3, 64, 96)).astype(np.float32)
    return torch.from_numpy(values)


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
        for name in GOLDEN["networks"]
    ],
)
def test_logits_and_names_are_paddles_through_a_weight_file(name, tmp_path):
    golden = GOLDEN["networks"][name]
    variant = name.replace("PPHGNetV2_", "").replace("PPHGNet", "hgnet").lower()
    with torch.device("meta"):  # fresh weights would be overwritten at once
        model = create.create_model(variant, GOLDEN["classes"])
    model = model.to_empty(device="cpu").eval()
    state = formula.formula_state(model)
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden["names_sha256"]
    assert len(state) == golden["n_tensors"]
    assert sum(value.size for value in state.values()) == golden["n_values"]
    write_pdparams(tmp_path / "w.pdparams", state)
    load_weights(model, tmp_path / "w.pdparams")
    with torch.inference_mode():
        logits = model(golden_input())
    assert relative_error(logits, torch.tensor(golden["logits"])) < 1e-5


@pytest.mark.parametrize("variant", ALL)
def test_the_table_of_costs_is_what_the_network_costs(variant):
    with torch.device("meta"):
        profile = cost.measure_cost(create.create_model(variant))
    assert (profile.params, profile.macs) == zoo.COSTS[variant]
    if variant in PARAMETERS:
        assert profile.params == PARAMETERS[variant]


def test_profiling_leaves_the_network_alone():
    model = create.create_model("b0", 3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small, large = cost.measure_cost(model, 32), cost.measure_cost(model, 64)
    assert small.params == large.params
    assert large.macs > 3 * small.macs
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("variant", ["b0", "b4", "hgnet_tiny"])
def test_features_have_the_announced_channels_and_strides(variant):
    model = create.create_model(variant, 2).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps = model.features(x)
        some = model.features(x, (3, 1))
    for feature, channels, stride in zip(
        maps, model.feature_channels, model.feature_strides, strict=True
    ):
        assert feature.shape == (1, channels, 64 // stride, 96 // stride)
    assert [f.shape for f in some] == [maps[1].shape, maps[3].shape]
    assert torch.equal(some[0], maps[1])
    with pytest.raises(ParameterError, match="out_indices"):
        model.features(x, (4,))


def test_features_run_no_deeper_than_asked():
    model = create.create_model("b0", 2).eval()
    calls = []
    model.stages[2].register_forward_hook(lambda *_: calls.append(1))
    model.features(torch.randn(1, 3, 32, 32), (0, 1))
    assert calls == []


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_it_trains_at_32_pixels_in_channels_last(variant):
    torch.manual_seed(0)
    model = create.create_model(variant, 3).to(memory_format=torch.channels_last)
    layouts = []
    model.stages[0].register_forward_hook(
        lambda _, __, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last))
    )
    x = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    logits = model(x)
    assert logits.shape == (4, 3)
    logits.logsumexp(1).sum().backward()
    assert layouts == [True]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_layout_does_not_change_the_logits():
    torch.manual_seed(0)
    model = create.create_model("b0", 3).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        plain = model(x)
        last = model.to(memory_format=torch.channels_last)(
            x.contiguous(memory_format=torch.channels_last)
        )
    assert relative_error(last, plain) < 1e-5


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_fresh_weights_start_as_paddles_do(variant):
    torch.manual_seed(0)
    model = create.create_model(variant, 10)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            expected = math.sqrt(2 / math.prod(module.weight.shape[1:]))
            if module.weight.numel() > 5000:
                assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05), (
                    name
                )
            assert module.bias is None or not module.bias.any(), name
    limit = math.sqrt(6 / (2048 + 10))
    assert 0.99 * limit < float(model.fc.weight.detach().abs().max()) <= limit
    assert not model.fc.bias.any()


def test_an_affine_follows_every_relu_in_b0_to_b3_and_none_in_b4_to_b6():
    for variant, row in VARIANTS.items():
        with torch.device("meta"):
            model = create.create_model(variant, 2)
        relus = [n for n, m in model.named_modules() if isinstance(m, torch.nn.ReLU)]
        labs = [n for n, m in model.named_modules() if isinstance(m, hgnetv2.LearnableAffine)]
        expected = [name.removesuffix("act") + "lab" for name in relus] if row.lab else []
        assert sorted(labs) == sorted(expected), variant


def test_dropout_masks_in_training_and_scales_in_inference():
    dropout = hgnetv2.DownscaleInInfer(0.25)
    x = torch.ones(20_000)
    torch.manual_seed(0)
    masked = dropout.train()(x)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert float(masked.mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(dropout.eval()(x), torch.full_like(x, 0.75))
    assert create.create_model("hgnet_base", 2).dropout.p == 0.2
    assert create.create_model("b0", 2, dropout=0.3).dropout.p == 0.3
    for wrong in (1.0, -0.1):
        with pytest.raises(ParameterError, match="dropout"):
            create.create_model("b0", 2, dropout=wrong)


def test_the_pool_leaves_its_pad_out_unless_told():
    x = torch.full((1, 1, 3, 3), -1.0)
    assert torch.equal(hgnetv2.SamePool("exclude")(x), x)
    zero = hgnetv2.SamePool("zero")(x)
    assert torch.equal(zero[..., :2, :2], x[..., :2, :2])
    assert not zero[..., 2, :].any()
    with pytest.raises(ParameterError, match="did you mean 'zero'"):
        create.create_model("b0", pool_padding="zeros")


@pytest.mark.parametrize("number", range(7))
def test_the_names_of_other_projects_mean_the_same_network(number):
    names = (f"b{number}", f"B{number}", f"hgnetv2_b{number}", f"PPHGNetV2_B{number}",
             f"PP-HGNetV2-B{number}", f"hgnetv2_b{number}".upper())  # fmt: skip
    assert {variant_name(name) for name in names} == {f"b{number}"}
    for size in ("tiny", "small", "base"):
        assert variant_name(f"PPHGNet_{size}") == variant_name(f"hgnet_{size}") == f"hgnet_{size}"
    for other in ("b", "hgnetv2", "hgnet_b", "resnet18", "", "hgnetv2_small", "xb4"):
        assert variant_name(other) == other
    with torch.device("meta"):
        assert create.create_model(names[3], 2).variant == f"b{number}"


def test_wrong_names_and_counts_are_refused():
    with pytest.raises(
        ParameterError, match=r"unknown variant 'b9'; choose one of b0, b1.*hgnet_base"
    ):
        create.create_model("b9")
    with pytest.raises(ParameterError, match="unknown variant"):
        create.create_model("")
    for wrong in (-1, 2.5, True):
        with pytest.raises(ParameterError, match="num_classes"):
            create.create_model("b0", wrong)
