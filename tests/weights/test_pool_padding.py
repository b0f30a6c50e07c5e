"""The border of the stem's max-pool, from a file of another program to every answer.

W4 of the findings about weights: in b0 to b3 zeros and nothing differ, and names alone do not tell
where a network was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from hgnetv2_pipeline.errors import WeightsError
from hgnetv2_pipeline.models import create
from hgnetv2_pipeline.weights import build, styles
from hgnetv2_pipeline.weights.convert import convert
from hgnetv2_pipeline.weights.inspect import inspect_file
from hgnetv2_pipeline.weights.load import (
    export_weights,
    load_weights,
    read_metadata,
    read_state,
    save_weights,
)
from hgnetv2_pipeline.weights.metadata import padding_of
from hgnetv2_pipeline.weights.places import Wanted


@pytest.fixture(scope="module")
def lively(filled: Callable[..., nn.Module]) -> nn.Module:
    """A b0 whose maps are negative in places before the max-pool, trained with a zero border."""
    model = create.create_model("b0", 3, pool_padding="zero").eval()
    model.load_state_dict(filled("b0").state_dict())
    with torch.no_grad():
        model.stem.stem1.lab.bias.fill_(-0.2)
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def theirs(lively: nn.Module, tmp_path: Path) -> Path:
    """The file as timm would have written it."""
    export_weights(lively, tmp_path / "theirs.pth", "timm")
    return tmp_path / "theirs.pth"


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def timms(path: Path, images: torch.Tensor) -> torch.Tensor:
    model = timm.create_model("hgnetv2_b0", num_classes=3)
    timm.models.load_checkpoint(model, str(path), strict=True)
    return logits(model, images)


def test_names_of_others_are_asked_about_and_both_answers_can_be_given(
    theirs, images, lively, tmp_path
):
    with pytest.raises(WeightsError, match=r"@pool_padding=zero .*@pool_padding=exclude"):
        build.build_from("theirs.pth", num_classes=None, root=tmp_path)
    wanted = timms(theirs, images)
    answers = {}
    for padding in ("zero", "exclude"):
        spec = f"theirs.pth@pool_padding={padding}"
        model, _ = build.build_from(spec, num_classes=None, root=tmp_path)
        assert padding_of(model) == padding
        answers[padding] = logits(model, images)
    assert torch.equal(answers["zero"], logits(lively, images))
    # To rounding: timm's pool and concatenation are other operations.
    assert float((answers["zero"] - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert float((answers["exclude"] - wanted).abs().max() / wanted.abs().max()) > 5e-5


@pytest.mark.parametrize(
    ("variant", "style", "asked"),
    [
        ("b0", "timm", True),
        ("b1", "dfine", True),
        ("b0", "transformers", True),
        ("b0", "rtdetr", True),
        ("b0", "paddle", False),
        ("b0", "ours", False),
        ("b4", "timm", False),
    ],
)
def test_only_where_the_two_differ_is_anything_asked(variant, style, asked, filled, tmp_path):
    model = filled(variant)
    suffix = styles.style_for(style, model.state_dict()).suffixes[-1]
    export_weights(model, tmp_path / f"w{suffix}", style)
    assert (read_state(tmp_path / f"w{suffix}").pool_padding is None) == asked
    if variant == "b4":
        return
    other = create.create_model(variant, 3)
    report = load_weights(other, tmp_path / f"w{suffix}", "reinit")
    assert ("its stem pads with zeros: pool_padding=zero" in str(report)) == asked
    build_it = [f"w{suffix}", f"w{suffix}@pool_padding=exclude"][asked]
    built, _ = build.build_from(build_it, num_classes=3, root=tmp_path, head="reinit")
    assert padding_of(built) == "exclude"
    if asked:
        zero = create.create_model(variant, 3, pool_padding="zero")
        assert "pool_padding" not in str(load_weights(zero, tmp_path / f"w{suffix}", "reinit"))


def test_inspect_says_that_it_is_asked_for_where_the_file_does_not_say(theirs, lively, tmp_path):
    [network] = inspect_file(theirs)["networks"]
    assert network["loads"].startswith("yes; how its stem pads is asked for: @pool_padding=zero")
    export_weights(lively, tmp_path / "t.safetensors", "timm")  # with the answer in its metadata
    [network] = inspect_file(tmp_path / "t.safetensors")["networks"]
    assert network["loads"] == "yes"
    model, _ = build.build_from("t.safetensors", num_classes=None, root=tmp_path)
    assert padding_of(model) == "zero"


def test_what_was_said_at_the_import_is_kept_by_everything_made_of_it(
    theirs, images, lively, tmp_path
):
    with pytest.raises(WeightsError, match=r"import_weights\.pool_padding"):
        convert(theirs, tmp_path / "run", variant="b0", name="theirs.pth")
    convert(
        theirs, tmp_path / "run", variant="b0", name="theirs.pth",
        wanted=Wanted(pool_padding="zero"),
    )  # fmt: skip
    student = tmp_path / "run" / "student.safetensors"
    assert read_metadata(student)["pool_padding"] == "zero"
    model, _ = build.build_from("run", num_classes=3, root=tmp_path)
    assert torch.equal(logits(model, images), logits(lively, images))
    with pytest.raises(WeightsError, match="trained with pool_padding=zero, .* not exclude"):
        build.build_from("run@pool_padding=exclude", num_classes=3, root=tmp_path)
    # Written in our names again, and in those of others, it stays what it is.
    export_weights(model, tmp_path / "ours.safetensors", "ours", metadata={"variant": "b0"})
    again, _ = build.build_from("ours.safetensors", num_classes=3, root=tmp_path)
    assert torch.equal(logits(again, images), logits(lively, images))
    assert not export_weights(model, tmp_path / "t.pth", "timm").remarks
    [remark] = export_weights(model, tmp_path / "p.pdparams", "paddle").remarks
    assert "Paddle leaves the border out" in remark


def test_weights_of_ours_say_nothing_more_than_before_and_a_damaged_word_is_refused(
    lively, filled, tmp_path
):
    export_weights(filled("b0"), tmp_path / "w.safetensors", "ours", metadata={"variant": "b0"})
    assert read_metadata(tmp_path / "w.safetensors") == {"variant": "b0"}
    metadata = {"variant": "b0", "pool_padding": "zeros"}
    save_weights(tmp_path / "d.safetensors", lively, metadata)
    with pytest.raises(WeightsError, match="damaged entry 'pool_padding': exclude or zero"):
        build.build_from("d.safetensors", num_classes=3, root=tmp_path)


def test_the_exported_model_and_the_engine_answer_with_the_border_of_the_weights(
    lively, images, tmp_path
):
    from hgnetv2_pipeline.deployment.engines.with_torch import load_torch_engine
    from hgnetv2_pipeline.deployment.export.to_onnx import export_onnx

    how = {"preprocess": json.dumps({"resize_short": 64, "crop": 64})}
    export_weights(lively, tmp_path / "w.safetensors", "ours", metadata=how)
    model, _ = build.build_from("w.safetensors", num_classes=None, root=tmp_path)
    batch = images[..., :64]
    wanted = logits(lively, batch)
    engine = load_torch_engine(str(tmp_path / "w.safetensors"))
    import numpy as np
    import onnxruntime

    export_onnx(model, tmp_path / "m.onnx", 64)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    [answer] = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    for found in (engine.logits(batch.numpy()), answer):
        assert np.abs(found - wanted.numpy()).max() < 1e-5 * float(wanted.abs().max())
