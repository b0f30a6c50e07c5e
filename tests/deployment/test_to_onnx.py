"""The exported file: what it computes, of what it is made, what it says about itself."""

from __future__ import annotations

import collections
import importlib.util
import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deployment_cases import CLASSES, SIDE, formula_model
from torch import nn

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.deployment.card import ModelCard
from hgnetv2_pipeline.deployment.engines.ladder import load_engine
from hgnetv2_pipeline.deployment.export import to_onnx
from hgnetv2_pipeline.deployment.export.bundle import write_bundle
from hgnetv2_pipeline.deployment.export.gate import ExportError
from hgnetv2_pipeline.deployment.export.half import to_half
from hgnetv2_pipeline.deployment.export.onnx_graph import FLOAT32_ENDS
from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx, verify_onnx
from hgnetv2_pipeline.deployment.onnx_session import session_logits
from hgnetv2_pipeline.durable import read_json, sha256_file
from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models.cost import measure_cost
from hgnetv2_pipeline.variants import HGNET_SIZES, VARIANTS


def operators(path: Path) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def onnx_against_torch(model: nn.Module, path: Path, batch: int) -> float:
    """Largest difference to float64 PyTorch over the logits' standard deviation."""
    images = np.random.default_rng(batch).standard_normal((batch, 3, SIDE, SIDE), np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"images": images})
    exact = type(model).double(model)
    with torch.inference_mode():
        wanted = exact(torch.from_numpy(images).double()).numpy()
    model.float()
    assert np.ptp(wanted, axis=0).max() > 1e-3 or batch == 1, "the answer must depend on the image"
    return float(np.abs(got - wanted).max() / wanted.std())


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("b0", {}),
        ("b0", {"pool_padding": "zero"}),
        pytest.param("b0", {"dropout": 0.2}, marks=pytest.mark.slow),
        pytest.param("b2", {}, marks=pytest.mark.slow),
        pytest.param("b4", {}, marks=pytest.mark.slow),
        pytest.param("hgnet_tiny", {}, marks=pytest.mark.slow),
    ],
)
def test_onnx_equals_torch_at_batch_1_3_and_8(
    variant: str, arguments: dict[str, object], tmp_path: Path
) -> None:
    model = formula_model(variant, **arguments)
    path = export_onnx(model, tmp_path / "model.onnx", SIDE)
    for batch in (1, 3, 8):
        assert onnx_against_torch(model, path, batch) <= 5e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, *HGNET_SIZES])
def test_every_network_on_every_cpu_engine(variant: str, tmp_path: Path) -> None:
    model = formula_model(variant)
    path = export_onnx(model, tmp_path / "model.onnx", SIDE, CLASSES)
    images = np.random.default_rng(1).standard_normal((2, 3, SIDE, SIDE), np.float32)
    with torch.inference_mode():
        wanted = model.double()(torch.from_numpy(images).double()).numpy()
    for engine in ("ort", "openvino") if importlib.util.find_spec("openvino") else ("ort",):
        got = load_engine(path, engine, threads=1).logits(images)
        assert np.abs(got - wanted).max() <= 5e-5 * wanted.std(), engine


def test_a_stray_network_is_told_from_the_right_one(b0_onnx: Path) -> None:
    other = formula_model("b0", pool_padding="zero")
    with pytest.raises(ExportError, match="strays from PyTorch"):
        verify_onnx(other, b0_onnx)


def test_b0_is_85_nodes_without_pad_mul_or_batch_norm(b0_onnx: Path) -> None:
    counts = operators(b0_onnx)
    assert counts == {
        "Conv": 43, "Relu": 19, "Clip": 12, "Concat": 5, "MaxPool": 1, "Add": 2,
        "ReduceMean": 1, "Gemm": 2,
    }  # fmt: skip
    assert sum(counts.values()) == 85


def test_the_graph_has_a_free_batch_opset_18_and_the_agreed_names(b0_onnx: Path) -> None:
    model = onnx.load(b0_onnx)
    (given,), (answer,) = model.graph.input, model.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert (given.name, sizes) == ("images", ["batch", 3, SIDE, SIDE])
    sizes = [dim.dim_param or dim.dim_value for dim in answer.type.tensor_type.shape.dim]
    assert (answer.name, sizes) == ("logits", ["batch", len(CLASSES)])
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


def test_the_file_says_what_it_is(b0: nn.Module, b0_onnx: Path) -> None:
    props = {entry.key: entry.value for entry in onnx.load(b0_onnx).metadata_props}
    assert json.loads(props["classes"]) == list(CLASSES)
    assert json.loads(props["preprocess"])["crop"] == SIDE
    assert props["variant"] == "b0"
    assert props["stage"] == "ssld_stage1"
    assert 0 <= float(props["parity_error"]) <= 5e-5
    card = ModelCard.from_props(props, b0_onnx)
    assert card.preprocess == Preprocess(resize_short=66, crop=SIDE)
    assert card.source_sha256 == "ab" * 32
    assert card.macs == measure_cost(b0, SIDE).macs
    assert ModelCard.from_props(card.to_props(), b0_onnx) == card


def test_the_same_model_gives_the_same_bytes(b0: nn.Module, tmp_path: Path) -> None:
    first, second = (export_onnx(b0, tmp_path / name, SIDE) for name in ("1.onnx", "2.onnx"))
    assert sha256_file(first) == sha256_file(second)


