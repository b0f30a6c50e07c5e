"""A network by one word: zoo name, file, run, timm name, scratch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from hgnetv2_pipeline.durable import sha256_file
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import build, zoo
from hgnetv2_pipeline.weights.formula import formula_tensor
from hgnetv2_pipeline.weights.load import save_weights, to_paddle, write_pdparams
from hgnetv2_pipeline.weights.zoo import ZOO


@pytest.fixture(scope="module")
def b0() -> torch.nn.Module:
    torch.manual_seed(0)
    return create.create_model("b0", 3)


@pytest.fixture
def root(b0, tmp_path: Path) -> Path:
    metadata = {
        "format": "hgnetv2_pipeline/1",
        "variant": "b0",
        "stage": "ssld_stage1",
        "classes": json.dumps(["cat", "dog", "é"]),
        "num_classes": "3",
        "preprocess": json.dumps({"resize_short": 36, "crop": 32}),
    }
    save_weights(tmp_path / "run" / "student.safetensors", b0, metadata)
    write_pdparams(tmp_path / "weights" / ZOO["b0.ssld_stage2"].filename, to_paddle(b0))
    return tmp_path


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("spec", ["run", "run/student.safetensors"])
def test_a_run_comes_with_all_it_says_of_itself(spec, root, b0):
    model, info = build.build_from(spec, num_classes=3, root=root)
    assert equal(model, b0)
    assert info == {
        "variant": "b0",
        "stage": "ssld_stage1",
        "classes": ["cat", "dog", "é"],
        "num_classes": 3,
        "preprocess": {"resize_short": 36, "crop": 32},
        "source": spec,
        "sha256": sha256_file(root / "run" / "student.safetensors"),
        "head": "loaded",
        "task": "single_label",
        "thresholds": None,
    }


def test_an_absolute_path_works_from_any_root(root, b0):
    model, _ = build.build_from(str(root / "run"), num_classes=None, root=Path("elsewhere"))
    assert equal(model, b0)


def test_a_new_head_has_no_class_names(root, b0):
    with pytest.raises(WeightsError, match="head: reinit"):
        build.build_from("run", num_classes=5, root=root)
    model, info = build.build_from("run", num_classes=5, root=root, head="reinit")
    assert model.fc.out_features == 5
    assert torch.equal(model.last_conv.weight, b0.last_conv.weight)
    assert (info["classes"], info["num_classes"], info["head"]) == (None, 5, "reinitialised")


def test_a_zoo_name_is_looked_up_below_the_root(root, b0):
    model, info = build.build_from("b0.ssld_stage2", num_classes=3, root=root)
    assert equal(model, b0)
    assert (info["variant"], info["stage"]) == ("b0", "ssld_stage2")
    assert info["preprocess"] == {"resize_short": 236}


def test_absent_weights_say_where_they_belong_and_are_fetched_only_on_request(
    root, b0, monkeypatch
):
    with pytest.raises(WeightsError, match=r"PPHGNetV2_B0_ssld_stage1.*weights.*download=true"):
        build.build_from("b0.ssld_stage1", num_classes=3, root=root)
    asked = []

    def fake(entry, folder):
        asked.append((entry.name, folder))
        write_pdparams(folder / entry.filename, to_paddle(b0))
        return folder / entry.filename

    monkeypatch.setattr(zoo, "fetch", fake)
    model, _ = build.build_from("b0.ssld_stage1", num_classes=3, root=root, download=True)
    assert asked == [("b0.ssld_stage1", root / "weights")]
    assert equal(model, b0)


@pytest.mark.parametrize("variant", ["b0", "b1", "b4", "hgnet_tiny"])
def test_a_bare_file_is_known_by_its_tensors(variant, tmp_path):
    model = create.create_model(variant, 2)
    write_pdparams(tmp_path / "w.pdparams", to_paddle(model))
    again, info = build.build_from("w.pdparams", num_classes=None, root=tmp_path)
    assert again.variant == info["variant"] == variant
    assert info["num_classes"] == 2
    assert equal(again, model)


# Row W06 of docs/reliability.md.
def test_a_file_of_another_network_is_refused(tmp_path):
    arrays = {"conv.weight": formula_tensor("conv.weight", (4, 3, 3, 3))}
    write_pdparams(tmp_path / "w.pdparams", arrays)
    with pytest.raises(WeightsError, match=r"fits none of b0, b1"):
        build.build_from("w.pdparams", num_classes=None, root=tmp_path)


def test_scratch_and_timm_need_no_file(tmp_path):
    model, info = build.build_from("scratch:b1", num_classes=4, root=tmp_path)
    assert (model.variant, model.fc.out_features) == ("b1", 4)
    assert (info["sha256"], info["head"]) == (None, "reinitialised")
    model, info = build.build_from("timm:resnet10t", num_classes=4, root=tmp_path)
    assert model.num_classes == 4
    assert info["variant"] == "timm:resnet10t"
    assert info["preprocess"]["crop"] == 176
    assert info["preprocess"]["resize_short"] >= 176
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4)


def test_timm_weights_are_asked_for_only_by_the_ending(monkeypatch, tmp_path):
    asked = []

    def refuse(name, pretrained, **options):
        asked.append((name, pretrained, options))
        raise OSError("no network here\nlong story")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(WeightsError, match="timm cannot give .*resnet18.*: no network here$"):
        build.build_from("timm:resnet18:pretrained", num_classes=1000, root=tmp_path)
    assert asked == [("resnet18", True, {})]
    with pytest.raises(WeightsError, match="has 1000 classes, not 7; say head: reinit"):
        build.build_from("timm:resnet18:pretrained", num_classes=7, root=tmp_path)
    with pytest.raises(WeightsError):
        build.build_from("timm:resnet18:pretrained", num_classes=7, root=tmp_path, head="reinit")
    assert asked[1:] == [("resnet18", True, {"num_classes": 7})]


@pytest.mark.parametrize(
    ("spec", "error", "reason"),
    [
        ("scratch:b9", ParameterError, "unknown variant 'b9'"),
        ("timm:resnet81", ParameterError, "unknown timm model 'resnet81'"),
        ("timm:resnet18:pretraind", ParameterError, "the endings are ':pretrained'"),
        ("b0", ParameterError, r"'scratch:b0' or 'b0\.ssld_stage2' or .*; a model is a file"),
        ("scratch:hgnetv2_b9", ParameterError, "did you mean 'b6'"),
        ("timm:hgnetv22", ParameterError, r"did you mean 'hgnetv2_b\d' or .*timm\.list_models"),
        ("nowhere", ParameterError, r"^unknown model 'nowhere'; a model is a file, [^.]*$"),
        ("b4.ssld_stage3", ParameterError, r"did you mean 'b4\.ssld_stage2"),
        ("", WeightsError, "no finished run"),
        ("some/run", WeightsError, "no weight file or run at"),
        ("weights", WeightsError, "has no student.safetensors"),
        ("absent.pdparams", WeightsError, "no weight file or run at"),
    ],
)
def test_a_wrong_word_is_refused_by_name(spec, error, reason, root):
    with pytest.raises(error, match=reason):
        build.build_from(spec, num_classes=3, root=root)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("classes", "cat, dog"),
        ("classes", '{"a": 1}'),
        ("classes", "[1, 2, 3]"),
        ("classes", "[" * 10_000),
        ("preprocess", "[]"),
        ("preprocess", '{"crop": 32.5}'),
        ("preprocess", '{"crop": 60000, "resize_short": 60000}'),
        ("preprocess", '{"mean": [NaN, 0, 0]}'),
        ("preprocess", '{"std": [0, 0, 0]}'),
        ("preprocess", '{"colour": "red"}'),
        ("thresholds", "[0.5]"),
        ("thresholds", "[0.5, 0.5, 1e400]"),
        ("variant", "b9"),
        ("variant", "b0\x1b[2J"),
    ],
)
def test_metadata_outside_their_range_are_the_files_fault(entry, text, b0, tmp_path):
    save_weights(tmp_path / "student.safetensors", b0, {"variant": "b0", entry: text})
    with pytest.raises(WeightsError, match=r"student\.safetensors (has|fits)") as caught:
        build.build_from(str(tmp_path), num_classes=3, root=tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_the_formula_depends_on_name_and_shape_alone():
    first = formula_tensor("a.lab.scale", (1,))
    assert first.dtype == np.float32
    assert np.array_equal(first, formula_tensor("a.lab.scale", (1,)))
    assert not np.array_equal(first, formula_tensor("b.lab.scale", (1,)))
    assert (formula_tensor("bn._variance", (500,)) >= 0.5).all()
    assert formula_tensor("fc.weight", (64, 64)).std() == pytest.approx(0.05, rel=0.1)
    assert formula_tensor("bn._mean", (900,)).std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [((10**6, 1), 10**6), ((4, 2048), 10**6), ((10**6,), 10**6), ((3, 2047), 3), (None, 3)],
)
def test_a_head_that_is_none_of_ours_is_refused_before_a_network_is_made_for_it(
    weight, bias, b0, tmp_path, monkeypatch
):
    """A million classes are 4 MB in this file and 8 GB in a network."""
    state = {k: v for k, v in b0.state_dict().items() if not k.startswith("fc.")}
    state["fc.bias"] = torch.zeros(bias)
    if weight is not None:
        state["fc.weight"] = torch.zeros(weight)
    torch.save(state, tmp_path / "w.pth")
    monkeypatch.setattr(build, "create_model", None)
    with pytest.raises(WeightsError, match=r"fc\.weight is .* and fc\.bias "):
        build.build_from("w.pth", num_classes=None, root=tmp_path)
