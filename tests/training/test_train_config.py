"""Recipes: what contradicts itself or would be ignored is refused in a clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train_recipes import ADAMW, ASL, BCE, FOCAL, LABELS, SGD, SSLD, recipe, values

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.differences import differences
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.processes.specs import parse
from hgnetv2_pipeline.training.config import FREE, RunSpec, TrainConfig


def spec_values(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "variant": "b0",
        "num_classes": 2,
        "classes": ["cat", "dog"],
        "train": "train.parquet",
        "train_root": "images",
        "val": "val.parquet",
        "val_root": "images",
        "root": ".",
        "seed": 0,
        "config": values(),
        "teacher": None,
        "teacher_logits": None,
        "out": "out",
        "stage": "train",
        "inputs": {},
        "device": "cpu",
        "resume": "exact",
    }
    return base | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1.0, "steps": 5}, "exactly one of epochs and steps"),
        ({"epochs": None, "steps": None}, "exactly one of epochs and steps"),
        ({"epochs": 5.0, "warmup_epochs": 5.0}, r"warmup_epochs \(5\) must be less than epochs"),
        ({"resize_short": 32, "image_size": 64}, "at least image_size"),
        ({"resize_short": 32, "image_size": [64, 192]}, r"at least image_size \(64x192\)"),
        ({"image_size": 16}, "from 32 to 2048"),
        ({"image_size": [64, 192, 3]}, r"one side in pixels, or \[height, width\]"),
        ({"image_size": True}, "one side in pixels"),
        ({"fit": "stretch"}, "'crop', 'squash' or 'pad'"),
        ({"pad_colour": [1, 2, 3]}, "fit 'crop' pads nothing"),
        ({"fit": "pad", "pad_colour": [1, 2]}, "red, green and blue are needed"),
        ({"stage_lr_mult": [1.0] * 4}, "needs 5 factors"),
        ({"optimizer": {**SGD, "momentum": None}}, "optimizer.momentum is null"),
        ({"optimizer": {**ADAMW, "betas": None}}, "optimizer.betas is null"),
        ({"loss": {**LABELS, "temperature": 4.0}}, "only loss 'kl' has a temperature"),
        ({"loss": {**LABELS, "gt_weight": 0.5}}, "set it to 0 with 'label_smoothing'"),
        ({"loss": SSLD, "class_balance": "weights"}, "choose 'sampler' or 'none'"),
        ({"loss": {**BCE, "gt_weight": 0.5}}, "set it to 0 with 'bce'"),
        ({"loss": {**ASL, "asymmetric": None}}, "asymmetric is null with loss 'asymmetric'"),
        ({"loss": {**BCE, "asymmetric": ASL["asymmetric"]}}, "asymmetric is given with loss 'bce'"),
        ({"loss": {**ASL, "label_smoothing": 0.1}}, "'asymmetric' has none"),
        ({"loss": BCE, "class_balance": "sampler"}, "choose 'weights' .bce. or 'none'"),
        ({"loss": ASL, "class_balance": "weights"}, "whose powers are its balance"),
        ({"loss": {**FOCAL, "gamma": None}}, "gamma is None with loss 'focal': give a number"),
        ({"loss": {**LABELS, "gamma": 2.0}}, "gamma is 2.0 with loss 'label_smoothing'.*null else"),
        ({"loss": {**FOCAL, "label_smoothing": 0.1}}, "'focal' has none"),
        ({"loss": {**SSLD, "class_weights": [1, 2]}}, "'ce' does not use them"),
        ({"loss": {**ASL, "class_weights": [1, 2]}}, "'asymmetric' does not use them"),
        ({"loss": {**LABELS, "class_weights": [0, 0]}}, "class_weights are all 0"),
        ({"loss": {**LABELS, "class_weights": [1, -2]}}, "greater than or equal to 0"),
        (
            {"loss": {**LABELS, "class_weights": {"cat": 2}}, "class_balance": "weights"},
            "two sets of weights",
        ),
        ({"fp16_scale": 0}, "fp16_scale"),
        ({"augment": {"name": "afine"}}, "affine"),
        ({"augment": {"name": "affine", "degreez": 3.0}}, "degrees"),
        ({"lr": -0.1}, r"training\.lr: .*greater than 0 \(given: -0\.1\)"),
        ({"lr": float("inf")}, r"training\.lr"),
        ({"learning_rate": 0.1}, r"training\.learning_rate: Extra inputs"),
        ({"freeze_at": 6, "init": "b0.ssld_stage1"}, "less than or equal to 5"),
        ({"freeze_at": 1}, "weights that nobody trained; start init from weights"),
        ({"freeze_norm": True, "init": "scratch:b0"}, "weights that nobody trained"),
        ({"amp": "int8"}, "'off', 'bf16' or 'fp16'"),
    ],
)
def test_bad_recipe_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        parse(TrainConfig, values(**changes), where="training")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", list(values()))
def test_nothing_has_a_default(name: str) -> None:
    incomplete = values()
    del incomplete[name]
    with pytest.raises(ParameterError, match=f"training.{name}: Field required"):
        parse(TrainConfig, incomplete, where="training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": values(loss=SSLD)}, "loss 'ce' follows a teacher, but teacher is null"),
        ({"teacher": {"members": ["x"], "bn": "eval"}}, "would ignore the teacher"),
        ({"classes": ["cat"]}, "1 class names for num_classes 2"),
        (
            {"teacher": {"members": [], "bn": "eval"}, "config": values(loss=SSLD)},
            "teacher.members",
        ),
    ],
)
def test_job_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse(RunSpec, spec_values(**changes), where="spec")


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (64, 64),
        ([64, 64], 64),
        ([64, 192], (64, 192)),
        ((64, 192), (64, 192)),
        ("64+192", (64, 192)),
    ],
)
def test_a_size_is_one_side_or_height_and_width(given: Any, size: Any) -> None:
    config = recipe(image_size=given, resize_short=64)
    assert config.image_size == size
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert config.preprocess.crop == size


def test_the_defaults_of_fit_change_no_identity_and_no_view_of_before() -> None:
    config = recipe()
    assert not {"fit", "pad_colour"} & {*config.decisive(), *config.view()}
    assert config.preprocess.to_dict().keys() == Preprocess().to_dict().keys()
    padded = recipe(fit="pad", pad_colour="9+8+7")
    assert padded.decisive() == config.decisive() | {"fit": "pad", "pad_colour": [9, 8, 7]}
    assert padded.view() == config.view() | {"fit": "pad", "pad_colour": (9, 8, 7)}
    assert padded.preprocess.pad_colour == (9, 8, 7)
    assert "workers" not in config.decisive() and "max_bad" in config.decisive({"workers"})


@pytest.mark.parametrize(
    ("changes", "fit"),
    [
        ({}, None), ({"fit": "pad"}, "pad"), ({"fit": "squash"}, "squash"),
        ({"image_size": [32, 64]}, "squash"), ({"image_size": [32, 64], "fit": "pad"}, "pad"),
    ],
)  # fmt: skip
def test_networks_with_squares_of_their_own_see_all_that_the_recipe_shows(
    changes: dict[str, Any], fit: str | None
) -> None:
    assert recipe(**changes).fit_of_others == fit


def test_job_survives_the_way_through_json() -> None:
    spec = RunSpec.model_validate(spec_values(config=values(optimizer=ADAMW)))
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.out == Path("out")


LATER = {"fp16_scale", "fit", "pad_colour", "keep"}, {"gamma", "class_weights"}


def recorded_before(**changes: Any) -> dict[str, Any]:
    """What manifests said of a recipe before there were the parameters ``LATER``."""
    known = {key: value for key, value in values(**changes).items() if key not in FREE | LATER[0]}
    return known | {"loss": {k: v for k, v in known["loss"].items() if k not in LATER[1]}}


@pytest.mark.parametrize(
    ("changes", "before"),
    [
        ({}, {}),
        ({"loss": SSLD}, {}),
        # The crop and the scale of before, asked for by name, are what manifests did not name.
        (
            {"augment": {"name": "published", "box": "torchvision"}},
            {"augment": {"name": "published"}},
        ),
        ({"amp": "fp16", "fp16_scale": 65536}, {}),
        ({"amp": "bf16", "fp16_scale": 1.0}, {}),
    ],
)
def test_finished_results_of_before_hold(changes: dict[str, Any], before: dict[str, Any]) -> None:
    old = recorded_before(**changes | before)
    assert differences(old, recipe(**changes).decisive()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"augment": {"name": "published"}}, ["augment.box None -> 'paddle'"]),
        ({"augment": {"name": "published", "mirror": 0.0}}, ["augment.box None -> 'paddle'"]),
        ({"amp": "fp16"}, ["fp16_scale None -> 128.0"]),
        ({"mode": "auto"}, ["fp16_scale None -> 128.0"]),
        (
            {"loss": LABELS | {"class_weights": {"cat": 2.0}}},
            ["loss.class_weights.cat None -> 2.0"],
        ),
    ],
)
def test_a_result_that_would_be_another_says_so(changes: dict[str, Any], told: list[str]) -> None:
    assert differences(recorded_before(**changes), recipe(**changes).decisive()) == told


def test_off_is_what_yaml_makes_of_it_too() -> None:
    assert recipe(amp=False).amp == "off"
    with pytest.raises(ValueError, match="'off', 'bf16' or 'fp16'"):
        recipe(amp=True)