def test_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = formula_model("b0").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx", SIDE)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"class_names": ["one", "two"]}, "7 outputs and 2 class names"),
        ({"preprocess": Preprocess()}, "crop 224 differ"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"image_size": 0}, "crop 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: dict[str, object], complaint: str, b0: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=complaint):
        export_onnx(b0, tmp_path / "model.onnx", **{"image_size": SIDE, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_strays_leaves_the_earlier_file_alone(
    b0: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    right = to_onnx._graph

    def wrong(*given: object, **more: object) -> onnx.ModelProto:
        proto = right(*given, **more)
        for node in proto.graph.node:
            if node.op_type == "Clip":  # what a careless quantiser does with LAB
                node.op_type = "Relu"
                del node.input[1:]
        return proto

    monkeypatch.setattr(to_onnx, "_graph", wrong)
    with pytest.raises(ExportError, match="Nothing was written"):
        export_onnx(b0, path, SIDE)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_nan_weights_do_not_pass_the_comparison(tmp_path: Path) -> None:
    model = formula_model("b0")
    with torch.no_grad():
        model.fc.bias[0] = float("nan")
    with pytest.raises(ExportError):
        export_onnx(model, tmp_path / "model.onnx", SIDE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["b0", "b4", "hgnet_tiny"])
def test_torchs_own_exporter_writes_a_graph_of_the_same_logits(
    variant: str, tmp_path: Path
) -> None:
    """The long way round as a cross-check of the direct writer."""
    model = formula_model(variant)
    path = export_onnx(model, tmp_path / "model.onnx", SIDE)
    theirs = onnxruntime.InferenceSession(
        to_onnx.through_torch(model, SIDE).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(3).standard_normal((3, 3, SIDE, SIDE), np.float32)
    (expected,) = theirs.run(None, {"images": images})
    got = load_engine(path, "ort").logits(images)
    assert np.abs(got - expected).max() <= 5e-5 * expected.std()


@pytest.mark.parametrize("lab", ["clip", "affine"])
def test_the_other_forms_of_lab_give_the_same_logits(
    lab: Literal["clip", "affine"], b0: nn.Module, tmp_path: Path
) -> None:
    path = export_onnx(b0, tmp_path / "model.onnx", SIDE, lab=lab)
    assert onnx_against_torch(b0, path, 3) <= 5e-5
    counts = operators(path)
    assert (counts["Relu"], counts["Conv"]) == ({"clip": 0, "affine": 31}[lab], 43)
    assert counts["Clip"] == (31 if lab == "clip" else 0)
    assert counts["Mul"] == (0 if lab == "clip" else 12)


def test_any_other_network_goes_through_torchs_exporter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    path = export_onnx(network.eval(), tmp_path / "model.onnx", 32, list("abcde"))
    engine = load_engine(path, "ort")
    assert engine.classes == list("abcde")
    assert engine.logits(np.zeros((3, 3, 32, 32), np.float32)).shape == (3, 5)
    assert list(tmp_path.iterdir()) == [path]


def test_data_outside_the_file_is_refused(b0_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(b0_onnx), path, save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    with pytest.raises(WeightsError, match="keeps .* tensors in other files"):
        load_engine(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x08\x08"])
def test_files_that_are_no_onnx_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"ONNX file|ONNX Runtime cannot read"):
        load_engine(path)


def test_a_file_cut_short_is_refused(b0_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b0_onnx.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="not a whole ONNX file"):
        load_engine(path)


def test_a_bundle_holds_model_labels_preprocessing_and_hashes(
    b0: nn.Module, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    manifest = write_bundle(
        b0, folder, image_size=SIDE, class_names=CLASSES, metadata={"git": "abc"}
    )
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "labels.txt", "preprocess.json", "predict.py", "manifest.json",
    }  # fmt: skip
    assert (folder / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    assert read_json(folder / "manifest.json") == manifest
    assert manifest["files"] == {
        name: sha256_file(folder / name)
        for name in ("model.onnx", "labels.txt", "preprocess.json", "predict.py")
    }
    assert (manifest["git"], manifest["variant"], manifest["opset"]) == ("abc", "b0", 18)
    from_files = ModelCard.from_folder(folder)
    inside = load_engine(folder).card
    assert (from_files.preprocess, from_files.classes) == (inside.preprocess, inside.classes)
    assert (from_files.macs, from_files.parity_error) == (inside.macs, inside.parity_error)


def test_a_class_name_of_two_lines_is_refused_before_anything_is_written(
    b0: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="one line"):
        write_bundle(b0, tmp_path, image_size=SIDE, class_names=[*"abcdef", "g\nh"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bound_that_bounds_nothing_changes_no_bit(b0_onnx: Path, precision: str) -> None:
    """ONNX takes a missing bound of a Clip for the end of its type, which is what is written."""
    written = onnx.load(b0_onnx)
    if precision != "fp32":
        written = to_half(written, precision)
    left_out = onnx.ModelProto()
    left_out.CopyFrom(written)
    for node in left_out.graph.node:
        if node.op_type == "Clip":
            assert len(node.input) == 3
            names = ["" if name in FLOAT32_ENDS else name for name in node.input]
            node.input[:] = names if names[-1] else names[:-1]
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE), np.float32)
    answers = [session_logits(proto)(images) for proto in (written, left_out)]
    assert np.array_equal(*answers)
