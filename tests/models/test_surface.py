"""What a network offers to programs written for timm's: names, embeddings, channels, memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models import cost, create_model, fast_training, fold, input_channels
from hgnetv2_pipeline.training.optim import param_groups
from hgnetv2_pipeline.variants import VARIANTS, variant_name
from hgnetv2_pipeline.weights import load
from hgnetv2_pipeline.weights.build import build_from

THREE = ["b0", "b4", "hgnet_tiny"]


def images(count: int = 3, channels: int = 3, size: int = 64, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=draw)


@pytest.mark.parametrize("variant", THREE)
def test_an_embedding_is_what_the_classifier_sees(variant, filled):
    model, x, seen = filled(variant), images(), []
    model.fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        logits, embedding = model(x), model.embed(x)
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), logits)
        assert torch.equal(model.forward_head(features, pre_logits=True), embedding)
        assert torch.equal(features, model.features(x, (3,))[0])
        assert torch.equal(seen[0], model.dropout(embedding))
    assert embedding.shape == (3, model.head_hidden_size) == (3, 2048)
    assert features.shape == (3, model.num_features, 2, 2)


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_without_classes_a_network_gives_embeddings(variant, filled):
    whole = filled(variant)
    model = create_model(variant, 0).eval()
    missing, unexpected = model.load_state_dict(whole.state_dict(), strict=False)
    assert (missing, set(unexpected)) == ([], {"fc.weight", "fc.bias"})
    with torch.no_grad():
        assert torch.equal(model(images()), whole.embed(images()))
        torch.testing.assert_close(
            fold.reparameterize(model)(images()), model(images()), rtol=1e-4, atol=1e-4
        )
    assert not list(model.get_classifier().parameters())
    assert cost.measure_cost(model).params == sum(p.numel() for p in model.parameters())


def test_dropout_belongs_to_the_classifier():
    model = create_model("hgnet_tiny", 0, dropout=0.5).eval()
    with torch.no_grad():
        assert torch.equal(model(images()), model.embed(images()))


def test_a_classifier_is_made_anew_for_other_classes(filled):
    model = filled("b0", 3, torch.float64).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.reset_classifier(7)
    assert (model.num_classes, model.fc.out_features) == (7, 7)
    assert model.fc.weight.dtype == torch.float64 and model.fc.training
    assert not model.fc.bias.any() and model.fc.weight.any()
    assert model(images().double()).shape == (3, 7)
    model.reset_classifier(0)
    assert model(images().double()).shape == (3, 2048)
    for name, value in model.state_dict().items():
        assert "running" in name or "num_batches" in name or torch.equal(value, before[name])
    with pytest.raises(ParameterError, match="num_classes -1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("variant", THREE)
def test_feature_info_and_names_are_timms(variant):
    timm = pytest.importorskip("timm")
    name = variant if variant.startswith("hgnet_") else f"hgnetv2_{variant}"
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=5)
        ours = create_model(variant, 5)
    kept = ("num_chs", "reduction", "module")
    assert ours.feature_info == [{key: one[key] for key in kept} for one in theirs.feature_info]
    assert ours.num_features == theirs.num_features
    assert ours.head_hidden_size == theirs.head_hidden_size
    assert ours.num_classes == theirs.num_classes
    assert type(ours.get_classifier()) is type(theirs.get_classifier())


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_what_is_not_decayed_is_what_the_recipes_do_not_decay(variant):
    with torch.device("meta"):
        model = create_model(variant, 3)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, 0.1, 2e-5)
    undecayed = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    assert model.no_weight_decay() == {names[id(parameter)] for parameter in undecayed} != set()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_checkpointing_changes_neither_gradients_nor_statistics(variant, fast, filled):
    """W14: what is computed twice is counted once, by BN's statistics and their counter too."""
    kept, again = filled(variant).train(), filled(variant).train()
    again.set_grad_checkpointing()
    saved: dict[nn.Module, int] = {}
    for model in (kept, again):

        def count(tensor: Tensor, model: nn.Module = model) -> Tensor:
            saved[model] = saved.get(model, 0) + tensor.numel()
            return tensor

        before = {id(buffer) for buffer in model.buffers()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            y = model(images()) if not fast else None
        if fast:
            with fast_training(model):
                model(images()).square().sum().backward()
        else:
            y.square().sum().backward()
        assert {id(buffer) for buffer in model.buffers()} == before
    for name, value in kept.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for (name, one), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert fast or saved[again] < 0.6 * saved[kept]
    again.set_grad_checkpointing(False)
    assert not any(stage.grad_checkpointing for stage in again.stages)


def test_without_inplace_every_layer_takes_full_backward_hooks():
    """W14: explanations (LRP, guided backpropagation) hook activations."""
    model, seen = create_model("b0", 2, inplace=False).train(), []
    for layer in model.modules():
        if not list(layer.children()):
            layer.register_full_backward_hook(lambda layer, *_: seen.append(layer))
    model(images()).sum().backward()
    assert len({id(layer) for layer in seen}) == sum(
        not list(layer.children()) for layer in model.modules()
    )
    usual = create_model("b0", 2)
    usual.load_state_dict(model.state_dict())
    assert torch.equal(usual.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize(
    "given", ["b4", "B4", "hgnetv2_b4", "HGNetV2-B4", "PPHGNetV2_B4", "PP-HGNetV2-B4"]
)
def test_a_variant_is_known_under_the_names_of_others(given):
    """W12."""
    assert variant_name(given) == "b4"
    with torch.device("meta"):
        assert create_model(given, 2).variant == "b4"
        assert build_from(f"scratch:{given}", num_classes=2, root=Path())[1]["variant"] == "b4"


def test_names_that_are_no_variants_stay_what_they_are():
    assert {variant_name(name) for name in VARIANTS} == set(VARIANTS)
    assert [variant_name(name) for name in ("PPHGNet_small", "hgnet_base", "HGNet_tiny")] == [
        "hgnet_small", "hgnet_base", "hgnet_tiny",
    ]  # fmt: skip
    for name in ("hgnetv2_b9", "resnet18", "", "probe:b4"):
        assert variant_name(name) == name
    with pytest.raises(ParameterError, match="unknown variant 'hgnetv2_b9'"):
        create_model("hgnetv2_b9")


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_weights_of_three_channels_fit_any_number_and_the_report_says_so(
    channels, variant, filled, tmp_path: Path
):
    rgb = filled(variant)
    load.save_weights(tmp_path / "w.safetensors", rgb.state_dict(), {})
    model = create_model(variant, 3, in_chans=channels).eval()
    report = str(load.load_weights(model, tmp_path / "w.safetensors"))
    first = "stem.stem1.conv.weight" if variant == "b0" else "stem.0.conv.weight"
    how = "summed" if channels == 1 else "repeated and scaled"
    assert f"{first} is for 3 channels, {how} for {channels}" in report
    assert model(images(2, channels)).shape == (2, 3)
    given, mine = rgb.state_dict()[first], model.state_dict()[first]
    if channels == 1:  # a grey image says what it said as RGB
        grey = images(2, 1)
        torch.testing.assert_close(
            model(grey), rgb(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
        )
    else:
        for channel in range(channels):
            torch.testing.assert_close(mine[:, channel], given[:, channel % 3] * 3 / channels)
    for name, value in model.state_dict().items():
        assert name == first or torch.equal(value, rgb.state_dict()[name]), name


def test_the_same_adaptation_as_timms(filled):
    timm_manipulate = pytest.importorskip("timm.models._manipulate")
    weight = filled("b0").stem.stem1.conv.weight.detach()
    for channels in (1, 2, 3, 4, 5, 9):
        theirs = timm_manipulate.adapt_input_conv(channels, weight.clone())
        torch.testing.assert_close(input_channels.adapt_channels(weight, channels), theirs)


def test_weights_of_other_than_three_channels_fit_their_own_number_only(filled, tmp_path: Path):
    four = create_model("b0", 3, in_chans=4)
    load.save_weights(tmp_path / "w.safetensors", four.state_dict(), {})
    report = load.load_weights(create_model("b0", 3, in_chans=4), tmp_path / "w.safetensors")
    assert "channels" not in str(report)
    with pytest.raises(WeightsError, match=r"stem1.conv.weight is \[16, 4, 3, 3\]"):
        load.load_weights(create_model("b0", 3), tmp_path / "w.safetensors")


def test_a_network_of_other_channels_trains_and_folds():
    model = create_model("b0", 3, in_chans=5)
    assert model.in_chans == 5
    with fast_training(model.train()):
        model(images(2, 5)).sum().backward()
    folded = fold.reparameterize(model.eval())
    with torch.no_grad():
        torch.testing.assert_close(folded(images(1, 5)), model(images(1, 5)), rtol=1e-4, atol=1e-4)
    more = cost.measure_cost(model).macs - cost.measure_cost(create_model("b0", 3)).macs
    assert more == 2 * 9 * 16 * 112 * 112
    assert copy.deepcopy(model).in_chans == 5
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ParameterError, match="in_chans"):
            create_model("b0", 3, in_chans=wrong)
