"""Kedro's command line for this project: ``kedro run`` with exit codes and one-line errors.

Exit codes: 0 ok, 2 bad parameters, 3 bad data, 4 bad weights, 28 disk full, 75 stopped and
resumable by the same command.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines, settings
from kedro.utils import find_kedro_project
from kedro_viz.launchers.cli.main import viz as plugin_viz
from kedro_viz.launchers.cli.main import viz_cli

from hgnetv2_pipeline.exits import explain
from hgnetv2_pipeline.printable import echo, lines, show_tracebacks
from hgnetv2_pipeline.progress import SHOWN
from hgnetv2_pipeline.project.claims import claims
from hgnetv2_pipeline.project.config_loader import ProjectConfigLoader
from hgnetv2_pipeline.project.logs import use_project_logging
from hgnetv2_pipeline.project.node_selection import (
    SUPERVISED,
    chain_of,
    check_names,
    needed_tags,
    upstream,
)
from hgnetv2_pipeline.stopping import interrupted_by_signal

_log = logging.getLogger(__name__)
_KEDRO_LOGGERS = ("pipeline.node", "runner.sequential_runner", "runner.runner")


@click.group(name="hgnetv2_pipeline")
def cli() -> None:
    """Commands of this project."""


def _run(debug: bool, verbose: bool, **options: Any) -> Any:
    """Run a pipeline.

    \b
    kedro run                                      the whole chain on the sample
    kedro run --env NAME                           your own (hgnetv2 init NAME)
    kedro run --params plan_only=true              what it will cost
    kedro run --pipeline train --params variant=b4      a pipeline and its needs
    kedro run --pipeline evaluation --params model=train/b0/seed=0,split=test
    kedro run --params ssld_stage1.lr=0.1,run=lr01      a run beside the first
    kedro run --params redo=mining                 make finished results again
    """
    show_tracebacks()
    from hgnetv2_pipeline.project.given import read_params

    options["params"] = read_params(options["params"])
    if options["pipeline"] and not options["pipelines"]:
        # The documentation and the card say --pipeline; Kedro warns and prefers --pipelines.
        options |= {"pipelines": [options["pipeline"]], "pipeline": ""}
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    conf_source = options["conf_source"] or project / settings.CONF_SOURCE

    def load() -> ProjectConfigLoader:
        return ProjectConfigLoader(
            conf_source,
            env=options["env"],
            runtime_params=options["params"],
            project=project,
            **settings.CONFIG_LOADER_ARGS,
        )

    use_project_logging(str(conf_source), verbose=verbose)
    check_names(options, pipelines)
    named = options["pipelines"]
    options["pipelines"] = chain_of(options, load)
    if options["pipelines"] == [SUPERVISED]:
        _log.log(
            SHOWN,
            "there is no pool (data.pool), and so no mining and no SSLD: labelled images alone",
        )
        if named:
            options["tags"] = sorted(upstream(pipelines[SUPERVISED], named))
    elif options["pipelines"] and not options["tags"]:
        options["tags"] = needed_tags(options["pipelines"], pipelines, options["params"], load)
    with _report_once(debug):
        return kedro_run.callback(**options)  # type: ignore[misc]


class _Run(click.Command):
    """A command whose errors are one line and an exit code, and whose help ends with the names of
    pipelines and parameters."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """What ``--pipeline`` and ``--params`` can name."""
        from hgnetv2_pipeline.project.params import RunParams

        fields = RunParams.model_fields
        with formatter.section("Pipelines (--pipeline)"):
            formatter.write_text(", ".join(name for name in pipelines if not name.startswith("__")))
        with formatter.section("Parameters (--params)"):
            formatter.write_dl(
                [(name, field.description) for name, field in fields.items() if field.description]
            )
        blocks = [f"{name}.*" for name, field in fields.items() if not field.description]
        with formatter.section("Blocks of parameters (hgnetv2 parameters NAME)"):
            formatter.write_text(", ".join(blocks))

    def invoke(self, context: click.Context) -> Any:
        try:
            return self.invoke_openly(context)
        except Exception as error:
            if context.params["debug"]:
                raise
            code, message = explain(error, debug="kedro run --debug")
            if code == 1 and isinstance(error, click.ClickException):
                code, message = error.exit_code, lines(error.format_message())
            echo(message, err=True, colour="red" if code != 75 else "yellow")
            sys.exit(code)

    def invoke_openly(self, context: click.Context) -> Any:
        """The same, with its errors as the exceptions they are."""
        try:
            with interrupted_by_signal():
                return super().invoke(context)
        finally:
            claims.end()


@contextmanager
def _report_once(debug: bool) -> Iterator[None]:
    """Keep Kedro's own words on a failed node, and how to go on, off the terminal.

    The one line of ``explain`` says what failed, and the same command goes on by itself.
    """
    if debug:
        yield
        return

    def quiet(record: logging.LogRecord) -> bool:
        return not (
            record.msg.startswith("Node %s failed")
            or "nodes that have not run" in record.msg
            or record.msg.startswith(("No nodes ran", "Using synchronous mode"))
        )

    loggers = [logging.getLogger(f"kedro.{name}") for name in _KEDRO_LOGGERS]
    for logger in loggers:
        logger.addFilter(quiet)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(quiet)


_run.__name__ = "run"


def _option(original: click.Parameter) -> click.Parameter:
    """Kedro's option with what is so here: ``--params`` keeps its text, which read_params
    understands, and runners that add nothing to nodes of many processes are not offered."""
    if original.name == "params":
        return click.Option(
            ["--params"], type=click.UNPROCESSED, default="", metavar="KEY=VALUE,...",
            help="Parameters in place of those in conf/, with dots inside blocks and + between the "
            "parts of a list. Their names are below.",
        )  # fmt: skip
    option = copy.copy(original)
    assert isinstance(option, click.Option)
    if option.name == "env":
        option.help = (
            "The environment, a folder of conf/: sample unless given; hgnetv2 init makes your own."
        )
        option._custom_shell_complete = _environments
    elif option.name in ("pipeline", "pipelines"):
        option.help = _PIPELINE_HELP[option.name]
        option._custom_shell_complete = _pipelines
    elif option.name in ("runner", "runner_params", "is_async"):
        option.hidden = True
    return option


_PIPELINE_HELP = {
    "pipeline": "One pipeline and what it needs; the whole chain unless given.",
    "pipelines": "Several of them, with commas.",
}


def _pipelines(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    return [name for name in pipelines if name.startswith(begun) and not name.startswith("__")]


def _environments(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    conf = (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE
    found = (path.name for path in sorted(conf.iterdir()) if path.is_dir())
    return [name for name in found if name.startswith(begun) and name not in ("base", "local")]


run = click.command(
    name="run",
    cls=_Run,
    params=[
        *map(_option, kedro_run.params),
        click.Option(["-v", "--verbose"], is_flag=True, help="Show the details of the log too."),
        click.Option(["--debug"], is_flag=True, help="Show the whole traceback of an error."),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)(_run)
cli.add_command(run)


# Kedro prefers a plugin's command to the project's one of that name.
viz_cli.commands.pop("viz", None)


@cli.command(
    name="viz",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def viz(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Kedro-Viz, which asks nothing of the network.

    \b
    kedro viz                                    the pipelines in the browser
    kedro viz build --include-previews           a static site in build/
    """
    from hgnetv2_pipeline.project.viz import use_ours

    use_ours()
    plugin_viz.main(list(arguments), prog_name="kedro viz", parent=context.parent)
