"""The reference of the parameters: complete, in words, and the page as it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from hgnetv2_pipeline.commands.main import main
from hgnetv2_pipeline.commands.recipe import read_parameters
from hgnetv2_pipeline.project.parameter_reference import list_parameters, value_of
from hgnetv2_pipeline.project.params import RECIPES
from parameter_page import PAGE, page

# Blocks whose names are the user's own.
SETTINGS = ("training.augment", "export.gate.max_drop", "mlflow.tags")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in (*RECIPES, "this_run"):
            continue
        if isinstance(value, dict) and name not in SETTINGS:
            yield from leaves(value, f"{name}.")
        else:
            yield name


def test_every_value_of_a_run_is_in_it_and_each_has_a_meaning() -> None:
    values = read_parameters("sample")
    names = [each.name for each in list_parameters()]
    assert len(set(names)) == len(names)
    within_null = {name for name in names if name.startswith("training.loss.asymmetric.")}
    assert set(leaves(values)) == set(names) - within_null
    assert [each.name for each in list_parameters() if not each.meaning] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mining.k", "whole number > 0 and <= 10,000,000,000, or null"),
        ("training.amp", "off, bf16, fp16"),
        ("training.ema_decay", "number > 0 and < 1, or null"),
        ("training.optimizer.betas", "[number >= 0 and < 1, number >= 0 and < 1], or null"),
        ("training.loss.asymmetric", "a block, or null"),
        ("export.gate.max_drop", "name: number >= 0 and <= 100"),
        ("plan_only", "true or false"),
    ],
)
def test_what_a_parameter_may_be_in_words(name: str, kind: str) -> None:
    assert next(each.kind for each in list_parameters() if each.name == name) == kind


def test_the_page_of_the_documentation_is_as_it_would_be_made() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/parameter_page.py"


def test_the_command_shows_value_kind_and_meaning() -> None:
    ran = CliRunner().invoke(main, ["parameters", "mining.k"])
    assert ran.exit_code == 0
    assert ran.stdout.split("\n")[0] == "mining.k = 60"
    assert "images per class" in ran.stdout


@pytest.mark.parametrize("text", ["training.lr", "ssld_stage2.lr"])
def test_a_value_that_a_training_has_for_itself_is_shown_beside(text: str) -> None:
    said = CliRunner().invoke(main, ["parameters", text]).stdout.split("\n")
    assert said[0] == "training.lr = 0.5"
    assert "ssld_stage2.lr = 0.0002" in said
    values = read_parameters("sample")
    alike = [name for name in RECIPES if value_of(values, name)["lr"] == 0.5]
    assert not [line for line in said if line.startswith(tuple(f"{n}.lr =" for n in alike))]


def test_as_json_it_is_one_object_per_parameter_with_the_value_of_a_run() -> None:
    ran = CliRunner().invoke(main, ["parameters", "training.l", "--env", "imagenet", "--json"])
    rows = {row["name"]: row["value"] for row in json.loads(ran.stdout)}
    values = read_parameters("imagenet")
    assert rows == {name: value_of(values, name) for name in rows}
    assert rows["training.lr"] == 0.5


def test_a_text_that_is_in_no_name_is_an_error_that_says_how_to_see_all() -> None:
    ran = CliRunner().invoke(main, ["parameters", "xyzzy"])
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "hgnetv2 parameters lists" in ran.stderr
