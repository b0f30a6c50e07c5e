"""Mixup and CutMix: timm's pixels and targets, the soft-target loss, the same draws every time."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_recipes import ASL, BCE, LABELS, SSLD, recipe, values

from hgnetv2_pipeline.training.config import LossConfig, TrainConfig
from hgnetv2_pipeline.training.losses import label_smoothing_cross_entropy
from hgnetv2_pipeline.training.mixing import Mixing, _cut_out
from hgnetv2_pipeline.training.objectives import MultiLabelObjective, SupervisedObjective

IMAGES = torch.randn(6, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def timm_mixup():
    """timm's module alone: importing all of timm takes ten seconds."""
    path = Path(importlib.util.find_spec("timm").origin).parent / "data" / "mixup.py"
    spec = importlib.util.spec_from_file_location("timm_mixup", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mixed(mixing: Mixing, seed: int):
    torch.manual_seed(seed)
    return mixing(IMAGES)


def soft_target_loss(logits, labels, share, epsilon) -> float:
    """Cross-entropy against timm's mixed and smoothed targets, in NumPy."""
    logits, labels = logits.numpy().astype(np.float64), labels.numpy()
    n, classes = logits.shape
    own = np.full((n, classes), epsilon / classes)
    own[np.arange(n), labels] += 1 - epsilon
    target = share * own + (1 - share) * own[::-1]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-(target * log_p).sum(axis=1).mean())


def test_mixup_is_timms_on_the_same_share(timm_mixup, monkeypatch):
    ours, share = mixed(Mixing(0.4, 0.0, 1.0, 0.5), seed=1)
    monkeypatch.setattr(timm_mixup.np.random, "beta", lambda a, b: share)
    theirs = timm_mixup.Mixup(0.4, 0.0, label_smoothing=0.1, num_classes=5)
    expected, _ = theirs(IMAGES.clone(), torch.arange(6) % 5)
    assert 0 < share < 1 and torch.allclose(ours, expected, atol=1e-6)


def test_cutmix_cuts_timms_rectangle(timm_mixup, monkeypatch):
    for share in np.linspace(0, 0.999, 23):
        for down, across in np.random.default_rng(0).random((20, 2)):
            draws = iter([int(down * 12), int(across * 16)])
            monkeypatch.setattr(timm_mixup.np.random, "randint", lambda *a, d=draws, **k: next(d))
            assert _cut_out(12, 16, share, down, across) == tuple(
                int(edge) for edge in timm_mixup.rand_bbox((3, 12, 16), share)
            )


def test_cutmix_takes_a_rectangle_of_the_partner_and_its_share_of_the_label():
    shares = []
    for seed in range(60):
        ours, share = mixed(Mixing(0.0, 1.0, 1.0, 0.5), seed)
        from_partner = (ours == IMAGES.flip(0)) & (ours != IMAGES)
        assert torch.equal(torch.where(from_partner, IMAGES.flip(0), IMAGES), ours)
        patch = from_partner.all(dim=1)
        assert bool((patch == patch[0]).all())
        assert share == pytest.approx(1 - patch[0].float().mean().item(), abs=1e-6)
        shares.append(share)
    assert min(shares) < 0.5 and max(shares) > 0.9 and len(set(shares)) > 20


def test_share_and_kind_follow_alpha_probability_and_switch():
    draws = [mixed(Mixing(0.2, 0.0, 0.5, 0.5), seed)[1] for seed in range(400)]
    untouched = sum(share == 1.0 for share in draws)
    assert 160 < untouched < 240
    beta = np.array([share for share in draws if share < 1])
    assert np.var(beta) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.2)
    both = [mixed(Mixing(0.2, 1.0, 1.0, 0.25), seed)[0] for seed in range(400)]
    # CutMix leaves every value one that was there; Mixup leaves hardly any.
    cut = sum(bool(((x == IMAGES) | (x == IMAGES.flip(0))).all()) for x in both)
    assert 65 < cut < 140


