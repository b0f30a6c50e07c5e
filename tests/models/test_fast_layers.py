"""Fast layers: outputs, gradients, statistics of the plain ones, and these again afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hgnetv2_pipeline.models import create, fast_training, fused_operations
from hgnetv2_pipeline.models.hgnetv2 import ConvBNAct, SamePool

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


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


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in network.modules()]


def everything(network: nn.Module, x: Tensor, *, fast: bool = False) -> dict[str, Tensor]:
    """Output of a training pass over ``x``, its gradients and what it leaves in the buffers."""
    network, x = copy.deepcopy(network).train(), x.clone().requires_grad_()
    with fast_training(network) if fast else nullcontext():
        y = network(x)
        assert fast == (kinds(network) != kinds(copy.deepcopy(network))), "a copy is plain"
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
    found, wanted = everything(network, x, fast=True), everything(network, x)
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
        return fused_operations._BatchNormReluLab.apply(x, weight, shift, scale, bias, bn)

    assert torch.autograd.gradcheck(layer, (x, *given))


def test_the_stems_maximum_and_its_gradient_are_max_pool2ds():
    # Few values, so that many are equal: the first in reading order gets the gradient.
    x = noise(2, 8, 6, 7).mul(2).round().contiguous(memory_format=torch.channels_last)
    pool = SamePool("exclude").train()
    found, wanted = everything(pool, x, fast=True), everything(pool, x)
    assert torch.equal(found["output"], wanted["output"])
    torch.testing.assert_close(found["input"], wanted["input"], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_gradients_in_bf16_are_those_of_float32(kernel, stride):
    conv = nn.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32, bias=False)
    x = noise(2, 32, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    conv.weight.data = conv.weight.data.bfloat16().float()

    def gradients(amp: bool, x: Tensor) -> tuple[Tensor, ...]:
        x = x.clone().requires_grad_()
        with fast_training(conv), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = conv(x)
        upstream = noise(*y.shape, seed=1).bfloat16().to(y.dtype)
        return torch.autograd.grad(y, [x, conv.weight], upstream)

    found, wanted = gradients(True, x), gradients(False, x.float())
    assert [value.dtype for value in found] == [torch.bfloat16, torch.float32]
    for one, other in zip(found, wanted, strict=True):  # rounded once
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(
    ("kernel", "size", "padding"),
    [
        (5, (4, 4), 2),  # no more pixels than the kernel has: pairs of pixels
        (5, (2, 2), 2),
        (5, (1, 1), 2),
        (5, (12, 2), 2),
        (5, (5, 5), 0),
        ((3, 5), (2, 7), (1, 2)),
        (5, (7, 6), 2),  # strips of three columns, the last as wide as is left
        (5, (9, 1), (2, 4)),
        (4, (7, 8), (1, 2)),
        (7, (8, 9), 3),
        (9, (9, 11), 0),
        (9, (9, 9), 4),  # a kernel too large for a table of pairs
        (5, (3, 13), 2),  # lower than the kernel: oneDNN's
        ((7, 3), (8, 8), (3, 1)),
    ],
)
def test_depthwise_gradients_of_wide_kernels_are_the_plain_ones(
    kernel, size, padding, channels, layout
):
    conv = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False)
    exact = conv.double().to(memory_format=layout)
    x = noise(3, channels, *size).contiguous(memory_format=layout)
    wanted = everything(exact, x)
    for layer, limit in ((exact, 1e-12), (copy.deepcopy(conv).float(), 1e-5)):
        found = everything(layer, x.to(layer.weight.dtype), fast=True)
        for name, value in wanted.items():
            near = limit * float(value.abs().max())
            torch.testing.assert_close(found[name].double(), value, rtol=0, atol=near, msg=name)


@pytest.mark.parametrize("size", [4, 9])
def test_a_backward_pass_inside_autocast_is_as_exact_as_outside(size):
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
    x, upstream = by_pixel(4, 8, size, size), by_pixel(4, 8, size, size)
    with fast_training(conv):
        y = conv(x)
        (wanted,) = torch.autograd.grad(y, conv.weight, upstream, retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            (found,) = torch.autograd.grad(y, conv.weight, upstream)
    assert torch.equal(found, wanted)


def test_a_wide_depthwise_kernel_takes_the_short_way_where_it_learns_alone():
    conv, x = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False), by_pixel(2, 8, 4, 4)
    with fast_training(conv):
        assert "_Depthwise" in graph(conv.train()(x))
        assert "_Depthwise" not in graph(conv(x.contiguous())), "not by pixel"
        assert "_Depthwise" not in graph(conv.eval()(x))
        conv.train().weight.requires_grad_(False)
        assert conv(x).grad_fn is None
        conv(x.requires_grad_()).sum().backward()
    assert conv.weight.grad is None and x.grad.abs().max() > 0
    for other in (
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8, bias=False),
        nn.Conv2d(8, 16, 5, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, stride=2, groups=8, bias=False),
    ):
        with fast_training(other):
            assert "_Depthwise" not in graph(other(by_pixel(2, 8, 12, 12)))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 4, 1, padding=1),
        nn.Conv2d(8, 4, 1, padding=(0, 1), bias=False),
        nn.Conv2d(8, 4, 1, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="circular", groups=8, bias=False),
    ],
    ids=lambda conv: "x".join(map(str, (conv.kernel_size[0], conv.padding, conv.padding_mode))),
)
def test_a_convolution_of_others_is_padded_as_it_says(conv, amp):
    x = by_pixel(2, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        found, wanted = everything(conv, x, fast=True), everything(conv, x)
    for name, value in wanted.items():
        near = (2**-7 if amp else 1e-6) * float(value.abs().max())  # of sums in bf16, two roundings
        torch.testing.assert_close(found[name], value, rtol=0, atol=near, msg=name)


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
    for fast in (True, False):
        with torch.autocast(device, dtype):
            found = everything(network, x, fast=fast)
        names = [name for name, _ in network.named_parameters()]
        one = torch.cat([found[name].flatten() for name in names])
        other = torch.cat([wanted[name].flatten() for name in names])
        errors.append(1 - float(torch.cosine_similarity(one, other, dim=0)))
    assert errors[0] < 1.5 * errors[1] + 1e-4, "no further from float32 than torch's own bf16"


def test_a_fast_pass_goes_the_short_way():
    network = create.create_model("b0", 3).to(memory_format=torch.channels_last).train()
    with fast_training(network):
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


def with_a_forward_of_its_own(layer: ConvBNAct) -> nn.Module:
    layer.act.forward = lambda x, plain=layer.act.forward: plain(x)
    return layer


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        with_a_forward_of_its_own,
        frozen,
        without_statistics,
        averaging,
        synchronised,
        compiled,
    ],
)
def test_whoever_changes_a_layer_gets_the_plain_one(change: Callable[[ConvBNAct], nn.Module]):
    layer = change(ConvBNAct(8, 8, 1, lab=True).train())
    with fast_training(layer):
        assert "_BatchNormReluLab" not in graph(layer(noise(2, 8, 4, 4).float()))


def test_inference_takes_the_plain_layers():
    layer = ConvBNAct(8, 8, 1, lab=True)
    x = noise(2, 8, 4, 4).float()
    with fast_training(layer):
        with torch.no_grad():
            assert layer.train()(x).grad_fn is None
        assert "_BatchNormReluLab" not in graph(layer.eval()(x))
        assert "_BatchNormReluLab" in graph(layer.train()(x))
    assert "_BatchNormReluLab" not in graph(layer(x))


def test_two_forward_passes_before_a_backward_one_are_differentiated():
    layer = ConvBNAct(4, 4, 3, lab=True).double().train()
    x = noise(2, 4, 5, 5)
    with fast_training(layer):
        (layer(x).sum() + layer(2 * x).sum()).backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert int(layer.bn.num_batches_tracked) == 2


VARIANTS = ["b0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("b4", "hgnet_tiny"))]


def by_pixel(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return noise(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def gradient_of_a_gradient(network: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
    first.square().sum().backward()
    return x.grad


def functional_gradient(network: nn.Module, x: Tensor) -> Tensor:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        return torch.func.functional_call(network, (parameters, buffers), (x,)).square().sum()

    return torch.func.grad(loss)(dict(network.named_parameters()))["fc.weight"]


def forward_derivative(network: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        return torch.autograd.forward_ad.unpack_dual(network(dual)).tangent


def traced(network: nn.Module, x: Tensor) -> Tensor:
    return torch.jit.trace(network, x, check_trace=False)(x)


def scripted(network: nn.Module, x: Tensor) -> Tensor:
    return torch.jit.script(network)(x)


TRANSFORMS = {
    "second derivative": gradient_of_a_gradient,
    "torch.func.grad": functional_gradient,
    "forward mode": forward_derivative,
    "jit.trace": traced,
    "jit.script": scripted,
}
FIRST_ORDER = {name for name in TRANSFORMS if name not in ("second derivative", "jit.script")}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_the_network_that_a_user_gets_is_that_of_its_formula(
    name, variant, training, filled
):
    """W1: the same in both layouts, and in float64 what differences of the network say."""
    transform, x = TRANSFORMS[name], by_pixel(2, 3, 32, 32, dtype=torch.float64)
    network = filled(variant, 3, torch.float64).train(training)
    wanted = transform(copy.deepcopy(network), x.contiguous())
    found = transform(network.to(memory_format=torch.channels_last), x)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9 * float(wanted.abs().max()))
    assert float(wanted.abs().max()) > 0
    if name in FIRST_ORDER:
        with fast_training(network):
            inside = transform(network, x)
        torch.testing.assert_close(inside, wanted, rtol=1e-6, atol=1e-9 * float(wanted.abs().max()))


def test_leaving_restores_every_layer_whatever_happened_inside(filled):
    network = filled("b0").train()
    before, names = kinds(network), list(network.state_dict())
    with pytest.raises(ZeroDivisionError), fast_training(network) as same:
        assert same is network and kinds(network) != before
        assert list(network.state_dict()) == names
        with fast_training(network):  # once more: nothing is left to change
            pass
        assert kinds(network) != before
        network.stem.stem1.act = nn.Hardswish()
        1 / 0  # noqa: B018
    assert isinstance(network.stem.stem1.act, nn.Hardswish)
    network.stem.stem1.act = nn.ReLU()
    assert kinds(network) == before


def averaged(network: nn.Module, folder: Path) -> nn.Module:
    copied = torch.optim.swa_utils.AveragedModel(network)
    copied.update_parameters(network)
    return copied.module


def pickled(network: nn.Module, folder: Path) -> nn.Module:
    return pickle.loads(pickle.dumps(network))  # noqa: S301 - made here


@pytest.mark.parametrize("copied", [averaged, pickled])
def test_a_copy_made_inside_is_plain_for_good(copied, filled, tmp_path):
    network = filled("b0").train()
    before = kinds(network)
    with fast_training(network):
        again = copied(network, tmp_path)
        assert kinds(again) == before
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )
    assert kinds(again) == kinds(network) == before


def watched_layers(network: nn.Module, watch: Callable[[nn.Module, Callable[[], None]], object]):
    """How many of the layers without children ``watch`` sees called in a fast training pass."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    seen: set[nn.Module] = set()
    for layer in layers:
        watch(layer, lambda layer=layer: seen.add(layer))
    with fast_training(network):
        network(by_pixel(2, 3, 32, 32))
    return len(seen), len(layers)


