"""``hgnetv2 parameters``: what can be set, what it may be, what it means and what it is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from hgnetv2_pipeline.commands.recipe import flow, read_parameters
from hgnetv2_pipeline.printable import Lines, echo, json_text, lines

if TYPE_CHECKING:
    from hgnetv2_pipeline.project.parameter_reference import Parameter

_WIDEST = 100


@click.command(short_help="List the parameters of kedro run: value, limits, meaning.")
@click.argument("text", default="")
@click.option("--env", "environment", default="sample", show_default=True,
              help="The environment whose values are shown: a folder of conf/.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object per parameter.")
def parameters(text: str, environment: str, as_json: bool) -> None:
    """List the parameters whose names contain TEXT, or all: value, kind and limits, meaning.

    What training.NAME says holds for every training, ssld_stage1.NAME for that one; where a
    training has a value of its own it is shown beside it, and hgnetv2 recipe prints all of one.

    \b
    hgnetv2 parameters
    hgnetv2 parameters mining. --env cats
    hgnetv2 parameters ssld_stage1.lr
    """
    from hgnetv2_pipeline.errors import ParameterError
    from hgnetv2_pipeline.project import parameter_reference as reference

    found = [
        each
        for each in reference.list_parameters()
        if any(text in name for name in (each.name, *reference.recipe_names(each.name)))
    ]
    if not found:
        raise ParameterError(
            f"no parameter has '{text}' in its name; hgnetv2 parameters lists all of them"
        )
    values = read_parameters(environment)
    if as_json:
        echo(
            json_text(
                [
                    vars(each)
                    | {"value": reference.value_of(values, each.name)}
                    | {"recipes": reference.own_recipe_values(values, each.name)}
                    for each in found
                ],
                indent=1,
            )
        )
    else:
        echo(lines(*(_entry(each, values) for each in found)))


def _entry(parameter: Parameter, values: Mapping[str, Any]) -> Lines:
    """Name and value, the values that single trainings have instead, and below them, indented,
    what it may be and what it means."""
    import shutil

    from hgnetv2_pipeline.project import parameter_reference as reference

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    about = f"{parameter.meaning} ({parameter.kind})"
    below = click.wrap_text(about, width, "    ", "    ").split("\n")
    own = reference.own_recipe_values(values, parameter.name)
    return lines(
        *(
            f"{name} = {flow(value)}"
            for name, value in [
                (parameter.name, reference.value_of(values, parameter.name)),
                *own.items(),
            ]
        ),
        *below,
    )
