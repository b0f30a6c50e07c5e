"""Recipes as differences: what a training comes to, and the command that prints it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.errors import ParameterError
from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
from hgnetv2_pipeline.project.given import read_params
from hgnetv2_pipeline.project.params import RECIPES
from project_copies import ROOT


def parameters(env: str, params: str = "") -> dict[str, Any]:
    given = read_params(params)
    loader = ProjectConfigLoader(
        ROOT / "conf", env=env, runtime_params=given, project=ROOT, **LOADER_ARGUMENTS
    )
    return dict(loader["parameters"])


def recipe(params: dict[str, Any], name: str) -> dict[str, Any]:
    for part in name.split("."):
        params = params[part]
    return params


# The published values, each written down from PaddleClas's configurations and not from conf/.
PUBLISHED = {
    "train": {"epochs": 200, "lr": 0.5, "erasing": 0.25, "resize_short": 232, "init": "scratch"},
    "ssld_stage1": {"epochs": 360, "lr": 0.5, "erasing": 0, "resize_short": 236, "init": "scratch"},
    "ssld_stage2": {"epochs": 60, "lr": 0.005, "erasing": 0, "resize_short": 236,
                    "init": "ssld_stage1/b4/seed=0"},
    "finetune": {"epochs": 30, "lr": 0.05, "erasing": 0.25, "head": "reinit",
                 "init": "import_weights/b4/ssld_stage1"},
    "train_teacher.recipe": {"epochs": 200, "lr": 0.5, "erasing": 0.25, "resize_short": 232},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_all_have_in_common_with_what_is_its_own(name: str) -> None:
    found = recipe(parameters("imagenet", "variant=b4"), name)
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert found["batch_size"] == 128 and found["optimizer"]["weight_decay"] == 2e-5
    smooth = name not in ("ssld_stage1", "ssld_stage2")
    assert found["loss"]["name"] == ("label_smoothing" if smooth else "ce")
    assert found["loss"]["label_smoothing"] == (0.1 if smooth else 0)


def test_what_is_typed_of_training_holds_for_all_but_those_that_are_named() -> None:
    for env in ("imagenet", "sample"):
        params = parameters(
            env,
            "training.batch_size=7,training.optimizer.weight_decay=0.3,ssld_stage1.batch_size=9",
        )
        sizes = {name: recipe(params, name)["batch_size"] for name in RECIPES}
        assert sizes == dict.fromkeys(RECIPES, 7) | {"ssld_stage1": 9}
        decays = {recipe(params, name)["optimizer"]["weight_decay"] for name in RECIPES}
        assert decays == {0.3}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("training.bach_size=3", "parameter of training 'bach_size' .*did you mean 'batch_size'"),
        ("training.lr=-1", "parameter training.lr = -1"),
        ("training=3", "parameter training = 3"),
        ("ssld_stage1=3", "parameter ssld_stage1 = 3"),
    ],
)
def test_a_mistake_in_what_all_have_in_common_is_said_of_it(params: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said) as caught:
        parameters("imagenet", params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["sample", "imagenet"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_command_prints_yaml_that_is_the_recipe(
    name: str, env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, ["recipe", name, "--env", env, "--params", "seed=3"])
    assert done.exit_code == 0, done.output
    params = parameters(env, "seed=3")
    assert yaml.safe_load(done.stdout)[name] == recipe(params, name)
    marked = {line.split(":")[0].strip() for line in done.stdout.splitlines()[2:] if " # " in line}
    own = {k for k, v in recipe(params, name).items() if v != params["training"][k]}
    assert marked == own


def test_an_unknown_recipe_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(ROOT))
    done = CliRunner().invoke(main, ["recipe", "sld_stage1"])
    assert done.exit_code == 2
    assert "did you mean 'ssld_stage1'" in done.stderr
