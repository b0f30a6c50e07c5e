"""Weight files in and out: round trips, other people's names, and refusals by name."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hgnetv2_pipeline.errors import ParameterError, WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import load
from hgnetv2_pipeline.weights import styles as names
from hgnetv2_pipeline.weights.formula import formula_state
from hgnetv2_pipeline.weights.load import (
    from_paddle,
    load_state,
    load_weights,
    read_metadata,
    read_state,
    save_weights,
    to_paddle,
    write_pdparams,
)
from hgnetv2_pipeline.weights.paddle import pdparams, writer


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(
        torch.equal(value, theirs[key])
        for key, value in a.state_dict().items()
        if not key.endswith("num_batches_tracked")
    )


def to_timm(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    return names.to_theirs(state, names.style_for("timm", state))[0]


def images() -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(1).normal(size=(1, 3, 64, 96)).astype("f4"))


@pytest.fixture(scope="module")
def b0(filled) -> torch.nn.Module:
    return filled("b0")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_pdparams_round_trip_is_bit_for_bit(protocol, b0, tmp_path):
    path = tmp_path / "w.pdparams"
    write_pdparams(path, to_paddle(b0), protocol)
    again = create.create_model("b0", 3)
    report = load_weights(again, path)
    assert same(b0, again)
    assert (report.style, report.head, report.n_tensors) == ("paddle", "loaded", 275)
    assert "275 tensors (paddle names" in str(report)


def test_paddles_tensors_come_back_from_ours_exactly():
    model = create.create_model("b0", 3)
    formula = formula_state(model)
    load_state(model, from_paddle(formula), source="formula")
    back = to_paddle(model)
    assert back["fc.weight"].shape == (2048, 3)
    assert list(formula) == list(back)
    assert all(np.array_equal(formula[key], back[key]) for key in formula)


def test_framework_names_are_unique_and_paddles(b0, tmp_path):
    write_pdparams(tmp_path / "w.pdparams", to_paddle(b0))
    table = pickle.loads((tmp_path / "w.pdparams").read_bytes())  # noqa: S301 - our own
    names = table["StructuredToParameterName@@"]
    assert len(set(names.values())) == len(names) == 275
    assert names["stem.stem1.conv.weight"] == "conv2d_0.w_0"
    assert names["stem.stem1.bn._variance"] == "batch_norm2d_0.w_2"
    assert names["fc.bias"] == "linear_0.b_0"


def test_safetensors_round_trip_with_metadata(b0, tmp_path):
    path = tmp_path / "w.safetensors"
    metadata = {"variant": "b0", "classes": json.dumps(["höhe", "b", "c"])}
    save_weights(path, b0, metadata)
    assert read_metadata(path) == metadata
    again = create.create_model("b0", 3)
    report = load_weights(again, path)
    assert same(b0, again)
    assert (report.style, report.metadata) == ("ours", metadata)
    assert not [file for file in tmp_path.iterdir() if file != path]


def test_the_library_reads_our_safetensors_and_bytes_repeat(tmp_path):
    state = {
        "a": torch.arange(6.0).reshape(2, 3).t(),
        "b": torch.tensor(1.5, dtype=torch.bfloat16),
        "c": torch.zeros(0, 4),
        "d": torch.arange(3),
    }
    metadata = {f"key{i}": str(i) for i in range(20)}
    for name in ("one", "two"):
        shuffled = dict(reversed(metadata.items())) if name == "two" else metadata
        save_weights(tmp_path / name, state, shuffled)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = load_file(tmp_path / "one")
    assert all(torch.equal(read[key], value) for key, value in state.items())
    assert all(read[key].dtype == value.dtype for key, value in state.items())
    with safe_open(tmp_path / "one", "pt") as file:
        assert file.metadata() == metadata


def test_metadata_must_be_strings_and_a_failed_write_leaves_nothing(b0, tmp_path):
    with pytest.raises(TypeError, match="num_classes"):
        save_weights(tmp_path / "w.safetensors", b0, {"num_classes": 3})
    with pytest.raises(KeyError):
        save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1, dtype=torch.int32)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["b0", "hgnet_tiny"])
def test_names_to_timm_and_back_are_an_identity(variant, filled, tmp_path):
    model = filled(variant)
    save_file({k: v.contiguous() for k, v in to_timm(model).items()}, tmp_path / "t.safetensors")
    torch.save({"state_dict": to_timm(model)}, tmp_path / "t.pth")
    for name in ("t.safetensors", "t.pth"):
        again = create.create_model(variant, 3)
        assert load_weights(again, tmp_path / name).style == "timm"
        assert same(model, again)


def timm_logits(model: torch.nn.Module, variant: str) -> torch.Tensor:
    name = variant if variant.startswith("hgnet") else f"hgnetv2_{variant}"
    with torch.device("meta"):
        other = timm.create_model(name, pretrained=False, num_classes=3)
    other.to_empty(device="cpu").load_state_dict(to_timm(model), strict=True)
    with torch.inference_mode():
        return other.eval()(images())


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("variant", ["b4", "b5", "b6", "hgnet_tiny", "hgnet_small"])
def test_timm_with_the_same_weights_agrees(variant, filled):
    model = filled(variant)
    with torch.inference_mode():
        ours = model(images())
    assert relative(timm_logits(model, variant), ours) < 1e-5


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3"])
def test_timm_differs_by_its_border_alone_where_the_affine_is_negative(variant, filled):
    model = filled(variant)
    with torch.no_grad():
        model.stem.stem1.lab.bias.fill_(-0.2)  # now stem1's map is negative in places
    theirs = timm_logits(model, variant)
    with torch.inference_mode():
        paddle = model(images())
        model.stem.pool = create.create_model("b0", pool_padding="zero").stem.pool
        bordered = model(images())
    assert relative(theirs, bordered) < 1e-5
    assert relative(theirs, paddle) > 5e-5


def test_a_distillation_checkpoint_gives_the_student_or_the_teacher(b0, filled, tmp_path):
    teacher = filled("hgnet_tiny", 5)
    both = {f"Teacher.{k}": v for k, v in to_paddle(teacher).items()}
    both |= {f"Student.{k}": v for k, v in to_paddle(b0).items()}
    path = tmp_path / "distill.pdparams"
    write_pdparams(path, both)
    again = create.create_model("b0", 3)
    report = load_weights(again, path)
    assert same(b0, again)
    assert len(report.ignored) == 193
    assert "left aside 193: Teacher." in str(report)
    other = create.create_model("hgnet_tiny", 5)
    load_weights(other, path, part="teacher")
    assert same(teacher, other)
    write_pdparams(path, {k: v for k, v in both.items() if k.startswith("Teacher")})
    with pytest.raises(WeightsError, match="without a student"):
        load_weights(again, path)
    write_pdparams(path, {k: v for k, v in both.items() if k.startswith("Student")})
    with pytest.raises(WeightsError, match="without a teacher"):
        load_weights(again, path, part="teacher")
    write_pdparams(path, to_paddle(b0))
    with pytest.raises(WeightsError, match="holds one network"):
        load_weights(again, path, part="teacher")


def test_a_pth_of_a_parallel_network_loads_and_an_unsafe_one_does_not(b0, tmp_path):
    torch.save({f"module.{k}": v for k, v in b0.state_dict().items()}, tmp_path / "w.pth")
    again = create.create_model("b0", 3)
    load_weights(again, tmp_path / "w.pth")
    assert same(b0, again)
    torch.save({"model": b0}, tmp_path / "whole.pth")  # a pickled module
    for name, content in {"zip.pth": b"PK\x03\x04", "text.pth": b"hello", "none.pth": b""}.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"epoch": 3, "w": torch.zeros(1)}, tmp_path / "mixed.pth")
    for name in ("whole.pth", "zip.pth", "text.pth", "none.pth", "mixed.pth"):
        with pytest.raises(WeightsError, match=name):
            load_weights(again, tmp_path / name)


# --- strictness -----------------------------------------------------------------------------------


# Row W07 of docs/reliability.md.
def test_another_number_of_classes_refuses_unless_the_head_starts_afresh(b0, tmp_path):
    path = tmp_path / "w.pdparams"
    write_pdparams(path, to_paddle(b0))
    torch.manual_seed(0)
    ten = create.create_model("b0", 10)
    with pytest.raises(WeightsError, match=r"fc\.weight is \[3, 2048\] where .* head: reinit"):
        load_weights(ten, path)
    before = ten.fc.weight.clone()
    report = load_weights(ten, path, "reinit")
    assert report.head == "reinitialised"
    assert "head: reinit" in str(report)
    assert report.n_tensors == 273
    assert not torch.equal(before, ten.fc.weight)
    assert torch.equal(ten.last_conv.weight, b0.last_conv.weight)


def test_a_refused_file_changes_nothing(b0, tmp_path):
    state = to_paddle(b0)
    del state["stem.stem1.bn.bias"]
    write_pdparams(tmp_path / "w.pdparams", state)
    model = create.create_model("b0", 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match="stem.stem1.bn.bias is missing"):
        load_weights(model, tmp_path / "w.pdparams")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# Row W06 of docs/reliability.md.
def test_the_first_five_disagreements_are_named_and_the_rest_counted(b0, tmp_path):
    write_pdparams(tmp_path / "w.pdparams", to_paddle(b0))
    with pytest.raises(WeightsError) as caught:
        load_weights(create.create_model("b1", 3), tmp_path / "w.pdparams")
    assert "does not fit b1: stem.stem1.conv.weight is [16, 3, 3, 3] where the network has " in str(
        caught.value
    )
    assert str(caught.value).count(" is ") == 5
    assert "more" in str(caught.value)
    assert "reinit" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("stem.stem3.conv.weight", np.nan, "stem.stem3.conv.weight contains NaN"),
        ("fc.bias", np.inf, "fc.bias contains NaN or infinite"),
        ("stem.stem1.bn._variance", -1e-3, "stem.stem1.bn.running_var is a variance with negative"),
    ],
)
def test_impossible_values_are_refused_by_name(key, value, reason, b0, tmp_path):
    state = {k: v.copy() for k, v in to_paddle(b0).items()}
    state[key].flat[0] = value
    write_pdparams(tmp_path / "w.pdparams", state)
    with pytest.raises(WeightsError, match=reason):
        load_weights(create.create_model("b0", 3), tmp_path / "w.pdparams")


def test_half_precision_and_bfloat16_files_load_as_float32(b0, tmp_path):
    plain = to_paddle(b0)
    as_half = {k: v.astype(np.float16) for k, v in plain.items()}
    as_bf16 = {
        k: torch.from_numpy(v).bfloat16().view(torch.int16).numpy().view(np.uint16)
        for k, v in plain.items()
    }
    for state, tolerance in ((as_half, 1e-3), (as_bf16, 1e-2)):
        write_pdparams(tmp_path / "w.pdparams", state)
        read = read_state(tmp_path / "w.pdparams").tensors
        for key, value in b0.state_dict().items():
            if key in read:
                assert read[key].dtype == torch.float32
                assert torch.allclose(read[key], value, rtol=tolerance, atol=1e-4), key
    write_pdparams(tmp_path / "w.pdparams", plain | {"fc.bias": np.zeros(3, np.int64)})
    with pytest.raises(WeightsError, match=r"fc\.bias is torch\.int64"):
        read_state(tmp_path / "w.pdparams")


# Row W04 of docs/reliability.md.
def test_damaged_missing_and_unknown_files_are_refused_by_path(b0, tmp_path):
    save_weights(tmp_path / "w.safetensors", b0, {})
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-4])
    (tmp_path / "x.safetensors").write_bytes(b"<html>")
    (tmp_path / "w.onnx").write_bytes(b"x")
    (tmp_path / "infer.tar").write_bytes(b"x")
    for name, reason in {
        "w.safetensors": "not a whole safetensors file",
        "x.safetensors": "not a whole safetensors file",
        "absent.safetensors": "no weight file at",
        "w.onnx": "is no weight file: read are, by their content",
        "infer.tar": "not a tar archive",
    }.items():
        with pytest.raises(WeightsError, match=reason):
            load_weights(b0, tmp_path / name)
    for name in ("x.safetensors", "absent.safetensors"):
        with pytest.raises(WeightsError, match=name):
            read_metadata(tmp_path / name)


def test_wrong_words_for_head_and_part_are_refused(b0, tmp_path):
    write_pdparams(tmp_path / "w.pdparams", to_paddle(b0))
    with pytest.raises(ParameterError, match="did you mean 'reinit'"):
        load_weights(b0, tmp_path / "w.pdparams", "renit")
    with pytest.raises(ParameterError, match="part"):
        load_weights(b0, tmp_path / "w.pdparams", part="tutor")


def test_the_room_of_foreign_names_offers_both_paddle_functions():
    assert load.read_pdparams is pdparams.read_pdparams
    assert load.write_pdparams is writer.write_pdparams
