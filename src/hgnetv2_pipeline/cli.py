"""Kedro's command line for this project: ``kedro run`` with exit codes and one-line errors.

Exit codes: 0 ok, 2 bad parameters, 3 bad data, 4 bad weights, 28 disk full, 75 stopped and
resumable by the same command.
"""

from __future__ import annotations

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

_log = logging.getLogger(__name__)
_KEDRO_LOGGERS = ("pipeline.node", "runner.sequential_runner", "runner.runner")


@click.group(name="hgnetv2_pipeline")
def cli() -> None:
    """Commands of this project."""


def _run(debug: bool, **options: Any) -> Any:
    """Run a pipeline.

    \b
    kedro run                                                the whole chain on the sample
    kedro run --pipeline ssld_stage1 --params variant=b4     one pipeline and what it needs
    kedro run --env NAME                                     your own images (hgnetv2 init NAME)
    kedro run --pipeline evaluation --params model=train/b0/seed=0,split=test
    kedro run --params ssld_stage1.lr=0.1,run=lr01           another recipe beside the first
    kedro run --params redo=mining                           make finished results again
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

    use_project_logging(str(conf_source))
    check_names(options, pipelines)
    named = options["pipelines"]
    options["pipelines"] = chain_of(options, load)
    if options["pipelines"] == [SUPERVISED]:
        _log.info(
            "there is no pool (data.pool), and so no mining and no SSLD: labelled images alone"
        )
        if named:
            options["tags"] = sorted(upstream(pipelines[SUPERVISED], named))
    elif options["pipelines"] and not options["tags"]:
        options["tags"] = needed_tags(options["pipelines"], pipelines, options["params"], load)
    with _report_once(debug):
        return kedro_run.callback(**options)  # type: ignore[misc]


class _Run(click.Command):
    """A command whose errors are one line and an exit code."""

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


def _option(option: click.Parameter) -> click.Parameter:
    """Kedro's option; ``--params`` keeps its text, which read_params understands."""
    if option.name != "params":
        return option
    assert isinstance(option, click.Option)
    return click.Option(
        ["--params"], type=click.UNPROCESSED, default="", help=option.help, metavar="KEY=VALUE,..."
    )


run = click.command(
    name="run",
    cls=_Run,
    params=[
        *map(_option, kedro_run.params),
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