def test_the_same_seed_mixes_alike_and_leaves_the_images_alone():
    before = IMAGES.clone()
    for mixing in (Mixing(0.2, 0.0, 1.0, 0.5), Mixing(0.0, 1.0, 1.0, 0.5)):
        (first, a), (second, b) = mixed(mixing, 5), mixed(mixing, 5)
        assert a == b and torch.equal(first, second) and mixed(mixing, 6)[1] != a
    assert torch.equal(IMAGES, before)
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    for mixing in (Mixing(0.2, 0.0, 1.0, 0.5), Mixing(0.0, 1.0, 1.0, 0.5)):
        assert mixing(last)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 1.0, 0.5), Mixing(0.0, 1.0, 1.0, 0.5)])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_loss_is_that_of_timms_soft_targets(mixing, epsilon, timm_mixup):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 5))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    objective = SupervisedObjective(lambda images: images, epsilon, None, mixing)
    torch.manual_seed(11)
    loss, counts = objective(network, IMAGES, labels)
    pixels, share = mixed(mixing, 11)
    with torch.no_grad():
        logits = network(pixels)
    assert loss.item() == pytest.approx(soft_target_loss(logits, labels, share, epsilon), rel=1e-5)
    target = timm_mixup.mixup_target(labels, 5, share, epsilon)
    assert loss.item() == pytest.approx(
        -(target * logits.log_softmax(dim=1)).sum(dim=1).mean().item(), rel=1e-5
    )
    larger = labels if share >= 0.5 else labels.flip(0)
    assert counts["train_top1"].item() == (logits.argmax(dim=1) == larger).sum().item()


@pytest.mark.parametrize(("share", "right"), [(0.7, 6), (0.5, 6), (0.3, 0)])
def test_right_is_the_label_with_the_larger_share(share, right):
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    answers = nn.functional.one_hot(labels).float()
    objective = SupervisedObjective(
        lambda images: images, 0.0, None, lambda images: (images, share)
    )
    _, counts = objective(lambda images: answers, IMAGES, labels)
    assert counts["train_top1"].item() == right


def test_class_weights_are_mixed_with_the_labels():
    weights = torch.tensor([0.5, 2.0])
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2))
    mixing = Mixing(0.4, 0.0, 1.0, 0.5)
    torch.manual_seed(2)
    loss, _ = SupervisedObjective(lambda images: images, 0.1, weights, mixing)(
        network, IMAGES, labels
    )
    pixels, share = mixed(mixing, 2)
    parts = [
        label_smoothing_cross_entropy(network(pixels), one, 0.1, weights)
        for one in (labels, labels.flip(0))
    ]
    assert torch.allclose(loss, share * parts[0] + (1 - share) * parts[1])


@pytest.mark.parametrize("loss", [BCE, ASL])
@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, 1.0, 0.5), Mixing(0.0, 1.0, 1.0, 0.5)])
def test_labels_of_several_classes_are_mixed_as_the_images_are(mixing, loss):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 5))
    labels = torch.randint(0, 2, (6, 5), dtype=torch.uint8)
    config = LossConfig.model_validate(loss)
    torch.manual_seed(11)
    value, counts = MultiLabelObjective(lambda images: images, config, None, mixing)(
        network, IMAGES, labels
    )
    pixels, share = mixed(mixing, 11)
    assert 0 < share < 1 and counts == {}
    plain = MultiLabelObjective(lambda images: pixels, config)
    parts = [plain(network, IMAGES, one)[0] for one in (labels, labels.flip(0))]
    torch.testing.assert_close(value, share * parts[0] + (1 - share) * parts[1])


def test_senseless_mixing_is_refused():
    on = {"mixup": 0.2, "cutmix": 0.0, "probability": 1.0, "switch": 0.5}
    assert recipe(loss=LABELS, mix=on).mix.mixup == 0.2
    with pytest.raises(ValueError, match="no labels to mix"):
        TrainConfig.model_validate(values(loss=SSLD, mix=on))
    with pytest.raises(ValueError, match="both 0"):
        TrainConfig.model_validate(values(mix={**on, "mixup": 0.0}))
    with pytest.raises(ValueError, match="knows augmentation 'published'"):
        on_cpu = {"fast": True, "device": "none", "resized": None}
        TrainConfig.model_validate(values(input=on_cpu))
