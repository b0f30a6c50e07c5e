"""What is frozen stays as it is, whatever is done to the network; feature dictionaries."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.models import create, features, fold
from hgnetv2_pipeline.models.frozen import FrozenBatchNorm2d, freeze
from hgnetv2_pipeline.weights import load

Filled = Callable[..., nn.Module]
PARTS = ("stem.", "stages.0.", "stages.1.", "stages.2.", "stages.3.")


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}


def train_a_step(model: nn.Module) -> None:
    """Training mode, a backward pass, and an optimiser that decays whatever it is given."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, weight_decay=0.1)
    model(images()).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("variant", "at"), [*(("b0", at) for at in range(6)), ("b4", 2), ("hgnet_tiny", 2)]
)
def test_a_step_changes_what_is_free_and_nothing_else(
    variant: str, at: int, norm: bool, filled: Filled
) -> None:
    model = freeze(filled(variant), at=at, norm=norm)
    before = state_of(model)
    train_a_step(model)
    fixed = {
        name
        for name in before
        if name.startswith(PARTS[:at]) or (norm and name.split(".")[-2] == "bn")
    }
    assert changed(model, before) == set(before) - fixed


def test_freezing_keeps_the_logits_the_names_and_the_kinds_of_tensors(filled: Filled) -> None:
    free, frozen = filled("b0"), freeze(filled("b0"), at=2, norm=True)
    assert [n for n, _ in free.named_parameters()] == [n for n, _ in frozen.named_parameters()]
    assert [n for n, _ in free.named_buffers()] == [n for n, _ in frozen.named_buffers()]
    with torch.inference_mode():
        expected = free(images())
        assert torch.equal(frozen(images()), expected)
        # With batch norms fixed there is nothing left that behaves differently in training.
        assert torch.equal(frozen.train()(images()), expected)
    frozen.load_state_dict(create.create_model("b0", 3).state_dict(), strict=True)
    free.load_state_dict(frozen.state_dict(), strict=True)
    assert not changed(free, frozen.state_dict())


def as_ema(model: nn.Module) -> nn.Module:
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(model)
    return averaged.module


def with_its_statistics_made_again(model: nn.Module) -> nn.Module:
    update_bn([images()], model)
    return model


def made_trainable_piece_by_piece(model: nn.Module) -> nn.Module:
    for module in model.modules():
        module.train()
    return model


SURVIVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),  # noqa: S301 - made here
    "ema": as_ema,
    "train() of every layer": made_trainable_piece_by_piece,
    "update_bn": with_its_statistics_made_again,
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "float64 and back": lambda model: model.double().float(),
}


@pytest.mark.parametrize("how", SURVIVES)
def test_freezing_survives(how: str, filled: Filled) -> None:
    frozen = freeze(filled("b0"), at=2, norm=True)
    before = state_of(frozen)
    model = SURVIVES[how](frozen)
    assert not changed(model, before)
    train_a_step(model)
    assert changed(model, before) == {
        name for name in before if not name.startswith(PARTS[:2]) and name.split(".")[-2] != "bn"
    }


def test_the_networks_own_batch_norms_are_not_left_alone_by_sync_batch_norm(filled: Filled) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(freeze(filled("b0"), at=1))
    kinds = {
        kind: sum(isinstance(module, kind) for module in model.modules())
        for kind in (FrozenBatchNorm2d, nn.SyncBatchNorm, nn.BatchNorm2d)
    }
    assert kinds[FrozenBatchNorm2d] == 5 and kinds[nn.BatchNorm2d] == 0
    assert kinds[nn.SyncBatchNorm] > 20
    freeze(model, norm=True)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def test_freezing_adds_up_and_at_0_does_nothing(filled: Filled) -> None:
    model = filled("b0")
    names = {id(module) for module in model.modules()}
    assert freeze(model) is model
    assert names == {id(module) for module in model.modules()}
    freeze(freeze(model, at=3), at=1)
    assert not any(p.requires_grad for p in model.stages[1].parameters())
    assert all(p.requires_grad for p in model.stages[2].parameters())


def test_a_frozen_part_builds_no_graph(filled: Filled) -> None:
    model = freeze(filled("b0"), at=3).train()
    shallow, deep = model.features(images(), (1, 2))
    assert not shallow.requires_grad and deep.requires_grad


def test_weights_loaded_after_freezing_stay_fixed(tmp_path: Path, filled: Filled) -> None:
    source = filled("b0")
    load.save_weights(tmp_path / "b0.safetensors", source.state_dict(), {})
    model = create.create_model("b0", 3, freeze_at=2, freeze_norm=True)
    load.load_weights(model, tmp_path / "b0.safetensors")
    assert not changed(model, source.state_dict())
    train_a_step(model)
    assert not any(n.startswith(PARTS[:2]) for n in changed(model, source.state_dict()))
    with pytest.raises(ParameterError, match="freeze_at 6"):
        create.create_model("b0", 3, freeze_at=6)


