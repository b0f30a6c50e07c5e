"""Every value of conf/base's recipes against PaddleClas's configurations, and what differs by name.

The table is written down from PaddleClas (commit d178931, 2024-10-18): PPHGNetV2_B0 to B6.yaml,
which differ in the network's name alone (train), PPHGNetV2_B4_ssld_stage1 and stage2.yaml, section
2.3.2 of the page (finetune), and PPHGNet_tiny, small and base.yaml. Deliberate differences are in
docs/recipes.md, which a test holds too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hgnetv2_pipeline.data.preprocess import Preprocess
from hgnetv2_pipeline.input.augment import PublishedView, make_augment
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.project.given import read_params
from hgnetv2_pipeline.training import erasing
from hgnetv2_pipeline.training.config import TrainConfig
from project_copies import ROOT

# A configuration of PaddleClas, and where its recipe is here.
PLACES = {
    "train": ("variant=b4", "train"),
    "finetune": ("variant=b4", "finetune"),
    "ssld_stage1": ("variant=b4", "ssld_stage1"),
    "ssld_stage2": ("variant=b4", "ssld_stage2"),
    "pphgnet_tiny": ("recipe=pphgnet_tiny", "train_teacher.recipe"),
    "pphgnet_small": ("recipe=pphgnet_small", "train_teacher.recipe"),
    "pphgnet_base": ("recipe=pphgnet_base", "train_teacher.recipe"),
}
SSLD = ("ssld_stage1", "ssld_stage2")
HGNET = ("pphgnet_tiny", "pphgnet_small", "pphgnet_base")


@cache
def parameters(typed: str) -> dict[str, Any]:
    loader = ProjectConfigLoader(
        ROOT / "conf", env="imagenet", runtime_params=read_params(typed), project=ROOT,
        **LOADER_ARGUMENTS,
    )  # fmt: skip
    return dict(loader["parameters"])


def recipe_of(name: str) -> TrainConfig:
    typed, place = PLACES[name]
    found = parameters(typed)
    for part in place.split("."):
        found = found[part]
    return TrainConfig.model_validate(found)


@dataclass(frozen=True)
class Row:
    """A key of PaddleClas's YAML.

    ``published``: its value; where recipes differ, by recipe. ``here``: what a recipe comes to
    here. ``covers``: the parameters that say it. ``differs``: in which recipes it deliberately is
    another, all told in docs/recipes.md.
    """

    key: str
    published: Any
    here: Callable[[TrainConfig], Any]
    covers: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def of(self, name: str) -> Any:
        if isinstance(self.published, dict) and set(self.published) & {*PLACES, "others"}:
            return self.published.get(name, self.published.get("others"))
        return self.published


def view_of(config: TrainConfig) -> PublishedView:
    view = make_augment(config.view())
    assert isinstance(view, PublishedView)
    return view


def operations_of(config: TrainConfig) -> str:
    found = view_of(config).randaugment
    assert found is not None and (found.layers, found.probability) == (2, 0.5)
    return f"rand-m{found.magnitude:g}-mstd{found.magnitude_std:g}-inc{int(found.increasing)}"


def preprocess_of(config: TrainConfig) -> Preprocess:
    return Preprocess(resize_short=config.resize_short, crop=config.image_size)


def mixed(config: TrainConfig, alpha: float, chance: float) -> dict[str, float] | None:
    both = config.mix.probability and alpha
    return {"alpha": alpha, "prob": config.mix.probability * chance} if both else None


ALL = tuple(PLACES)
TABLE = [
    Row("Global.epochs",
        {"train": 200, "finetune": 30, "ssld_stage1": 360, "ssld_stage2": 60, "others": 600},
        lambda c: c.epochs, ("epochs", "steps")),
    Row("Global.eval_interval", 1, lambda c: c.eval_every, ("eval_every",)),
    Row("Global.image_shape", [3, 224, 224], lambda c: [3, c.image_size, c.image_size]),
    Row("AMP.use_amp, level", "O1", lambda c: {"fp16": "O1"}.get(c.amp), ("amp",)),
    Row("AMP.scale_loss", 128.0, lambda c: c.fp16_scale, ("fp16_scale",)),
    Row("AMP.use_fp16_test", False, lambda c: c.amp == "fp16", differs=ALL),
    Row("Arch.pretrained",
        {"train": "stage 1", "finetune": "stage 1", "ssld_stage1": None,
         "ssld_stage2": "best of stage 1", "pphgnet_base": None, "others": "published"},
        lambda c: {
            "scratch": None, "import_weights/b4/ssld_stage1": "stage 1",
            "ssld_stage1/b4/seed=0": "best of stage 1",
        }[c.init],
        ("init", "head"), differs=("train", "pphgnet_tiny", "pphgnet_small")),
    Row("Loss.Train",
        dict.fromkeys(SSLD, "DistillationCELoss") | {"others": ("CELoss", 0.1)},
        lambda c: "DistillationCELoss" if c.loss.name == "ce" and c.loss.gt_weight == 0
        else ("CELoss", c.loss.label_smoothing),
        ("loss",)),
    Row("Optimizer.name, momentum", ("Momentum", 0.9),
        lambda c: ({"sgd": "Momentum"}[c.optimizer.name], c.optimizer.momentum), ("optimizer",)),
    Row("Optimizer.regularizer.coeff", dict.fromkeys(HGNET, 4e-05) | {"others": 2e-5},
        lambda c: c.optimizer.weight_decay),
    Row("Optimizer.lr.learning_rate", {"finetune": 0.05, "ssld_stage2": 0.005, "others": 0.5},
        lambda c: c.lr * 8 * c.batch_size / (c.lr_batch or 1), ("lr", "lr_batch")),
    Row("Optimizer.lr.warmup_epoch", 5, lambda c: c.warmup_epochs, ("warmup_epochs",)),
    Row("Train.RandCropImage", {"size": 224, "interpolation": "bicubic", "ratio": "uniform"},
        lambda c: {
            "size": view_of(c).image_size, "interpolation": view_of(c).interpolation,
            "ratio": {"paddle": "uniform", "torchvision": "log-uniform"}[view_of(c).box],
        },
        ("augment", "image_size", "input")),
    Row("Train.RandCropImage: scale, ratio", [[0.08, 1.0], [3 / 4, 4 / 3]],
        lambda c: [list(view_of(c).scale), list(view_of(c).ratio)]),
    Row("Train.RandFlipImage", {"flip_code": 1, "prob": 0.5},
        lambda c: {"flip_code": 1, "prob": view_of(c).mirror}),
    Row("Train: nothing else", None, lambda c: view_of(c).further),
    Row("Train.TimmAutoAugment.config_str",
        {"pphgnet_base": "rand-m15-mstd0.5-inc1", "others": "rand-m7-mstd0.5-inc1"}, operations_of),
    Row("Train.NormalizeImage", ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        lambda c: (list(preprocess_of(c).mean), list(preprocess_of(c).std))),
    Row("Train.RandomErasing.EPSILON",
        {"ssld_stage1": 0.0, "ssld_stage2": 0.0, "pphgnet_base": 0.4, "others": 0.25},
        lambda c: c.erasing, ("erasing",)),
    Row("Train.RandomErasing: sl, sh, r1, attempt", (0.02, 1 / 3, 0.3, 10),
        lambda c: (*erasing.AREA, erasing.ASPECT, erasing.ATTEMPTS)),
    Row("Train.OpSampler.MixupOperator",
        {"pphgnet_base": {"alpha": 0.4, "prob": 0.5}, "pphgnet_tiny": {"alpha": 0.2, "prob": 0.5},
         "pphgnet_small": {"alpha": 0.2, "prob": 0.5}, "others": None},
        lambda c: mixed(c, c.mix.mixup, 1 - c.mix.switch), ("mix",)),
    Row("Train.OpSampler.CutmixOperator",
        {name: {"alpha": 1.0, "prob": 0.5} for name in HGNET} | {"others": None},
        lambda c: mixed(c, c.mix.cutmix, c.mix.switch)),
    Row("Train.sampler.batch_size", 128, lambda c: c.batch_size, ("batch_size", "accumulate")),
    Row("Train.loader.num_workers", dict.fromkeys(SSLD, 8) | {"others": 16},
        lambda c: c.workers, ("workers",), differs=("train", "finetune", *HGNET)),
    Row("Eval.ResizeImage",
        {"train": (232, "bicubic"), "finetune": (232, "bicubic"), "pphgnet_tiny": (232, "bicubic"),
         "others": (236, "bicubic")},
        lambda c: (preprocess_of(c).resize_short, preprocess_of(c).interpolation),
        ("resize_short",)),
    Row("Eval.CropImage.size", 224, lambda c: preprocess_of(c).crop),
]  # fmt: skip

# What PaddleClas's YAMLs have no key for, and what it is: nothing that would change a result.
OURS_ALONE = {
    "stage_lr_mult": None, "clip_norm": None, "ema_decay": None, "class_balance": "none",
    "early_stopping": {"patience": None, "min_delta": 0.0}, "freeze_at": 0, "freeze_norm": False,
    "keep": "best",
    "sync_bn": False, "compile": False, "mode": "as_set", "channels_last": True, "threads": None,
    "fit": "crop", "pad_colour": None,
    "keep_best": 1, "keep_checkpoints": 2, "checkpoint_every_minutes": 30.0, "max_bad": 0.001,
    "profile": {"start": 10, "steps": 0},
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=[row.key for row in TABLE])
def test_a_recipe_has_the_published_value_or_differs_by_name(row: Row) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in PLACES:
        found, published = row.here(recipe_of(name)), row.of(name)
        same = found == (pytest.approx(published) if isinstance(published, float) else published)
        assert same is (name not in row.differs), f"{name}: {found} here, {published} published"
    if row.differs:
        assert f"| `{row.key}`" in page, "a deliberate difference is told in docs/recipes.md"


def test_no_other_value_differs_unnamed() -> None:
    covered = {name for row in TABLE for name in row.covers}
    assert covered | set(OURS_ALONE) == set(TrainConfig.model_fields)
    assert not covered & set(OURS_ALONE)
    for name in PLACES:
        values = recipe_of(name).model_dump(mode="json")
        assert {key: values[key] for key in OURS_ALONE} == OURS_ALONE, name
        config = recipe_of(name)
        assert (config.loss.temperature, config.loss.class_weights, config.loss.gamma) == (
            1, None, None
        )  # fmt: skip
        assert not config.input.fast and config.input.device == "none"
        assert config.input.resized is None and config.accumulate == 1


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_a_teacher_from_scratch_has_the_recipe_of_its_network(size: str) -> None:
    params, plain = parameters(f"recipe=pphgnet_{size}"), parameters("variant=b4")
    assert params["train_teacher"]["arch"] == f"hgnet_{size}"
    assert params["train_teacher"]["source"] == []
    # Its students are taught as ever.
    for name in ("train", *SSLD):
        assert {**params[name], "init": None} == {**plain[name], "init": None}


def test_the_page_names_no_difference_that_there_is_not() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = page.partition("<!-- differences -->")[2].partition("<!-- end of differences -->")[0]
    named = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    held = {row.key for row in TABLE if row.differs}
    assert held <= named
    known = Path(__file__).read_text(encoding="utf-8")
    assert all(key in known or key in HELD_ELSEWHERE for key in named), named


# Differences that are no value of a recipe; where the other way is held, or can be asked for.
HELD_ELSEWHERE = {
    "the teacher's BN": "train_teacher.bn; tests/training/test_loop.py",
    "Train.sampler.drop_last": "tests/training/test_schedule.py",
    "OpSampler: partners": "tests/training/test_mixing.py",
    "Global.save_interval": "checkpoint_every_minutes",
}


@pytest.mark.parametrize(
    ("row", "typed", "place", "images"),
    [
        ("`train`", "variant=b4", "train", 1_281_167),
        ("`ssld_stage1`", "variant=b4", "ssld_stage1", 5_281_167),
        ("`ssld_stage2`, after stage 1", "variant=b4", "ssld_stage2", 1_281_167),
        ("`recipe=fast`, stage 1 alone", "recipe=fast", "ssld_stage1", 5_281_167),
        ("`recipe=short`, stage 1 alone", "recipe=short", "ssld_stage1", 5_281_167),
        ("`recipe=pphgnet_tiny`, `pphgnet_small`, `pphgnet_base`", "recipe=pphgnet_small",
         "train_teacher.recipe", 1_281_167),
    ],
)  # fmt: skip
def test_the_page_says_how_many_images_a_recipe_sees(
    row: str, typed: str, place: str, images: int
) -> None:
    config = parameters(typed)
    for part in place.split("."):
        config = config[part]
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = page.partition("<!-- cost of recipes -->")[2].partition("<!-- end of the cost")[0]
    [cells] = [line.split(" | ") for line in table.splitlines() if line.startswith(f"| {row} |")]
    assert cells[1].startswith(f"{config['epochs']:g} x ")
    assert cells[2] == f"{config['epochs'] * images / 1e6:,.1f}"