def by_hook(layer: nn.Module, call: Callable[[], None]) -> None:
    layer.register_forward_hook(lambda *_: call())


def by_backward_hook(layer: nn.Module, call: Callable[[], None]) -> None:
    layer.inplace = False  # torch takes no full hook where what a layer gives is changed in place
    layer.register_full_backward_pre_hook(lambda *_: None)
    by_hook(layer, call)


def by_forward(layer: nn.Module, call: Callable[[], None]) -> None:
    """W2: as offloading, profilers and QAT tools do."""

    def forward(*given, plain=layer.forward):
        call()
        return plain(*given)

    layer.forward = forward


@pytest.mark.parametrize("watch", [by_hook, by_backward_hook, by_forward])
def test_whoever_watches_layers_sees_all_of_them(watch, filled):
    seen, there = watched_layers(filled("b0").train(), watch)
    assert seen == there > 100


def test_a_global_hook_sees_all_layers(filled):
    """W2: as ModuleTracker and profilers register one."""
    network, seen = filled("b0").train(), set()
    with (
        torch.nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.add(layer)),
        fast_training(network),
    ):
        network(by_pixel(2, 3, 32, 32))
    lists = {layer for layer in network.modules() if isinstance(layer, nn.ModuleList)}
    assert seen == set(network.modules()) - lists


def squared_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of the whole gradient, over its squared length."""
    off = sum(float((found[name].double() - one).square().sum()) for name, one in exact.items())
    return off / sum(float(one.square().sum()) for one in exact.values())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_gradients_are_as_near_to_float64s_as_plain_ones(variant, layout, filled):
    """Over seeds, each with both: where some ReLU's input rounds to the other side of 0 in one of
    the two alone, that one loses what they have in common (W14), and it may be either.
    """
    worse = []
    for seed in range(5):
        network = filled(variant)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * noise(*parameter.shape, seed=seed).float())
        x = noise(4, 3, 64, 64, seed=seed).float().contiguous(memory_format=layout)
        network = network.to(memory_format=layout)
        parameters = dict(network.named_parameters())
        exact = everything(copy.deepcopy(network).double(), x.double())
        exact = {name: exact[name] for name in parameters}
        fast, plain = (
            squared_error(everything(network, x, fast=fast), exact) ** 0.5 for fast in (True, False)
        )
        assert fast < 0.5, "of any seed it points where it should"
        worse.append(fast / plain)
    assert sorted(worse)[2] < 1.5, worse