def test_mixed_precision_leaves_frozen_statistics_alone(filled: Filled) -> None:
    model = freeze(filled("b0"), at=1, norm=True).train()
    before = state_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images()).float().square().mean()
    loss.backward()
    assert not changed(model, before)
    assert torch.isfinite(model.fc.weight.grad).all()


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_a_frozen_network_folds_to_the_same_network(variant: str, filled: Filled) -> None:
    free = fold.reparameterize(filled(variant))
    frozen = fold.reparameterize(freeze(filled(variant), at=2, norm=True))
    assert [type(module) for module in free.modules()] == [
        type(module) for module in frozen.modules()
    ]
    assert not changed(free, frozen.state_dict())


def test_a_frozen_network_is_exported_as_the_same_graph(tmp_path: Path, filled: Filled) -> None:
    from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx

    free = export_onnx(filled("b0"), tmp_path / "free.onnx", image_size=32)
    frozen = freeze(filled("b0"), at=2, norm=True).train()
    assert export_onnx(frozen, tmp_path / "frozen.onnx", 32).read_bytes() == free.read_bytes()


@pytest.fixture
def process_group(tmp_path: Path) -> object:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


class Mean(nn.Module):
    """A network on top of features, as small as can be."""

    def __init__(self, trunk: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trunk, self.call = trunk, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x).mean()


@pytest.mark.usefixtures("process_group")
def test_distributed_training_takes_a_frozen_feature_dict(filled: Filled) -> None:
    trunk = features.FeatureDict(freeze(filled("b0"), at=2, norm=True), (1, 3))
    network = Mean(trunk, lambda x: trunk(x)["3"])
    wrapped = nn.parallel.DistributedDataParallel(network)
    before = state_of(trunk.stem)
    for _ in range(2):  # a parameter without gradient is noticed at the second step
        wrapped(images(2)).backward()
    assert not changed(trunk.stem, before)
    whole = filled("b0")
    wrapped = nn.parallel.DistributedDataParallel(Mean(whole, lambda x: whole.features(x)[-1]))
    wrapped(images(2)).backward()
    with pytest.raises(RuntimeError, match="not used in producing loss"):
        wrapped(images(2))


@pytest.mark.parametrize("at", [-1, 6, True, 1.0, "stem", None])
def test_what_cannot_be_frozen_is_refused(at: object) -> None:
    with torch.device("meta"):
        model = create.create_model("b0", 2)
    with pytest.raises(ParameterError, match=r"freeze_at .* is not one of 0 \(nothing\), 1"):
        freeze(model, at=at)
    with pytest.raises(ParameterError, match="not a Linear"):
        freeze(nn.Linear(2, 2), at=1)


def test_what_is_frozen_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        model = create.create_model("b0")
    with caplog.at_level(logging.INFO):
        freeze(model, at=5, norm=True)
    head = 1024 * 2048 + 2048 * 1000 + 1000 + 2
    assert f"all BN; {head:,} of 5,996,550 parameters learn" in caplog.text


@pytest.mark.parametrize("variant", ["b0", "b4", "hgnet_tiny"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (3, 1), (0,)])
def test_a_feature_dict_gives_the_features_under_their_numbers(
    variant: str, out_indices: tuple[int, ...], filled: Filled
) -> None:
    model = filled(variant)
    trunk = features.FeatureDict(model, out_indices)
    assert len(trunk.stages) == max(out_indices) + 1
    with torch.inference_mode():
        x = images(1, 64)[..., :48]
        found, expected = trunk(x), model.features(x, out_indices)
    assert list(found) == [str(index) for index in sorted(out_indices)]
    rows = zip(found.values(), expected, trunk.feature_channels, trunk.feature_strides, strict=True)
    for one, same, channels, stride in rows:
        assert torch.equal(one, same)
        assert one.shape == (1, channels, -(-64 // stride), -(-48 // stride))


def test_a_feature_dict_shares_the_layers_and_names_of_its_network(filled: Filled) -> None:
    model = filled("b0")
    trunk = features.FeatureDict(model)
    assert list(trunk.state_dict()) == [
        name for name in model.state_dict() if name.startswith(("stem.", "stages."))
    ]
    freeze(trunk, at=1)
    assert not any(p.requires_grad for p in model.stem.parameters())
    folded = features.FeatureDict(fold.reparameterize(model), (1, 2))
    with torch.inference_mode():
        for name, value in folded(images(1)).items():
            torch.testing.assert_close(value, trunk.eval()(images(1))[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("out_indices", [(), (4,), (-1,), ("0", 1)])
def test_stages_that_do_not_exist_are_refused(out_indices: tuple[object, ...]) -> None:
    with torch.device("meta"):
        model = create.create_model("b0", 2)
    with pytest.raises(ParameterError, match="must be some of 0, 1, 2, 3"):
        features.FeatureDict(model, out_indices)


def test_another_network_has_no_features_to_give() -> None:
    with pytest.raises(ParameterError, match="not a Sequential"):
        features.FeatureDict(nn.Sequential())
