"""``hgnetv2 recipe``: the whole recipe of a training, its own values marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hgnetv2_pipeline.commands.weights import project_folder
from hgnetv2_pipeline.printable import Lines, echo, lines, printable


@click.command(short_help="Print the whole recipe of a training, its own values marked.")
@click.argument("name")
@click.option("--env", "environment", default="sample", show_default=True,
              help="The environment: a folder of conf/.")  # fmt: skip
@click.option("--params", default="", help="As for kedro run: KEY=VALUE,...")
def recipe(name: str, environment: str, params: str) -> None:
    """Print the whole recipe of a training: train, ssld_stage1, ssld_stage2, finetune, or
    train_teacher.recipe.

    \b
    hgnetv2 recipe ssld_stage1 --env imagenet
    hgnetv2 recipe train_teacher.recipe --env cats
    hgnetv2 recipe ssld_stage1 --params recipe=short,ssld_stage1.lr=0.1
    """
    from hgnetv2_pipeline.errors import unknown_name
    from hgnetv2_pipeline.project.params import RECIPES

    if name not in RECIPES:
        raise unknown_name("recipe of a training", name, RECIPES, "hgnetv2 recipe NAME")
    values = read_parameters(environment, params)
    whole: Any = values
    for part in name.split("."):
        whole = whole[part]
    echo(as_yaml(name, whole, values["training"], Path("conf") / environment))


def read_parameters(environment: str, params: str = "") -> dict[str, Any]:
    """All parameters of an environment, ``--params`` laid over them, as a run would have them."""
    from hgnetv2_pipeline.project.config_loader import LOADER_ARGUMENTS, ProjectConfigLoader
    from hgnetv2_pipeline.project.given import read_params

    project = project_folder()
    loader = ProjectConfigLoader(
        project / "conf",
        env=environment,
        runtime_params=read_params(params),
        project=project,
        **LOADER_ARGUMENTS,
    )
    return loader["parameters"]


def as_yaml(name: str, whole: Mapping[str, Any], common: Mapping[str, Any], place: Path) -> Lines:
    """The recipe as YAML; a value that is not the one all trainings have in common is marked."""
    found = [f"# {name} of {place}; marked: what differs from training", f"{name}:"]
    for key, value in whole.items():
        mark = "" if value == common[key] else f"   # training: {flow(common[key])}"
        found.append(f"  {key}: {flow(value)}{mark}")
    return lines(*map(printable, found))


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return str(text).removesuffix("\n").removesuffix("\n...")
