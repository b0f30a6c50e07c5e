"""``hgnetv2 parameters``: what can be set, what it may be, what it means and what it is now."""

from __future__ import annotations

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

    What training.NAME says holds for every training, ssld_stage1.NAME for that one; hgnetv2 recipe
    prints the whole of one.

    \b
    hgnetv2 parameters
    hgnetv2 parameters mining. --env cats
    hgnetv2 parameters batch_size
    """
    from hgnetv2_pipeline.errors import ParameterError
    from hgnetv2_pipeline.project import parameter_reference as reference

    found = [each for each in reference.list_parameters() if text in each.name]
    if not found:
        raise ParameterError(
            f"no parameter has '{text}' in its name; hgnetv2 parameters lists all of them"
        )
    values = read_parameters(environment)
    shown = [(each, reference.value_of(values, each.name)) for each in found]
    if as_json:
        echo(json_text([vars(each) | {"value": value} for each, value in shown], indent=1))
    else:
        echo(lines(*(_entry(each, value) for each, value in shown)))


def _entry(parameter: Parameter, value: Any) -> Lines:
    """Name and value, and below them, indented, what it may be and what it means."""
    import shutil

    width = min(shutil.get_terminal_size().columns, _WIDEST)
    about = f"{parameter.meaning} ({parameter.kind})"
    below = click.wrap_text(about, width, "    ", "    ").split("\n")
    return lines(f"{parameter.name} = {flow(value)}", *below)
