"""Other projects' names: identities there and back, and agreement with the projects themselves.

The detectors' own code is not at hand, so their trees of modules are built here a second time, from
the published sources and without looking at names.py; strict equality of names and shapes counts.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS
from hgnetv2_pipeline.weights import build, styles
from hgnetv2_pipeline.weights.load import (
    export_weights,
    load_weights,
    read_file,
    read_state,
    to_paddle,
    write_pdparams,
)
from hgnetv2_pipeline.weights.places import Wanted

ALL = [*VARIANTS, *HGNET_SIZES]
BACKBONES = ("dfine", "rtdetr", "transformers")


@pytest.fixture(scope="module")
def ghost() -> Callable[[str], dict[str, Tensor]]:
    """The state of a network that has names and shapes and no values."""
    made: dict[str, dict[str, Tensor]] = {}

    def make(variant: str) -> dict[str, Tensor]:
        if variant not in made:
            with torch.device("meta"):
                made[variant] = create.create_model(variant, 7).state_dict()
        return made[variant]

    return make


@pytest.fixture(scope="module")
def b0(filled) -> nn.Module:
    return filled("b0")


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("style", styles.STYLE_NAMES)
def test_there_and_back_is_an_identity(style, variant, ghost):
    # A number a tensor: a mix-up of two names would show even between tensors of one shape.
    state = {
        key: torch.full((2, 3) if key == "fc.weight" else (1,), float(number))
        for number, key in enumerate(styles.drop_counters(ghost(variant)))
    }
    if style in BACKBONES and variant in HGNET_SIZES:
        with pytest.raises(WeightsError, match="has no PPHGNet, only PP-HGNetV2; .* paddle, timm"):
            styles.style_for(style, state)
        return
    known = styles.style_for(style, state)
    theirs, left = styles.to_theirs(state, known)
    assert styles.recognise(theirs) is known
    back = styles.to_ours(theirs, known)
    assert {key.split(".")[0] for key in left} <= set(styles.CLASSIFIER)
    assert bool(left) == (style in BACKBONES)
    assert [*back, *left] == list(state)
    assert all(torch.equal(back[key], state[key]) for key in back)
    if style == "paddle":
        assert theirs["fc.weight"].shape == (3, 2)


def test_a_style_nobody_has_is_refused_with_the_known_ones():
    with pytest.raises(ParameterError, match="did you mean 'dfine'.*paddle, timm, dfine, rtdetr"):
        styles.style_for("dfin", ())
    assert styles.recognise(["conv.weight"]) is None


# --- agreement with the projects ------------------------------------------------------------------


@pytest.mark.parametrize("variant", ALL)
def test_timms_networks_have_these_names_and_shapes(variant, ghost):
    state = ghost(variant)
    with torch.device("meta"):
        name = variant if variant.startswith("hgnet") else f"hgnetv2_{variant}"
        theirs = timm.create_model(name, pretrained=False, num_classes=7).state_dict()
    ours, _ = styles.to_theirs(state, styles.style_for("timm", state))
    assert shapes(ours) == shapes(theirs)


class Tree(nn.ModuleDict):
    """A detector's backbone as a tree of named layers; only its state dict is of interest."""

    def __init__(self, variant: str, project: str) -> None:
        row = VARIANTS[variant]
        hf = project == "transformers"

        def unit(inputs: int, outputs: int, kernel: int, *, groups: int = 1, act: bool = True,
                 padded: bool = False) -> nn.ModuleDict:  # fmt: skip
            conv: nn.Module = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
            if padded and project == "rtdetr":  # its pad is a layer, the convolution the second
                conv = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv)
            layers = nn.ModuleDict()
            layers["convolution" if hf else "conv"] = conv
            layers["normalization" if hf else "bn"] = nn.BatchNorm2d(outputs)
            if act and row.lab:
                affine = nn.Module()
                affine.scale = nn.Parameter(torch.ones(1))
                affine.bias = nn.Parameter(torch.zeros(1))
                layers["lab"] = affine
            return layers

        def light(inputs: int, outputs: int) -> nn.ModuleDict:
            second = unit(outputs, outputs, 5, groups=outputs)
            return nn.ModuleDict({"conv1": unit(inputs, outputs, 1, act=False), "conv2": second})

        def block(stage: int, inputs: int) -> nn.ModuleDict:
            middle, outputs = row.mid[stage], row.out[stage]
            members = nn.ModuleDict({"layers": nn.ModuleList()})
            for index in range(row.layers):
                before = middle if index else inputs
                layer = light(before, middle) if stage >= 2 else unit(before, middle, 3)
                members["layers"].append(layer)
            squeeze = unit(inputs + row.layers * middle, outputs // 2, 1)
            excite = unit(outputs // 2, outputs, 1)
            if project == "rtdetr":
                members["aggregation_squeeze_conv"] = squeeze
                members["aggregation_excitation_conv"] = excite
            else:
                members["aggregation"] = nn.ModuleList([squeeze, excite])
            return members

        middle, inputs = row.stem
        stem = nn.ModuleDict(
            {
                "stem1": unit(3, middle, 3),
                "stem2a": unit(middle, middle // 2, 2, padded=True),
                "stem2b": unit(middle // 2, middle, 2, padded=True),
                "stem3": unit(middle * 2, middle, 3),
                "stem4": unit(middle, inputs, 1),
            }
        )
        stages = nn.ModuleList()
        for stage in range(4):
            members = nn.ModuleDict()
            if stage:
                members["downsample"] = unit(inputs, inputs, 3, groups=inputs, act=False)
            members["blocks"] = nn.ModuleList()
            for _ in range(row.depths[stage]):
                members["blocks"].append(block(stage, inputs))
                inputs = row.out[stage]
            stages.append(members)
        if hf:
            super().__init__({"embedder": stem, "encoder": nn.ModuleDict({"stages": stages})})
        else:
            super().__init__({"stem": stem, "stages": stages})


# Tensors of each backbone as the detectors hold it, without the counters of batches: 5 for each
# convolution with its norm and 2 for each affine. b4 has 5 + 3 of them in stem and downsampling,
# 8 in each of two plain blocks and 14 in each of four light ones: 80.
COUNTS = {"b0": 270, "b1": 270, "b2": 382, "b3": 444, "b4": 400, "b5": 650, "b6": 870}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("project", BACKBONES)
def test_the_detectors_trees_have_these_names_and_shapes(project, variant, ghost):
    with torch.device("meta"):
        theirs = Tree(variant, project).state_dict()
    ours, _ = styles.to_theirs(ghost(variant), styles.style_for(project, ghost(variant)))
    assert shapes(ours) == shapes(theirs)
    assert len(styles.drop_counters(ours)) == COUNTS[variant]


def test_spelled_out_names_of_the_detectors(ghost):
    expected = {
        "dfine": [
            "stem.stem2a.conv.weight",
            "stages.0.blocks.0.aggregation.1.bn.running_var",
            "stages.2.blocks.1.layers.2.conv2.lab.scale",
            "stages.3.downsample.conv.weight",
        ],
        "rtdetr": [
            "stem.stem2a.conv.1.weight",
            "stages.0.blocks.0.aggregation_excitation_conv.bn.running_var",
            "stages.2.blocks.1.layers.2.conv2.lab.scale",
        ],
        "transformers": [
            "embedder.stem2a.convolution.weight",
            "encoder.stages.0.blocks.0.aggregation.1.normalization.running_var",
            "encoder.stages.2.blocks.1.layers.2.conv2.lab.scale",
            "encoder.stages.3.downsample.convolution.weight",
        ],
    }
    for style, keys in expected.items():
        ours, _ = styles.to_theirs(ghost("b0"), styles.style_for(style, ghost("b0")))
        assert set(keys) <= set(ours), style


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "suffix"),
    [(style, s) for style in styles.STYLE_NAMES for s in styles.style_for(style, ()).suffixes],
)
def test_a_written_file_is_read_back_exactly(style, suffix, b0, tmp_path):
    path = tmp_path / f"w{suffix}"
    report = export_weights(b0, path, style)
    read = read_state(path)
    assert (read.style, read.sha256, read.ignored) == (style, report.sha256, ())
    state = styles.drop_counters(b0.state_dict())
    backbone = style in BACKBONES
    assert report.left_out == (("last_conv", "lab", "fc") if backbone else ())
    assert read.has_classifier is not backbone
    assert len(read.tensors) == report.n_tensors == (270 if backbone else 275)
    assert all(torch.equal(value, state[key]) for key, value in read.tensors.items())
    assert any("pool_padding='zero'" in remark for remark in report.remarks) == (
        style not in ("paddle", "ours")
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert export_weights(b0, path, style).sha256 == report.sha256  # the same bytes again


def test_timm_takes_the_written_file_strictly_and_gives_our_outputs(b0, tmp_path):
    images = torch.from_numpy(np.random.RandomState(1).normal(size=(1, 3, 64, 96)).astype("f4"))
    # timm pads the pool of its stem with zeros, which shows where LAB makes a map negative.
    bordered = create.create_model("b0", 3, pool_padding="zero").eval()
    bordered.load_state_dict(b0.state_dict())
    for suffix in (".safetensors", ".pth"):
        export_weights(b0, tmp_path / f"t{suffix}", "timm")
        with torch.device("meta"):
            other = timm.create_model("hgnetv2_b0", pretrained=False, num_classes=3)
        other = other.to_empty(device="cpu").eval()
        timm.models.load_checkpoint(other, str(tmp_path / f"t{suffix}"), strict=True)
        with torch.inference_mode():
            theirs, ours = other(images), bordered(images)
        assert float((theirs - ours).abs().max() / ours.abs().max()) < 1e-5


def test_a_detectors_file_loads_there_strictly_with_and_without_frozen_norms(b0, tmp_path):
    export_weights(b0, tmp_path / "d.pth", "dfine")
    state = torch.load(tmp_path / "d.pth", weights_only=True)
    Tree("b0", "dfine").load_state_dict(state, strict=True)
    # A frozen norm drops the counters while loading; a plain one may lack them.
    Tree("b0", "dfine").load_state_dict(styles.drop_counters(state), strict=True)


def test_what_a_style_cannot_hold_is_refused_before_anything_is_written(b0, ghost, tmp_path):
    with pytest.raises(ParameterError, match=r"weights of dfine are written to \.pth"):
        export_weights(b0, tmp_path / "d.safetensors", "dfine")
    with pytest.raises(ParameterError, match="protocol 5"):
        export_weights(b0, tmp_path / "d.pdparams", "paddle", protocol=5)
    with pytest.raises(WeightsError, match="rtdetr has no PPHGNet"):
        export_weights(ghost("hgnet_tiny"), tmp_path / "d.pth", "rtdetr")
    assert list(tmp_path.iterdir()) == []


# --- networks inside other things -----------------------------------------------------------------


def detector(b0: nn.Module, style: str, prefix: str = "backbone.") -> dict[str, Tensor]:
    state, _ = styles.to_theirs(b0.state_dict(), styles.style_for(style, b0.state_dict()))
    rest = {"encoder.input_proj.0.conv.weight": torch.zeros(2), "decoder.anchors": torch.arange(3)}
    return {f"{prefix}{key}": value for key, value in state.items()} | rest


@pytest.mark.parametrize("style", ["dfine", "rtdetr", "transformers", "paddle"])
def test_a_detectors_checkpoint_gives_its_averaged_backbone(style, b0, tmp_path):
    path = tmp_path / "detector.pth"
    averaged = detector(b0, style, "model.backbone." if style == "transformers" else "backbone.")
    last = {key: torch.zeros_like(value) for key, value in averaged.items()}
    torch.save(
        {
            "date": "2026-11-23",
            "last_epoch": 71,
            "model": last,
            "ema": {"module": averaged, "updates": 9},
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
        path,
    )
    read = read_state(path)
    assert read.style == style
    assert read.ignored == (
        "encoder.input_proj.0.conv.weight", "decoder.anchors", "date", "last_epoch", "model",
        "optimizer", "ema.updates",
    )  # fmt: skip
    assert torch.equal(read.tensors["stem.stem1.conv.weight"], b0.stem.stem1.conv.weight)
    classifier = 5 if style == "paddle" else 0
    assert len(read.tensors) == 270 + classifier


def test_a_backbone_alone_starts_the_whole_classifier_afresh_and_only_when_asked(b0, tmp_path):
    path = tmp_path / "backbone.pth"
    torch.save({"model": detector(b0, "dfine")}, path)
    model = create.create_model("b0", 3)
    with torch.no_grad():
        model.lab.scale.fill_(7)
        model.last_conv.weight.zero_()
    with pytest.raises(WeightsError, match=r"backbone without a classifier: .* head: reinit"):
        load_weights(model, path)
    report = load_weights(model, path, "reinit")
    assert report.fresh == ("last_conv", "lab", "fc")
    assert "last_conv and lab and fc start afresh" in str(report)
    assert (report.n_tensors, report.style) == (270, "dfine")
    assert torch.equal(model.stages[3].blocks[0].layers[0].conv1.conv.weight,
                       b0.stages[3].blocks[0].layers[0].conv1.conv.weight)  # fmt: skip
    assert (model.lab.scale.item(), model.lab.bias.item()) == (1, 0)
    # Kaiming normal by fan-in: 1024 channels come in.
    assert model.last_conv.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    spec = f"{path}@pool_padding=exclude"
    built, info = build.build_from(spec, num_classes=5, root=tmp_path, head="reinit")
    assert (info["variant"], info["head"], built.fc.out_features) == ("b0", "reinitialised", 5)
    for options in ({"num_classes": 5}, {"num_classes": None}):
        with pytest.raises((WeightsError, ParameterError), match="reinit|say how many classes"):
            build.build_from(spec, root=tmp_path, **options)


def test_reinit_starts_fc_alone_where_the_rest_of_the_classifier_is_there(b0, tmp_path):
    state = dict(b0.state_dict())
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "w.pth")
    model = create.create_model("b0", 3)
    with pytest.raises(WeightsError, match=r"fc\.weight is missing, fc\.bias .* head: reinit"):
        load_weights(model, tmp_path / "w.pth")
    assert load_weights(model, tmp_path / "w.pth", "reinit").fresh == ("fc",)
    assert torch.equal(model.last_conv.weight, b0.last_conv.weight)
    del state["last_conv.weight"]  # lab is still there: a damaged file, not a backbone
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"last_conv\.weight is missing$"):
        load_weights(model, tmp_path / "w.pth", "reinit")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.Student.", "Student.module."])
def test_wrappers_are_taken_off_however_they_are_nested(prefix, b0, tmp_path):
    state = {f"{prefix}{key}": value for key, value in b0.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    model = create.create_model("b0", 3)
    report = load_weights(model, tmp_path / "w.pth")
    assert (report.n_tensors, report.ignored) == (275, ())


def test_a_stray_tensor_is_refused_unless_it_belongs_to_another_network(b0, tmp_path):
    state = {f"module.{key}": value for key, value in b0.state_dict().items()}
    torch.save(state | {"queue": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="queue is unknown to the network"):
        load_weights(create.create_model("b0", 3), tmp_path / "w.pth")


def test_a_checkpoint_inside_itself_is_refused(tmp_path):
    checkpoint: dict[str, object] = {"epoch": 1}
    checkpoint["model"] = checkpoint
    torch.save(checkpoint, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="nested deeper than 64"):
        read_state(tmp_path / "w.pth")


def test_two_networks_without_roles_are_refused_by_their_prefixes(b0, tmp_path):
    state = b0.state_dict()
    both = {f"{name}.{key}": value for name in ("left", "right") for key, value in state.items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds 2 networks, below 'left\.', 'right\.'"):
        read_state(tmp_path / "w.pth")


def test_a_network_beside_its_teacher_is_the_student_whatever_the_teacher_is(b0, tmp_path):
    beside = to_paddle(b0) | {"Teacher.conv1.weight": np.zeros((2, 2), np.float32)}
    write_pdparams(tmp_path / "w.pdparams", beside)
    read = read_state(tmp_path / "w.pdparams")
    assert read.ignored == ("Teacher.conv1.weight",)
    assert len(read.tensors) == 275
    with pytest.raises(WeightsError, match="the teacher in .* is no network of ours"):
        read_state(tmp_path / "w.pdparams", Wanted("teacher"))


def test_entries_of_a_pdparams_that_are_no_tensors_are_named(tmp_path):
    path: Path = tmp_path / "w.pdparams"
    content = {"conv.weight": np.zeros((2, 2), np.float32), "epoch": 3, "more": {"note": "x"}}
    path.write_bytes(pickle.dumps(content, protocol=4))
    file = read_file(path)
    assert list(file.tensors) == ["conv.weight"]
    assert file.left_aside == ("epoch", "more.note")
    assert read_state(path).ignored == ("epoch", "more.note")
    assert read_state(path).style == "unknown"
