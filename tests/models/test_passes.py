"""Passes that a training step spares: outputs, gradients and statistics of the plain layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from hgnetv2_pipeline.models import create, fast_training
from hgnetv2_pipeline.models.hgnetv2 import ConvBNAct, SamePool

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


@contextmanager
def plain() -> Iterator[None]:
    """The layers as they are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_training, "is_recording", lambda *given: False)
        yield


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def graph(y: Tensor) -> str:
    """Names of all operations behind ``y``."""
    seen, found, names = set(), [y.grad_fn], []
    while found:
        node = found.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            found += [following for following, _ in node.next_functions]
    return " ".join(sorted(names))


def everything(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output of a training pass over ``x``, its gradients and what it leaves in the buffers."""
    network, x = copy.deepcopy(network).train(), x.clone().requires_grad_()
    y = network(x)
    (y * noise(*y.shape, seed=9).to(y)).sum().backward()
    found = {"output": y.detach(), "input": x.grad}
    found |= {name: p.grad for name, p in network.named_parameters()}
    return found | dict(network.named_buffers())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("variant", "layout"),
    [(name, torch.channels_last) for name in ("b0", "b4", "hgnet_tiny")] + [("b0", LAYOUTS[1])],
)
def test_a_network_learns_as_its_plain_layers_do(variant, layout, device, filled):
    network = filled(variant, 3, torch.float64).to(device, memory_format=layout)
    x = noise(3, 3, 32, 64).to(device, memory_format=layout)
    if variant == "b0":  # 0 where other channels still carry something on
        with torch.no_grad():
            network.stem.stem1.lab.scale.fill_(-0.7)
            network.stages[0].blocks[0].layers[2].lab.scale.zero_()
    found = everything(network, x)
    with plain():
        wanted = everything(network, x)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        size = max(float(value.abs().max()), 1e-2)  # a shift before BN: 0 but for rounding
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * size, msg=name)


@pytest.mark.parametrize("scale", [1.3, -0.6, 0.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_bn_relu_and_lab_are_those_of_differences(scale, layout):
    bn = nn.BatchNorm2d(3).double()
    x = noise(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    given = [noise(3, seed=1), noise(3, seed=2), torch.tensor([scale]), noise(1, seed=3)]
    given = [value.double().requires_grad_() for value in given]

    def layer(x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return fast_training._BatchNormReluLab.apply(x, weight, shift, scale, bias, bn)

    assert torch.autograd.gradcheck(layer, (x, *given))


def test_the_stems_maximum_and_its_gradient_are_max_pool2ds():
    # Few values, so that many are equal: the first in reading order gets the gradient.
    x = noise(2, 8, 6, 7).mul(2).round().contiguous(memory_format=torch.channels_last)
    pool = SamePool("exclude").train()
    found = everything(pool, x)
    with plain():
        wanted = everything(pool, x)
    assert torch.equal(found["output"], wanted["output"])
    torch.testing.assert_close(found["input"], wanted["input"], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_in_bf16_are_those_of_float32(stride):
    conv = nn.Conv2d(32, 32, 3, stride, 1, groups=32, bias=False)
    x = noise(2, 32, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    conv.weight.data = conv.weight.data.bfloat16().float()

    def gradients(amp: bool, x: Tensor) -> tuple[Tensor, ...]:
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = fast_training.convolve(conv, x)
        upstream = noise(*y.shape, seed=1).bfloat16().to(y.dtype)
        return torch.autograd.grad(y, [x, conv.weight], upstream)

    found, wanted = gradients(True, x), gradients(False, x.float())
    assert [value.dtype for value in found] == [torch.bfloat16, torch.float32]
    for one, other in zip(found, wanted, strict=True):  # rounded once
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("variant", ["b0", pytest.param("b4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.float16, marks=pytest.mark.gpu),
    ],
)
def test_gradients_under_autocast_point_where_float32s_do(variant, device, dtype, filled):
    network = filled(variant).to(device, memory_format=torch.channels_last)
    x = noise(4, 3, 64, 64).float().to(device, memory_format=torch.channels_last)
    wanted = everything(network, x)
    errors = []
    for spare in (True, False):
        with torch.autocast(device, dtype), pytest.MonkeyPatch.context() as patch:
            if not spare:
                patch.setattr(fast_training, "is_recording", lambda *given: False)
            found = everything(network, x)
        names = [name for name, _ in network.named_parameters()]
        one = torch.cat([found[name].flatten() for name in names])
        other = torch.cat([wanted[name].flatten() for name in names])
        errors.append(1 - float(torch.cosine_similarity(one, other, dim=0)))
    assert errors[0] < 1.5 * errors[1] + 1e-4, "no further from float32 than torch's own bf16"


def test_a_step_goes_the_short_way():
    network = create.create_model("b0", 3).to(memory_format=torch.channels_last).train()
    y = network(noise(2, 3, 32, 32).float().contiguous(memory_format=torch.channels_last))
    assert graph(y).count("_BatchNormReluLab") == 30
    assert graph(y).count("_Concatenate") == 6
    assert "MaxPool" not in graph(y).replace("_SameMaxPool", "")


def hooked(layer: ConvBNAct) -> nn.Module:
    layer.bn.register_forward_hook(lambda module, inputs, output: None)
    return layer


def frozen(layer: ConvBNAct) -> nn.Module:
    layer.bn.eval()
    return layer


def without_statistics(layer: ConvBNAct) -> nn.Module:
    layer.bn = nn.BatchNorm2d(8, track_running_stats=False)
    return layer


def averaging(layer: ConvBNAct) -> nn.Module:
    layer.bn.momentum = None
    return layer


def synchronised(layer: ConvBNAct) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(layer)


def compiled(layer: ConvBNAct) -> nn.Module:
    return torch.compile(layer, backend="eager", fullgraph=True)


@pytest.mark.parametrize(
    "change", [hooked, frozen, without_statistics, averaging, synchronised, compiled]
)
def test_whoever_changes_a_layer_gets_the_plain_one(change: Callable[[ConvBNAct], nn.Module]):
    layer = change(ConvBNAct(8, 8, 1, lab=True).train())
    assert "_BatchNormReluLab" not in graph(layer(noise(2, 8, 4, 4).float()))


def test_inference_takes_the_plain_layers():
    layer = ConvBNAct(8, 8, 1, lab=True)
    x = noise(2, 8, 4, 4).float()
    with torch.no_grad():
        assert layer.train()(x).grad_fn is None
    assert "_BatchNormReluLab" not in graph(layer.eval()(x))
    assert "_BatchNormReluLab" in graph(layer.train()(x))


def test_two_forward_passes_before_a_backward_one_are_differentiated():
    layer = ConvBNAct(4, 4, 3, lab=True).double().train()
    x = noise(2, 4, 5, 5)
    (layer(x).sum() + layer(2 * x).sum()).backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert int(layer.bn.num_batches_tracked) == 2
